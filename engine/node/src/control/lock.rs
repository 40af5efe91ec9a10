//! Locks: they act on every shard before the disk is involved, and wait for no KMS.

use std::collections::BTreeSet;

use super::commands::{Answering, Begun};
use super::effect::ControlEffect;
use super::event::Event;
use super::in_force::Settlement;
use super::lease::Lease;
use super::publish::Until;
use super::report::Report;
use super::saver::{acknowledge, settled};
use super::state::{Happens, State};
use super::{Control, Refused};
use crate::catalogue::Edit;
use crate::ids::{Epoch, WorkId};
use crate::messages::Lane;
use crate::policy::Principal;

/// A lock in progress: it completes when every shard has wiped the keyspaces, and the write has succeeded or failed.
pub(super) struct Lock {
    keyspaces: Vec<u32>,
    who: Principal,
    answering: Answering,
    is_wiped: bool,
    outcome: Option<Settlement>,
}

impl Control {
    /// Wipes keyspaces on every shard, and keeps them locked until an unlock. Answers when every shard has wiped them;
    /// the status shows whether the lock is written.
    pub(super) fn lock(&mut self, answering: Answering, who: Principal, ids: Vec<u32>) -> Begun {
        match self.begin_lock(&answering, who, &ids) {
            Ok(work) => {
                let lock = Lock {
                    keyspaces: ids,
                    who,
                    answering,
                    is_wiped: false,
                    outcome: None,
                };
                self.works.wait(work, lock);
                Begun::Begun
            }
            Err(refused) => Begun::Answered(answering, Err(refused)),
        }
    }

    fn begin_lock(
        &mut self,
        answering: &Answering,
        who: Principal,
        ids: &[u32],
    ) -> Result<WorkId, Refused> {
        self.may_begin(answering)?;
        if let [id] = ids {
            self.in_force.wanted().keyspace(*id)?;
        }
        let work = self.works.begin();
        let edit = Edit::Lock {
            ids: ids.to_vec(),
            locked: true,
            by: self.by(who),
        };
        let patience = self.patience(answering);
        self.in_force.want(self.now.instant, work, edit, patience)?;
        let wiping: Vec<_> = ids.iter().filter_map(|id| self.wipe(*id)).collect();
        let wiping = wiping
            .into_iter()
            .map(|(id, since)| (id, Until::Wiped(since)));
        self.published.wait(work, wiping);
        self.save();
        Ok(work)
    }

    /// Starts to wipe a locked keyspace on every shard, or joins a wipe in progress. Returns the epoch of the lock, if
    /// anything may be left. Unlocks and unwraps that began earlier are discarded.
    fn wipe(&mut self, id: u32) -> Option<(u32, Epoch)> {
        let governed = self.keyspaces.get_mut(&id)?;
        let epoch = governed.epoch.count_up();
        governed.lease = Lease::default();
        let before = governed.state;
        governed.state = before.after(Happens::Locks(epoch));
        let State::Locking { since } = governed.state else {
            return None;
        };
        if before != governed.state {
            self.publish(id, Lane::Emergency);
        }
        Some((id, since))
    }

    pub(super) fn step_lock(&mut self, id: WorkId, mut lock: Lock, event: Event) {
        match event {
            Event::Acknowledged => {
                lock.is_wiped = true;
                for keyspace in &lock.keyspaces {
                    self.report(Report::Locked {
                        keyspace: *keyspace,
                        who: lock.who,
                    });
                }
            }
            Event::Settled(outcome) => lock.outcome = Some(outcome),
            _ => {}
        }
        match (lock.is_wiped, lock.outcome.take()) {
            (true, Some(outcome)) => {
                let answer = settled(outcome).and_then(|settled| acknowledge(settled, Vec::new()));
                self.answer(lock.answering, answer);
            }
            (_, outcome) => {
                lock.outcome = outcome;
                self.works.wait(id, lock);
            }
        }
    }

    /// Checks whether a keyspace is wiped everywhere, after a shard has wiped it or has stopped.
    pub(super) fn check_wiping(&mut self, id: u32) {
        let Some(governed) = self.keyspaces.get(&id) else {
            return;
        };
        if let State::Locking { since } = governed.state
            && self.published.is(id, Until::Wiped(since))
        {
            self.happens(id, Happens::Wiped(since));
        }
    }

    /// Makes a KMS wipe its key, PIN or token, and locks the keyspaces that it wraps. Answers when every shard has wiped
    /// them.
    pub(super) fn lock_kms(&mut self, answering: Answering, who: Principal, kms: &str) -> Begun {
        if let Err(failure) = self.kms.get(kms) {
            return Begun::Answered(answering, Err(failure.refusal()));
        }
        // First, since it depends on neither disk nor shards.
        self.forget(kms, who);
        let of_it = self.keyspaces_where(|of| of == kms);
        self.lock_each(answering, who, of_it)
    }

    /// Locks every KMS and every keyspace.
    pub(super) fn lock_all(&mut self, answering: Answering, who: Principal) -> Begun {
        let all: Vec<String> = self.kms.status.keys().cloned().collect();
        for kms in all {
            self.forget(&kms, who);
        }
        let all = self.keyspaces_where(|_| true);
        self.lock_each(answering, who, all)
    }

    fn forget(&mut self, kms: &str, who: Principal) {
        let kms = kms.to_owned();
        self.effects
            .push_back(ControlEffect::LockKms { kms: kms.clone() });
        self.report(Report::KmsLocked { kms, who });
    }

    /// Returns the keyspaces whose KMS, current or after a pending move, matches.
    fn keyspaces_where(&self, kms_is: impl Fn(&str) -> bool) -> Vec<u32> {
        let (written, wanted) = (self.in_force.written(), self.in_force.wanted());
        let keyspaces = written.iter().chain(wanted.iter());
        let of_it = keyspaces.filter(|(_, keyspace)| kms_is(&keyspace.kms));
        let of_it: BTreeSet<u32> = of_it.map(|(id, _)| id).collect();
        of_it.into_iter().collect()
    }

    fn lock_each(&mut self, answering: Answering, who: Principal, ids: Vec<u32>) -> Begun {
        match ids.is_empty() {
            true => Begun::Answered(answering, Ok(Vec::new())),
            false => self.lock(answering, who, ids),
        }
    }
}
