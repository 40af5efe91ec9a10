//! A node without sockets, keys and a clock: the real control thread, the real shards, the real start and stop.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use keyway_core::slots::Handle;
use keyway_core::{Instant, Limits, Settings};
use keyway_kms::{
    Initialise, KmsError, NewDek, ProviderState, SecretKey, Share, UnlockNeed, UnlockSecret,
    Unlocked, UnwrappedDek,
};
use keyway_node::catalogue::{Catalogue, ChangeAuthor, NewKeyspace, SettingsChange};
use keyway_node::connection::Connection;
use keyway_node::control::hot_keys::HotKeys;
use keyway_node::control::{Control, Settings as ControlSettings};
use keyway_node::ids::{Epoch, Opening, Revision};
use keyway_node::keyspace_change::{Guard, KeyspaceChange};
use keyway_node::messages::{self, Command, Lane, ToControl, ToShard};
use keyway_node::policy::{Owner, Policy, Principal};
use keyway_node::port::{Found, Page, Write};
use keyway_node::shard::{self as node, Done, Effect, Errand, TaskId, Turn};
use keyway_protocol::{
    Algorithm, Hello, KeyGenerate, NewKey, Octets, Opcode, Request, RequestFrame, Router, Status,
    Usage,
};
use keyway_server::clock;
use keyway_server::control::kms::{Kms, KmsSet};
use keyway_server::control::lanes::{LaneEnds, Lanes, lanes};
use keyway_server::control::link::{ControlLink, FromShard};
use keyway_server::control::{Driver, Means, names_of};
use keyway_server::lifeline::{LifecycleReporter, StopFlag, until_stopped};
use keyway_server::metrics::page::ActiveViewers;
use keyway_server::metrics::snapshot::KmsSnapshot;
use shuttle::future::{block_on, yield_now};
use shuttle::rand::Rng;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread::{self, JoinHandle};
use tokio::sync::mpsc;

use super::labels::Labels;

pub const SHARDS: u16 = 2;
pub const KEYSPACE: u32 = 1;

/// Small queues, so that they are often full.
const REQUESTS_MAX: usize = 4;
const EVENTS_MAX: usize = 1;
const EMERGENCIES_MAX: usize = 1;

/// Most steps of other threads during a KMS call.
const STEPS_OF_A_CALL: usize = 40;

/// Most turns that a write of a blob is in flight.
const STEPS_OF_A_SEAL: usize = 16;

/// Advance of the clock per turn. It makes backoffs end soon.
const TURN_US: u64 = 50_000;

/// The planted flaws.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flaw {
    None,
    /// Messages to the second shard go to the first.
    OneShardOnly,
    /// The second shard never receives a lock, which is still acknowledged.
    LosesLock,
    /// The shards check only once whether they must stop.
    ReadsFlagOnce,
    /// The second shard does not report that it has stopped.
    EndsSilently,
    /// The second shard confirms a seal floor while a write under an older DEK is in flight.
    ConfirmsEarly,
}

/// The configuration of the node.
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

/// State shared by the scenario and the shards.
#[derive(Default)]
pub struct Shared {
    pub answers: Mutex<BTreeMap<u64, (Status, Vec<u8>)>>,
    /// Shards that hold the DEK.
    pub holders: Mutex<BTreeSet<u16>>,
    /// Shards on which the keyspace is locked.
    pub locked: Mutex<BTreeSet<u16>>,
    /// The latest DEK whose rotation was answered.
    pub rotated_to: std::sync::atomic::AtomicU32,
    /// A lock was acknowledged, and no unlock was requested since.
    pub is_sealed: std::sync::atomic::AtomicBool,
}

/// A write of a blob in flight: the generation of its DEK, and how many turns it takes.
struct OnItsWay {
    task: TaskId,
    generation: u32,
    turns: usize,
}

struct Shard {
    plan: Plan,
    index: u16,
    now: Rc<Cell<Instant>>,
    deks: Rc<Cell<usize>>,
    node: node::Shard<Labels>,
    client: Handle<Connection>,
    keys: u64,
    sealing: Option<OnItsWay>,
    /// Requests that wait.
    waiting: u64,
    link: ControlLink,
    shared: Arc<Shared>,
}

impl Shard {
    fn turn(&mut self) {
        let now = self.now.get().plus_us(TURN_US);
        self.now.set(now);
        let (index, flaw, link) = (self.index, self.plan.flaw, &self.link);
        let shared = &self.shared;
        link.deliver_through(&mut self.node, |message| {
            let message = keep_answer(shared, message)?;
            match index {
                1 => plant(flaw, link, message),
                _ => Some(message),
            }
        });
        self.seal();
        while self.node.turn() == Turn::More {}
        self.carry_out();
        let figures = self.node.figures();
        self.waiting = figures.waiting.jobs;
        let is_locked = figures.keyspaces[0].gauges.locked;
        let holds = self.deks.get() > 0;
        if self.shared.is_sealed.load(Ordering::SeqCst) {
            assert!(!holds, "a DEK on shard {} after the lock", self.index);
            assert!(is_locked, "open on shard {} after the lock", self.index);
        }
        note(&self.shared.locked, self.index, is_locked);
        note(&self.shared.holders, self.index, holds);
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.node.poll_effect() {
            match effect {
                Effect::Tell(lane, message) => {
                    if let Some(message) = self.link.tell(lane, message) {
                        self.node.handle_untold(lane, message);
                    }
                }
                Effect::Do(task, Errand::Put(_, Write::Blob { sealed, .. })) => {
                    let generation = sealed.bytes.first().copied();
                    self.sealing = Some(OnItsWay {
                        task,
                        generation: generation.map_or(0, u32::from),
                        turns: shuttle::rand::thread_rng().gen_range(0..STEPS_OF_A_SEAL),
                    });
                }
                Effect::Do(task, Errand::List { .. }) => {
                    let page = Page::default();
                    self.node.handle_done(task, Done::Listed(Ok(page)));
                }
                Effect::Do(task, Errand::Read(_)) => {
                    let found = Done::Read(Ok(Found::Missing));
                    self.node.handle_done(task, found);
                }
                Effect::Do(task, _) => self.node.handle_done(task, Done::Lost),
                Effect::Send(at) => {
                    let len = self.node.to_send(at).len();
                    self.node.handle_sent(at, len);
                }
                _ => {}
            }
        }
    }

    /// Completes a write of a blob, or begins one.
    fn seal(&mut self) {
        match &mut self.sealing {
            Some(sealing) if sealing.turns > 0 => sealing.turns -= 1,
            Some(_) => {
                let Some(sealed) = self.sealing.take() else {
                    return;
                };
                let (generation, index) = (sealed.generation, self.index);
                let rotated_to = self.shared.rotated_to.load(Ordering::SeqCst);
                assert!(
                    generation >= rotated_to,
                    "a blob under DEK {generation} on shard {index} after the rotation to {rotated_to}",
                );
                self.node.handle_done(sealed.task, Done::Put(Ok(1)));
            }
            None if self.deks.get() > 0 && self.waiting == 0 => {
                self.keys += 1;
                let key = format!("key-{}", self.keys);
                let new_key = NewKey {
                    algorithm: Some(Algorithm::Ed25519),
                    exportable: false,
                    usage: Usage::NONE,
                    not_after_unix_ms: 0,
                };
                let request = Request::KeyGenerate(KeyGenerate { new_key });
                self.ask(Opcode::KeyGenerate, key.as_bytes(), &request);
            }
            None => {}
        }
    }

    fn ask(&mut self, opcode: Opcode, key_id: &[u8], request: &Request<'_>) {
        let mut payload = Vec::new();
        request.encode_payload(&mut payload).expect("it is short");
        let frame = RequestFrame {
            code: opcode.code(),
            request_id: self.keys,
            keyspace_id: if key_id.is_empty() { 0 } else { KEYSPACE },
            deadline_us: 0,
            key_id: Octets(key_id),
            payload: Octets(&payload),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).expect("it is short");
        let space = self.node.recv_space(self.client);
        space[..bytes.len()].copy_from_slice(&bytes);
        self.node
            .handle_received(self.now.get(), self.client, bytes.len());
    }
}

/// Records the answers to the scenario's requests.
fn keep_answer(shared: &Shared, message: ToShard) -> Option<ToShard> {
    let ToShard::Answer {
        token,
        status,
        payload,
    } = message
    else {
        return Some(message);
    };
    let mut answers = shared.answers.lock().expect("not poisoned");
    let earlier = answers.insert(token, (status, payload.to_vec()));
    assert!(earlier.is_none(), "answered twice");
    None
}

/// Makes the second shard misbehave.
fn plant(flaw: Flaw, link: &ControlLink, message: ToShard) -> Option<ToShard> {
    let ToShard::Keyspace(change) = &message else {
        return Some(message);
    };
    let (keyspace, revision) = (change.id, change.revision);
    match flaw {
        Flaw::LosesLock if change.guard.locked => {
            let epoch = change.epoch;
            link.tell(Lane::Emergency, ToControl::Acted { keyspace, revision });
            link.tell(Lane::Emergency, ToControl::Wiped { keyspace, epoch });
            None
        }
        Flaw::ConfirmsEarly => {
            let generation = change.seal_floor;
            let confirmed = ToControl::Confirmed {
                keyspace,
                generation,
            };
            link.tell(Lane::Emergency, confirmed);
            Some(message)
        }
        _ => Some(message),
    }
}

fn note(shards: &Mutex<BTreeSet<u16>>, index: u16, is_one: bool) {
    let mut shards = shards.lock().expect("not poisoned");
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
    /// The main thread also keeps one, so that closing it does not end the node.
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
            let lifeline = LifecycleReporter::new(index, ready.clone(), stopped.clone());
            let (control, shared) = (control.clone(), Arc::clone(&shared));
            let stop = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let shard = (index, control, events, shared);
                block_on(serve(plan, shard, stop, lifeline));
            }));
        }
        threads.push(thread::spawn(move || {
            let mut catalogue = Catalogue::default();
            let by = ChangeAuthor::server(clock::moment());
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
                viewers: Arc::new(ActiveViewers::default()),
                renew_early_ppm: 0,
            };
            let sleep = async |_: Instant| std::future::pending().await;
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

    /// Sends an administrator's request. Returns its id, under which the answer arrives.
    pub fn send(&self, command: Command) -> u64 {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        let lane = command.lane();
        let message = ToControl::Request(messages::Request {
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
                .expect("not poisoned")
                .remove(&token)
            {
                return answer;
            }
            thread::yield_now();
        }
    }

    /// Stops the node and waits until all of it has ended. Returns what the shards reported at the start.
    pub fn stop(self) -> Vec<Result<u16, String>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("threads end without a panic");
        }
        self.ready.try_iter().collect()
    }
}

type Parts = (u16, Lanes<FromShard>, LaneEnds<ToShard>, Arc<Shared>);

async fn serve(plan: Plan, parts: Parts, stop: Arc<AtomicBool>, mut lifeline: LifecycleReporter) {
    let (index, control, events, shared) = parts;
    if plan.shard_dies && index == 1 {
        return;
    }
    let keyspace = KeyspaceChange {
        id: KEYSPACE,
        name: "prod".to_owned(),
        revision: Revision::default(),
        epoch: Epoch::default(),
        opening: Opening::default(),
        guard: Guard {
            locked: false,
            policy: Policy::default(),
            settings: Settings::default(),
        },
        seal_floor: 1,
        oldest: 1,
        ticket: 0,
    };
    let now = Rc::new(Cell::new(Instant::from_micros(1_000_000)));
    let deks = Rc::default();
    let port = Labels {
        now: Rc::clone(&now),
        deks: Rc::clone(&deks),
    };
    // The only shard, to which nothing is forwarded.
    let router = Router::new([7; 16], 1).expect("there is one shard");
    let start = node::Start {
        site: node::Site {
            index: 0,
            router,
            ports: vec![7421],
        },
        limits: Limits::default(),
        seed: 42,
        owner: Owner { dev: true, uid: 1 },
        connections_max: 1,
        hot_keys: Vec::new(),
    };
    let mut node = node::Shard::new(start, port).expect("the limits are valid");
    let link = ControlLink::new(index, control, events);
    node.boot([&keyspace]);
    let arrival = node::Arrival {
        who: Principal::Anonymous,
        descriptors_left: u64::MAX,
    };
    let client = node.handle_accepted(now.get(), arrival);
    let mut shard = Shard {
        plan,
        index,
        now,
        deks,
        node,
        client: client.expect("there is a place"),
        keys: 0,
        sealing: None,
        waiting: 0,
        link,
        shared,
    };
    let hello = Request::Hello(Hello {
        version_min: 1,
        version_max: 1,
        client_name: "",
    });
    shard.ask(Opcode::Hello, b"", &hello);
    // Requests the DEK.
    shard.keys = 1;
    shard.ask(Opcode::ForceRefresh, b"key-0", &Request::ForceRefresh);
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
