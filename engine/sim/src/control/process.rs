//! The process: it starts, and it dies.

use super::kms::{Dek, NAMES, SimKms, record};
use super::plan::{ControlPlan, PRINCIPALS};
use super::shards::{Known, SimShard};
use super::{Event, World};
use crate::oracle::{Checked, Violation, ensure};
use crate::schedule::Scheduled;
use keyway_node::catalogue::{Catalogue, ChangeAuthor, NewKeyspace, SettingsChange};
use keyway_node::control::hot_keys::HotKeys;
use keyway_node::control::{Control, KmsSet, Settings};
use keyway_node::policy::{Owner, Principal};
use keyway_node::time::Moment;
use keyway_protocol::Grants;
use std::collections::BTreeSet;

const CRASH: u64 = 101;
/// The user that the server runs as.
pub(super) const OPERATOR: u32 = 500;

/// A node that was set up: its keyspaces are divided among the KMSes, and every principal may use them.
pub(super) fn first_catalogue(plan: &ControlPlan, now: Moment) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for number in 0..plan.keyspaces {
        let keyspace = catalogue.next_id();
        let kms = number as usize % NAMES.len();
        let dek = Dek {
            keyspace,
            generation: 1,
            made: u64::from(keyspace),
        };
        let grants: Vec<String> = (0..PRINCIPALS)
            .map(|who| format!("allow:uid:{}", uid_of(who)))
            .collect();
        let grants = grants.iter().map(|name| (name.as_str(), "sign"));
        let change = SettingsChange::parse(grants).expect("grants are valid");
        let new = NewKeyspace {
            name: &format!("keyspace-{number}"),
            change: &change,
            kms: NAMES[kms],
            record: &record(kms, dek),
        };
        let made = catalogue.create(new, &ChangeAuthor::server(now));
        made.expect("the keyspace is new");
    }
    catalogue
}

pub(super) fn uid_of(who: u32) -> u32 {
    1_000 + who
}

pub(super) fn control(
    plan: &ControlPlan,
    now: Moment,
    catalogue: Catalogue,
    kms: &[SimKms; 2],
    incarnation: u64,
) -> Control {
    let settings = Settings {
        shards: plan.shards,
        owner: Owner {
            dev: false,
            uid: OPERATOR,
        },
        ticket_key: plan.seed ^ (incarnation << 40),
        page_key_ids: false,
    };
    let status = NAMES.iter().zip(kms);
    let status = status.map(|(name, kms)| ((*name).to_owned(), kms.status()));
    let kms = KmsSet {
        status: status.collect(),
        default: NAMES[0].to_owned(),
        without_secret: BTreeSet::new(),
    };
    let hot_keys = HotKeys::new(vec![Vec::new(); usize::from(plan.shards)]);
    Control::new(now, settings, catalogue, kms, hot_keys)
}

impl World<'_> {
    pub(super) fn boot(&mut self) -> Checked {
        let now = self.moment();
        let text = self.disk.durable.text();
        let mut catalogue = Catalogue::parse(&text).map_err(|error| Violation {
            invariant: 26,
            what: format!("what was written cannot be read: {error}"),
        })?;
        catalogue.resume(now);
        self.control = control(self.plan, now, catalogue, &self.kms, self.incarnation);
        let changes = self.control.keyspaces_at_start();
        for _ in 0..self.plan.shards {
            let mut shard = SimShard::default();
            for change in &changes {
                shard
                    .keyspaces
                    .insert(change.id, Known::new(change.clone()));
            }
            self.shards.push(shard);
        }
        self.control.handle_start(now);
        self.effects("start")
    }

    pub(super) fn crash(&mut self, number: u64) -> Checked {
        self.trace.note(self.now, || "the process dies".into());
        let mut dice = self.dice(CRASH, number);
        if let Some((_, catalogue)) = self.disk.writing.take()
            && dice.one_in(2)
        {
            self.disk.durable = catalogue;
        }
        // Some of the writes in flight have reached the logs.
        for shard in 0..self.shards.len() {
            let known = std::mem::take(&mut self.shards[shard].keyspaces);
            let seals = known
                .into_values()
                .flat_map(|known| known.seals.into_values());
            let kept: Vec<Dek> = seals.filter(|_| dice.one_in(2)).collect();
            self.logs[shard].extend(kept);
        }
        self.disk.before = None;
        self.incarnation += 1;
        self.queue.clear();
        self.lanes.clear();
        self.shards.clear();
        for kms in &mut self.kms {
            kms.restart();
        }
        self.check_blobs()?;
        for (keyspace, book) in &mut self.books.keyspaces {
            let is_locked = self
                .disk
                .durable
                .keyspace(*keyspace)
                .is_ok_and(|keyspace| keyspace.locked);
            ensure!(
                26,
                is_locked || !book.is_lock_written,
                "keyspace {keyspace}: its LOCK was answered OK, and the restart undoes it"
            );
            for who in book
                .withdrawn
                .iter()
                .filter_map(|(who, is)| is.then_some(*who))
            {
                let durable = self.disk.durable.keyspace(*keyspace).ok();
                let rights =
                    durable.map(|keyspace| keyspace.policy.rights(Principal::Uid(uid_of(who))));
                ensure!(
                    26,
                    rights.is_none_or(|rights| !rights.intersects(Grants::SIGN)),
                    "keyspace {keyspace}: a withdrawal from {who} was answered OK, and the restart undoes it"
                );
            }
            book.forget_process(is_locked);
        }
        self.books.forget_process();
        for (keyspace, generation) in &self.books.rotated {
            let durable = self.disk.durable.keyspace(*keyspace).ok();
            ensure!(
                28,
                durable.is_some_and(|keyspace| keyspace.generation() >= *generation),
                "keyspace {keyspace}: ROTATE was answered with {generation}, and the restart undoes it"
            );
        }
        self.now += dice.range(1_000, 2_000_000);
        self.boot()
    }

    /// Every blob opens: the catalogue that is durable has its DEK.
    pub(super) fn check_blobs(&self) -> Checked {
        for (shard, log) in self.logs.iter().enumerate() {
            for blob in log {
                let keyspace = self.disk.durable.keyspace(blob.keyspace);
                let deks = keyspace.map(|keyspace| keyspace.deks()).unwrap_or_default();
                let mut deks = deks.iter().filter_map(|it| super::kms::read(&it.record));
                ensure!(
                    28,
                    deks.any(|(_, dek)| dek == *blob),
                    "shard {shard} has a blob under {blob:?}, which is not among the DEKs in keyspaces.json"
                );
            }
        }
        Ok(())
    }

    pub(super) fn happen(&mut self, scheduled: Scheduled<Event>) -> Checked {
        let place = match &scheduled.event {
            Event::ToShard { shard, .. }
            | Event::Wiped { shard, .. }
            | Event::Landed { shard, .. } => Some(*shard),
            _ => None,
        };
        if let Some(shard) = place {
            let until = self.shards[usize::from(shard)].stalled_until;
            if until > self.now {
                self.queue.push(Scheduled {
                    at: until,
                    ..scheduled
                });
                return Ok(());
            }
        }
        match scheduled.event {
            Event::ToControl { from, message } => self.hear_shard(from, message),
            Event::ToShard { shard, message } => self.hear_control(shard, message),
            Event::KmsAnswers { call, answer } => self.hear_kms(call, answer),
            Event::Replaced(write) => self.replaced(write),
            Event::Saved { write, result } => self.saved(write, result),
            Event::HotKeysSaved => {
                self.control.handle_hot_keys_saved();
                self.effects("hot keys saved")
            }
            Event::Wiped { shard, keyspace } => self.wiped(shard, keyspace),
            Event::Landed {
                shard,
                keyspace,
                seal,
            } => self.landed(shard, keyspace, seal),
            Event::MustBeLocked { keyspace, lock } => self.check_locked(keyspace, lock),
            Event::MustBeWithdrawn { token } => self.check_withdrawn(token),
            Event::MustBeAnswered { token } => self.check_answered(token),
        }
    }
}
