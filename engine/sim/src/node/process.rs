//! The process: it starts, and it dies. What is on its disks outlives it.

use super::books::Books;
use super::clock::Clock;
use super::coverage::NodeCoverage;
use super::exporter::Exporter;
use super::label::Label;
use super::log::{LogMood, ShardLog};
use super::plan::{KEYS, Key, Plan, USERS};
use super::port::{Shared, SimPort};
use super::pressure::Pressure;
use super::site::Site;
use super::sockets::Socket;
use super::terms::Terms;
use super::{Disk, NodeOutcome, World, moment};
use crate::control::kms::{Dek, NAMES, SimKms, record};
use crate::control::plan::DiskMood;
use crate::dice::Dice;
use crate::disk::SimDisk;
use crate::oracle::{Checked, Violation, ensure};
use crate::trace::Trace;
use keyway_core::Limits;
use keyway_node::catalogue::{Catalogue, ChangeAuthor, NewKeyspace, SettingsChange};
use keyway_node::control::hot_keys::HotKeys;
use keyway_node::control::{Control, KmsSet, Settings};
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::policy::{Owner, Principal};
use keyway_node::port::{Name, Sealed};
use keyway_node::shard::{Shard, Site as Place, Start};
use keyway_node::time::Moment;
use keyway_protocol::{Grants, Router};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;

const CRASH: u64 = 208;
const CLOCK: u64 = 209;
const LOG: u64 = 210;
const LIMITS: u64 = 211;
const FILL: u64 = 212;
/// The user that the server runs as.
pub(super) const OPERATOR: u32 = 500;
const CONNECTIONS_MAX: usize = 64;

pub(super) fn uid_of(user: Option<u32>) -> u32 {
    user.map_or(OPERATOR, |who| 1_000 + who)
}

/// A node that was set up: its keyspaces are divided among the KMSes, and every user may sign.
fn first_catalogue(plan: &Plan, now: Moment) -> Catalogue {
    let mut catalogue = Catalogue::default();
    for number in 0..plan.keyspaces + plan.unused {
        let keyspace = catalogue.next_id();
        let kms = number as usize % NAMES.len();
        let dek = Dek {
            keyspace,
            generation: 1,
            made: u64::from(keyspace),
        };
        let grants = (0..USERS).map(|who| format!("allow:uid:{}", uid_of(Some(who))));
        let grants = grants.map(|name| (name, "sign".to_owned()));
        let settings = plan.settings.iter();
        let settings = settings.map(|(name, value)| ((*name).to_owned(), value.to_string()));
        let lines: Vec<_> = grants.chain(settings).collect();
        let lines = lines
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let change = SettingsChange::parse(lines).expect("grants and settings are valid");
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

fn owner() -> Owner {
    Owner {
        dev: false,
        uid: OPERATOR,
    }
}

fn control(
    seed: u64,
    shards: u16,
    now: Moment,
    catalogue: Catalogue,
    kms: &[SimKms; 2],
) -> Control {
    let settings = Settings {
        shards,
        owner: owner(),
        ticket_key: seed,
        page_key_ids: false,
    };
    let status = NAMES.iter().zip(kms);
    let status = status.map(|(name, kms)| ((*name).to_owned(), kms.status()));
    let kms = KmsSet {
        status: status.collect(),
        default: NAMES[0].to_owned(),
        without_secret: BTreeSet::new(),
    };
    let hot_keys = HotKeys::new(vec![Vec::new(); usize::from(shards)]);
    Control::new(now, settings, catalogue, kms, hot_keys)
}

pub(super) fn router(shards: u16) -> Router {
    Router::new([7; 16], shards).expect("there are shards")
}

/// The logs of a process that starts; those of another number of shards are moved first.
fn start_logs(platter: &mut SimDisk, now: u64, shards: u16) -> Vec<ShardLog> {
    let router = router(shards);
    let route = |keyspace, key_id: &[u8]| usize::from(router.shard_of(keyspace, key_id));
    let logs = platter.start(now, shards, route).into_iter();
    logs.map(|log| Rc::new(RefCell::new(log))).collect()
}

impl<'a> World<'a> {
    pub(super) fn new(plan: &'a Plan, trace: Trace) -> Self {
        let now = 1_000_000;
        let durable = first_catalogue(plan, moment(now));
        let kms = [SimKms::new(0), SimKms::new(1)];
        let control = control(plan.seed, plan.shards, moment(now), durable.clone(), &kms);
        let mut platter = SimDisk::new(plan.seed ^ LOG);
        platter.set_mood(LogMood::Good.disk(100));
        let mut world = Self {
            plan,
            now,
            sequence: 0,
            incarnation: 0,
            queue: BinaryHeap::new(),
            lanes: BTreeMap::new(),
            control,
            made: 1_000,
            sites: Vec::new(),
            logs: start_logs(&mut platter, now, plan.shards),
            platter,
            log_watches: vec![None; usize::from(plan.shards)],
            kms,
            disk: Disk {
                durable,
                before: None,
                writing: None,
                mood: DiskMood::Good,
                takes_us: 1_000,
            },
            sockets: plan.clients.iter().map(|_| Socket::default()).collect(),
            shared: Shared::default(),
            pressure: Pressure::default(),
            exporter: Exporter::default(),
            books: Books::default(),
            is_calm: false,
            outcome: NodeOutcome {
                coverage: NodeCoverage::default(),
                ..NodeOutcome::default()
            },
            trace,
        };
        world.fill();
        world
    }

    /// Some keys are there from the start.
    fn fill(&mut self) {
        let mut dice = Dice::of(self.plan.seed, FILL, 0, 0);
        for keyspace in 1..=self.plan.keyspaces {
            for number in (0..KEYS).filter(|_| !dice.one_in(3)) {
                let key = Key { keyspace, number };
                let label = Label {
                    dek: Dek {
                        keyspace,
                        generation: 1,
                        made: u64::from(keyspace),
                    },
                    version: 1,
                    oldest: 1,
                    revoked: 0,
                    algorithm: key.algorithm(),
                    not_after: 0,
                };
                let log = &self.logs[usize::from(self.owner_of(key))];
                let key_id = key.id();
                let name = Name {
                    keyspace,
                    key_id: &key_id,
                };
                let sealed = Sealed {
                    version: 1,
                    bytes: label.seal(&key_id),
                };
                log.borrow().put_now(name, sealed);
                let book = self.books.keys.entry(key).or_default();
                book.generates_sent = 1;
                book.learn(0, 1);
            }
        }
    }

    /// The process starts, with as many shards as there are logs.
    pub(super) fn boot(&mut self) -> Checked {
        let now = self.moment();
        let text = self.disk.durable.text();
        let mut catalogue = Catalogue::parse(&text).map_err(|error| Violation {
            invariant: 26,
            what: format!("what was written cannot be read: {error}"),
        })?;
        catalogue.resume(now);
        let shards = self.logs.len() as u16;
        let key = self.plan.seed ^ (self.incarnation << 40);
        self.control = control(key, shards, now, catalogue, &self.kms);
        let changes = self.control.keyspaces_at_start();
        for change in &changes {
            let at = (change.id, change.revision);
            self.books
                .of_control
                .tickets
                .insert((change.id, change.ticket));
            self.books.of_control.told.insert(at, change.clone());
        }
        for number in 0..shards {
            let site = self.start_shard(number, shards, &changes);
            self.sites.push(site);
            self.wake_by(number, self.now);
        }
        self.control.handle_start(now);
        self.control_effects()
    }

    fn start_shard(&self, number: u16, shards: u16, changes: &[KeyspaceChange]) -> Site {
        let dice = self.dice(CLOCK, u64::from(number));
        let lost_one_in = if self.is_calm {
            0
        } else {
            self.plan.lost_one_in
        };
        let clock = Rc::new(Clock::new(self.now, dice, lost_one_in));
        let port = SimPort {
            shard: number,
            clock: Rc::clone(&clock),
            log: Rc::clone(&self.logs[usize::from(number)]),
            shared: self.shared.clone(),
            seen: RefCell::default(),
        };
        let start = Start {
            site: Place {
                index: number,
                router: router(shards),
                ports: (0..shards).map(|index| 7_421 + index).collect(),
            },
            limits: self.limits(number, shards),
            seed: self.plan.seed ^ u64::from(number),
            owner: owner(),
            connections_max: CONNECTIONS_MAX,
            hot_keys: Vec::new(),
        };
        let mut shard = Shard::new(start, port).expect("the limits are valid");
        shard.boot(changes);
        let terms = changes.iter();
        let terms: BTreeMap<_, _> = terms.map(|it| (it.id, Terms::new(it.clone()))).collect();
        Site::new(shard, clock, terms)
    }

    /// Small, so that they are reached.
    fn limits(&self, shard_index: u16, shard_count: u16) -> Limits {
        let mut dice = Dice::of(self.plan.seed, LIMITS, 0, 0);
        Limits {
            shard_index,
            shard_count,
            entries_max: 64,
            key_bytes_max: dice.pick(&[250, 1_000, 10_000]),
            flights_max: 16,
            on_demand_reserve: 4,
            waiters_max: 256,
            negatives_max: 8,
            revoked_max: dice.pick(&[1, 8]),
            ..Limits::default()
        }
    }

    /// The process dies, and starts again with so many shards.
    pub(super) fn crash(&mut self, number: u64, shards: u16) -> Checked {
        self.trace.note(self.now, || {
            format!("the process dies, and starts with {shards} shards")
        });
        let mut dice = self.dice(CRASH, number);
        if let Some((_, catalogue)) = self.disk.writing.take()
            && dice.one_in(2)
        {
            self.disk.durable = catalogue;
        }
        self.disk.before = None;
        self.incarnation += 1;
        self.queue.clear();
        self.lanes.clear();
        self.sites.clear();
        for socket in &mut self.sockets {
            *socket = socket.gone();
        }
        let logs = self.logs.drain(..).filter_map(Rc::into_inner);
        let logs: Vec<_> = logs.map(RefCell::into_inner).collect();
        self.platter.crash(logs, !dice.one_in(3));
        for kms in &mut self.kms {
            kms.restart();
        }
        self.logs = start_logs(&mut self.platter, self.now, shards);
        self.log_watches = vec![None; usize::from(shards)];
        self.books.forget_process(self.now);
        self.exporter = Exporter::default();
        self.check_blobs()?;
        self.check_restart()?;
        self.now += dice.range(1_000, 2_000_000);
        self.boot()
    }

    /// What was answered OK is written.
    fn check_restart(&self) -> Checked {
        for (keyspace, book) in &self.books.keyspaces {
            let durable = self.disk.durable.keyspace(*keyspace).ok();
            ensure!(
                26,
                book.locked.is_none() || durable.is_some_and(|it| it.locked),
                "keyspace {keyspace}: its LOCK was answered OK, and the restart undoes it"
            );
            for who in book.withdrawn.keys() {
                let principal = Principal::Uid(uid_of(Some(*who)));
                let rights = durable.map(|it| it.policy.rights(principal));
                ensure!(
                    26,
                    rights.is_none_or(|rights| !rights.intersects(Grants::SIGN)),
                    "keyspace {keyspace}: a withdrawal from {who} was answered OK, and the restart undoes it"
                );
            }
            self.check_wrapped(*keyspace)?;
            let generation = durable.map_or(0, keyway_node::catalogue::Keyspace::generation);
            ensure!(
                28,
                book.rotated.is_none_or(|(newest, _)| newest <= generation),
                "keyspace {keyspace}: ROTATE was answered {:?}, and the restart undoes it",
                book.rotated
            );
        }
        Ok(())
    }
}
