//! A node without sockets, keys and a clock: the real control thread, the real core with what a
//! shard does for it, the real start and stop.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use keyway_core::Instant as Until;
use keyway_core::{Action, Instant, KeyspaceId, LeaseEvent, Limits, Settings};
use keyway_kms::{
    Initialise, KmsError, NewDek, ProviderState, SecretKey, Share, UnlockNeed, UnlockSecret,
    Unlocked, UnwrappedDek,
};
use keyway_node::catalogue::{By, Catalogue, NewKeyspace, SettingsChange};
use keyway_node::control::hot_keys::HotKeys;
use keyway_node::control::{Control, Settings as ControlSettings};
use keyway_node::ids::{Epoch, Opening, Revision};
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::messages::{
    Command, DekBytes, Lane, Request, ResealPage, ToControl, ToShard, UnlockProgress,
};
use keyway_node::policy::{Owner, Principal};
use keyway_protocol::Status;
use keyway_server::clock;
use keyway_server::control::kms::{Kms, KmsSet};
use keyway_server::control::lanes::{LaneEnds, Lanes, lanes};
use keyway_server::control::link::{ControlLink, FromShard};
use keyway_server::control::{Driver, Means, names_of};
use keyway_server::lifeline::{Lifeline, StopFlag, until_stopped};
use keyway_server::metrics::page::Viewers;
use keyway_server::metrics::snapshot::KmsSnapshot;
use keyway_server::rehydrator::{SealFloors, SealUnderWay};
use keyway_server::shard::leases::{DekShelf, hear_lease, hear_lock};
use shuttle::future::{block_on, yield_now};
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread::{self, JoinHandle};
use tokio::sync::mpsc;

pub const SHARDS: u16 = 2;
pub const KEYSPACE: u32 = 1;

/// Small queues, so that they are often full.
const REQUESTS_MAX: usize = 4;
const EVENTS_MAX: usize = 1;
const EMERGENCIES_MAX: usize = 1;

/// A call of the KMS takes up to this many steps of others.
const STEPS_OF_A_CALL: usize = 40;

/// A blob is on its way into the log for up to this many turns.
const STEPS_OF_A_SEAL: usize = 4;

/// How far the clock goes in a turn. Back-off ends soon this way.
const TURN_US: u64 = 50_000;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flaw {
    None,
    /// What is meant for the second shard goes to the first.
    OneShardOnly,
    /// The second shard never hears of a lock, which is acknowledged all the same.
    LosesLock,
    /// The shards look once whether they are to stop.
    ReadsFlagOnce,
    /// The second shard does not say that it has stopped.
    EndsSilently,
    /// The second shard confirms a seal floor while a blob under an older DEK is on its way.
    ConfirmsEarly,
}

/// How the node is made.
#[derive(Clone, Copy)]
pub struct Plan {
    pub flaw: Flaw,
    /// The KMS never answers.
    pub kms_hangs: bool,
    /// Nothing can be written.
    pub disk_fails: bool,
    /// The second shard's thread ends before it serves.
    pub shard_dies: bool,
}

pub const SOUND: Plan = Plan {
    flaw: Flaw::None,
    kms_hangs: false,
    disk_fails: false,
    shard_dies: false,
};

struct FakeKms {
    hangs: bool,
}

impl FakeKms {
    async fn answer(&self) -> UnwrappedDek {
        for _ in 0..shuttle::rand::thread_rng().gen_range(0..STEPS_OF_A_CALL) {
            yield_now().await;
        }
        if self.hangs {
            std::future::pending::<()>().await;
        }
        UnwrappedDek {
            dek: Arc::new(SecretKey::take(&mut [7; 32])),
            sent_at_us: 0,
        }
    }
}

impl Kms for FakeKms {
    async fn new_dek(&self, _: u32, _: u32) -> Result<NewDek, KmsError> {
        let UnwrappedDek { dek, sent_at_us } = self.answer().await;
        let record = vec![7; 32];
        Ok(NewDek {
            dek,
            record,
            sent_at_us,
        })
    }

    async fn wrap_dek(&self, _: u32, _: u32, _: &SecretKey) -> Result<NewDek, KmsError> {
        self.new_dek(0, 0).await
    }

    async fn unwrap_dek(&self, _: u32, _: u32, _: &[u8]) -> Result<UnwrappedDek, KmsError> {
        Ok(self.answer().await)
    }

    async fn unlock(&self, _: Option<u32>, _: UnlockSecret) -> Result<Unlocked, KmsError> {
        Ok(Unlocked::Open)
    }

    async fn initialise(&self, _: Initialise) -> Result<Vec<Share>, KmsError> {
        Ok(Vec::new())
    }

    fn lock(&self) {}

    fn state(&self) -> ProviderState {
        ProviderState::Unlocked
    }

    fn unlock_need(&self) -> UnlockNeed {
        UnlockNeed::Nothing
    }

    fn figures(&self, _: &str) -> KmsSnapshot {
        KmsSnapshot::default()
    }
}

struct Flag {
    set: Arc<AtomicBool>,
    reads_once: bool,
    read: Cell<Option<bool>>,
}

impl StopFlag for Flag {
    fn is_set(&self) -> bool {
        if let (true, Some(read)) = (self.reads_once, self.read.get()) {
            return read;
        }
        let is_set = self.set.load(Ordering::Relaxed);
        self.read.set(Some(is_set));
        is_set
    }
}

/// Keyspaces, each with the newest DEK that is held of it.
#[derive(Default)]
struct Shelf(RefCell<BTreeMap<u32, u32>>);

impl DekShelf for Shelf {
    fn hold(&self, keyspace: u32, dek: Box<DekBytes>) -> Result<(), String> {
        let mut held = self.0.borrow_mut();
        let newest = held.entry(keyspace).or_default();
        *newest = dek.generation.max(*newest);
        Ok(())
    }

    fn drop_all(&self, keyspace: u32) {
        self.0.borrow_mut().remove(&keyspace);
    }
}

/// What the scenario and the shards both see.
#[derive(Default)]
pub struct Shared {
    pub answers: Mutex<BTreeMap<u64, (Status, Vec<u8>)>>,
    /// Shards that hold the DEK.
    pub holders: Mutex<BTreeSet<u16>>,
    /// Shards on which the keyspace is locked.
    pub locked: Mutex<BTreeSet<u16>>,
    /// The newest DEK of which a rotation was answered.
    pub rotated_to: std::sync::atomic::AtomicU32,
    /// A lock was acknowledged, and nobody has asked for an unlock since.
    pub is_sealed: std::sync::atomic::AtomicBool,
}

struct Shard {
    plan: Plan,
    floors: SealFloors,
    /// A blob on its way into the log, the generation of its DEK, and how many turns it takes.
    sealing: Option<(SealUnderWay, u32, usize)>,
    index: u16,
    now: Instant,
    core: keyway_core::Shard<()>,
    /// What the shard knows of the keyspace.
    revision: Revision,
    epoch: Epoch,
    opening: Opening,
    ticket: u64,
    shelf: Shelf,
    control: ControlLink,
    events: LaneEnds<ToShard>,
    shared: Arc<Shared>,
}

impl Shard {
    fn turn(&mut self) {
        self.now = self.now.plus_us(TURN_US);
        self.control.flush();
        while let Some(event) = self.events.try_recv() {
            self.hear(event);
        }
        self.seal();
        for (keyspace, generation) in self.floors.take_confirmed() {
            self.control.send(ToControl::Confirmed {
                keyspace,
                generation,
            });
        }
        self.core.handle_tick(self.now);
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Unwrap { keyspace } => self.ask_for_dek(keyspace),
                Action::DropDek { keyspace } => self.shelf.drop_all(keyspace.0),
                _ => {}
            }
        }
        let gauges = self.core.gauges(self.now, KeyspaceId(KEYSPACE));
        let is_locked = gauges.expect("there is one").locked;
        let holds = !self.shelf.0.borrow().is_empty();
        if self.shared.is_sealed.load(Ordering::SeqCst) {
            assert!(!holds, "a DEK on shard {} after the lock", self.index);
            assert!(is_locked, "open on shard {} after the lock", self.index);
        }
        note(&self.shared.locked, self.index, is_locked);
        note(&self.shared.holders, self.index, holds);
    }

    /// A blob comes into the log, or begins its way there, under the newest DEK that is held.
    fn seal(&mut self) {
        match self.sealing.take() {
            Some((under_way, generation, turns @ 1..)) => {
                self.sealing = Some((under_way, generation, turns - 1));
            }
            Some((under_way, generation, 0)) => {
                let rotated_to = self.shared.rotated_to.load(Ordering::SeqCst);
                assert!(
                    generation >= rotated_to,
                    "a blob under DEK {generation} on shard {} after the rotation to {rotated_to}",
                    self.index
                );
                drop(under_way);
            }
            None => {
                let newest = self.shelf.0.borrow().get(&KEYSPACE).copied();
                let generation = newest.unwrap_or(0);
                let begun = newest.and_then(|_| self.floors.begin(KEYSPACE, generation));
                let turns = shuttle::rand::thread_rng().gen_range(0..STEPS_OF_A_SEAL);
                self.sealing = begun.map(|under_way| (under_way, generation, turns));
            }
        }
    }

    fn ask_for_dek(&mut self, keyspace: KeyspaceId) {
        let request = ToControl::Unwrap {
            keyspace: keyspace.0,
        };
        if !self.control.offer(Lane::Ordinary, request) {
            let event = LeaseEvent::Unavailable {
                retry_after_us: 100_000,
            };
            self.core.handle_lease(self.now, keyspace, event);
        }
    }

    fn hear(&mut self, message: ToShard) {
        let now = self.now;
        match message {
            ToShard::Keyspace(change) => self.take_change(&change),
            ToShard::Lease {
                keyspace,
                epoch,
                event,
                deks,
                ticket,
            } => {
                if epoch < self.epoch {
                    return;
                }
                let is_sealed = self.shared.is_sealed.load(Ordering::SeqCst);
                hear_lease(&mut self.core, &self.shelf, now, keyspace, event, deks);
                // A lock overtakes what is on its way, which is then not kept.
                let holds = !self.shelf.0.borrow().is_empty();
                assert!(!is_sealed || !holds, "a DEK taken after the lock");
                let gauges = self.core.gauges(now, KeyspaceId(keyspace));
                if gauges.is_some_and(|gauges| gauges.lease_left_us > 0) {
                    self.ticket = self.ticket.max(ticket);
                }
            }
            // No scenario asks for hot keys.
            ToShard::Hot { question, .. } => {
                let share = None;
                self.control.send(ToControl::Hot { question, share });
            }
            ToShard::Reseal { question, .. } => {
                let floor = self.floors.of(KEYSPACE);
                let page = Ok(ResealPage {
                    floor,
                    ..ResealPage::default()
                });
                self.control.send(ToControl::Resealed { question, page });
            }
            ToShard::Progress { question, keyspace } => {
                let gauges = self.core.gauges(now, KeyspaceId(keyspace));
                let progress = UnlockProgress {
                    ticket: self.ticket,
                    is_open: gauges.is_some_and(|gauges| gauges.lease_left_us > 0),
                    is_reloaded: true,
                    keys_reloaded: 0,
                };
                self.control
                    .send(ToControl::Progress { question, progress });
            }
            ToShard::Answer {
                token,
                status,
                payload,
            } => {
                let mut answers = self.shared.answers.lock().expect("nobody panics with it");
                let earlier = answers.insert(token, (status, payload.to_vec()));
                assert!(earlier.is_none(), "answered twice");
            }
        }
    }

    /// As a shard does.
    fn take_change(&mut self, change: &KeyspaceChange) {
        let (keyspace, revision) = (change.id, change.revision);
        if revision >= self.revision {
            self.revision = revision;
            self.epoch = change.epoch;
            let generation = change.seal_floor;
            if self.plan.flaw == Flaw::ConfirmsEarly && self.index == 1 {
                self.control.send(ToControl::Confirmed {
                    keyspace,
                    generation,
                });
            } else if generation > self.floors.of(keyspace) {
                self.floors.confirm(keyspace, generation);
            }
            self.take_gate(change);
        }
        self.control.send(ToControl::Acted { keyspace, revision });
    }

    fn take_gate(&mut self, change: &KeyspaceChange) {
        let (now, keyspace, epoch) = (self.now, change.id, change.epoch);
        if change.guard.locked {
            if self.plan.flaw != Flaw::LosesLock || self.index == 0 {
                hear_lock(&mut self.core, &self.shelf, now, keyspace);
            }
            self.control.send(ToControl::Wiped { keyspace, epoch });
        } else if change.opening > self.opening {
            self.core.handle_unlock(now, KeyspaceId(keyspace));
        }
        self.opening = change.opening;
    }
}

fn note(shards: &Mutex<BTreeSet<u16>>, index: u16, is_one: bool) {
    let mut shards = shards.lock().expect("nobody panics with it");
    match is_one {
        true => shards.insert(index),
        false => shards.remove(&index),
    };
}

/// A running node.
pub struct Node {
    pub shared: Arc<Shared>,
    control: Lanes<FromShard>,
    stop: Arc<AtomicBool>,
    ready: std::sync::mpsc::Receiver<Result<u16, String>>,
    threads: Vec<JoinHandle<()>>,
    next_token: Cell<u64>,
    /// The main thread keeps one, too: that it closes must not be what ends the node.
    _stopped: mpsc::Sender<u16>,
}

impl Node {
    pub fn start(plan: Plan) -> Node {
        let (control, requests) = lanes(EMERGENCIES_MAX, REQUESTS_MAX);
        let (to_exporter, _) = mpsc::channel(1);
        let (ready, started) = std::sync::mpsc::channel();
        let (stopped, shards_stopped) = mpsc::channel(usize::from(SHARDS));
        let shared = Arc::new(Shared::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let mut to_shards: Vec<Lanes<ToShard>> = Vec::new();
        for index in 0..SHARDS {
            let (to_shard, events) = lanes(EMERGENCIES_MAX, EVENTS_MAX);
            to_shards.push(match (plan.flaw, to_shards.first()) {
                (Flaw::OneShardOnly, Some(first)) => first.clone(),
                _ => to_shard,
            });
            let lifeline = Lifeline::new(index, ready.clone(), stopped.clone());
            let (control, shared) = (control.clone(), Arc::clone(&shared));
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let shard = (index, control, events, shared);
                block_on(serve(plan, shard, stop, lifeline));
            }));
        }
        threads.push(thread::spawn(move || {
            let mut catalogue = Catalogue::default();
            let by = By::server(clock::moment());
            let new = NewKeyspace {
                name: "prod",
                change: &SettingsChange::default(),
                kms: "fake",
                record: b"wrapped",
            };
            let made = catalogue.create(new, &by);
            assert_eq!(made, Ok(KEYSPACE));
            let kms = FakeKms {
                hangs: plan.kms_hangs,
            };
            let kms = KmsSet::new([("fake".to_owned(), kms)].into(), "fake".to_owned());
            let disk_fails = plan.disk_fails;
            let save = Box::new(move |_: Catalogue| {
                let (done, saved) = tokio::sync::oneshot::channel();
                let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
                let _ = done.send(if disk_fails { Err(full) } else { Ok(()) });
                saved
            });
            let settings = ControlSettings {
                shards: SHARDS,
                owner: Owner { dev: true, uid: 0 },
                ticket_key: 42,
                page_key_ids: false,
            };
            let names = names_of(&kms, None);
            let hot_keys = HotKeys::new(Vec::new());
            let control = Control::new(clock::moment(), settings, catalogue, names, hot_keys);
            let means = Means {
                kms: Rc::new(kms),
                file: None,
                save,
                save_hot_keys: Arc::new(|_| Ok(())),
                shards: to_shards,
                exporter: to_exporter,
                viewers: Arc::new(Viewers::default()),
                renew_early_ppm: 0,
            };
            let sleep = async |_: Until| std::future::pending().await;
            let run = Driver::new(control, means).run(requests, shards_stopped, sleep);
            block_on(tokio::task::LocalSet::new().run_until(run));
        }));
        Node {
            shared,
            control,
            stop,
            ready: started,
            threads,
            next_token: Cell::new(1),
            _stopped: stopped,
        }
    }

    /// Sends an administrator's request; its name, under which the answer comes.
    pub fn send(&self, command: Command) -> u64 {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let lane = command.lane();
        let message = ToControl::Request(Request {
            token,
            who: Principal::Anonymous,
            deadline: None,
            command,
        });
        let request = FromShard { shard: 0, message };
        block_on(self.control.send(lane, request));
        token
    }

    /// Sends a request and waits for the answer.
    pub fn ask(&self, command: Command) -> (Status, Vec<u8>) {
        let token = self.send(command);
        loop {
            if let Some(answer) = self
                .shared
                .answers
                .lock()
                .expect("nobody panics with it")
                .remove(&token)
            {
                return answer;
            }
            thread::yield_now();
        }
    }

    /// Stops the node and waits until all of it has ended; what the shards said at the start.
    pub fn stop(self) -> Vec<Result<u16, String>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("threads end without a panic");
        }
        self.ready.try_iter().collect()
    }
}

type Parts = (u16, Lanes<FromShard>, LaneEnds<ToShard>, Arc<Shared>);

async fn serve(plan: Plan, parts: Parts, stop: Arc<AtomicBool>, mut lifeline: Lifeline) {
    let (index, control, events, shared) = parts;
    if plan.shard_dies && index == 1 {
        return;
    }
    let limits = Limits {
        shard_index: index,
        shard_count: SHARDS,
        ..Limits::default()
    };
    let mut core = keyway_core::Shard::new(limits, 42).expect("the limits are valid");
    let now = Instant::from_micros(1_000_000);
    core.handle_keyspace(now, KeyspaceId(KEYSPACE), Settings::default())
        .expect("the settings are valid");
    // Asks for the DEK, as the first use of a key would.
    core.handle_unlock(now, KeyspaceId(KEYSPACE));
    let mut shard = Shard {
        plan,
        floors: SealFloors::default(),
        sealing: None,
        index,
        now,
        core,
        revision: Revision::default(),
        epoch: Epoch::default(),
        opening: Opening::default(),
        ticket: 0,
        shelf: Shelf::default(),
        control: ControlLink::new(index, control),
        events,
        shared,
    };
    let flag = Flag {
        set: stop,
        reads_once: plan.flaw == Flaw::ReadsFlagOnce,
        read: Cell::new(None),
    };
    lifeline.ready();
    until_stopped(&flag, |_| shard.turn(), async || yield_now().await).await;
    drop(shard);
    if plan.flaw == Flaw::EndsSilently && index == 1 {
        std::mem::forget(lifeline);
    }
}
