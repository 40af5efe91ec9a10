//! A shard over labels instead of keys, with a clock that advances with work.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use keyway_core::slots::Handle;
use keyway_core::{Instant, LeaseEvent, Limits, Loaded, Settings};
use keyway_node::connection::Connection;
use keyway_node::ids::{Epoch, Opening, Revision};
use keyway_node::keyspace_change::{Guard, KeyspaceChange};
use keyway_node::messages::{DekBytes, Lane, ToControl, ToPeer, ToShard};
use keyway_node::policy::{Owner, Policy, Principal};
use keyway_node::port::{
    Blob, BlobHead, Cost, Found, KeyState, Known, Making, Name, NoRoom, OpError, OpenError,
    Operation, Page, Port, Seal, Sealed, WriteError,
};
use keyway_node::shard::{Arrival, Done, Effect, Errand, Shard, Site, Start, TaskId, Turn, Use};
use keyway_protocol::{
    Algorithm, Hello, InputKind, KeyGenerate, NewKey, Octets, Opcode, Request, RequestFrame,
    ResponseFrame, Router, Scheme, Sign, Status, Usage,
};

pub const KEYSPACE: u32 = 1;
pub const OWNER: Principal = Principal::Uid(500);
pub const STRANGER: Principal = Principal::Uid(1_000);
/// The result of every signature.
pub const SIGNATURE: &[u8] = b"signed";

/// The surroundings of a shard, which a test observes and controls.
pub struct World {
    now_us: Cell<u64>,
    /// Duration of reading the clock, in µs.
    pub reading_us: Cell<u64>,
    /// Duration of an operation, in µs.
    pub operation_us: Cell<u64>,
    /// Whether operations are slow ones.
    pub is_slow: Cell<bool>,
    /// Whether the next uses of keys have to be written down first.
    pub is_unreserved: Cell<bool>,
    /// Whether a secret takes long to make.
    pub is_slow_to_make: Cell<bool>,
    /// The key whose operations panic.
    pub panics_at: RefCell<Vec<u8>>,
    /// Whether the log accepts revocations, of any key.
    pub revokes: Cell<bool>,
    /// Revision of the newest record of every key.
    pub revision: Cell<u64>,
    /// Number of operations begun.
    pub operations: Cell<u64>,
}

impl World {
    pub fn now(&self) -> Instant {
        Instant::from_micros(self.now_us.get())
    }

    pub fn pass(&self, us: u64) {
        self.now_us.set(self.now_us.get() + us);
    }
}

/// The port.
pub struct Labels(Rc<World>);

impl Port for Labels {
    type Key = u32;
    type Dek = u32;

    fn now(&self) -> Instant {
        self.0.pass(self.0.reading_us.get());
        self.0.now()
    }

    fn unix_ms(&self) -> u64 {
        self.0.now_us.get() / 1_000
    }

    fn cost(&self, _: &u32, _: &Operation<'_>) -> Cost {
        match self.0.is_slow.get() {
            _ if self.0.is_unreserved.get() => Cost::Unreserved { version: 1 },
            true => Cost::Slow,
            false => Cost::Fast,
        }
    }

    fn perform(
        &self,
        with: Use<'_, u32>,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        self.0.operations.set(self.0.operations.get() + 1);
        assert!(self.now() < with.expires_at(), "used past its end");
        out.extend_from_slice(SIGNATURE);
        assert!(
            *self.0.panics_at.borrow() != operation.frame.key_id.bytes(),
            "planted"
        );
        self.0.pass(self.0.operation_us.get());
        Ok(*with.key())
    }

    fn take_dek(&self, dek: Box<DekBytes>) -> Result<u32, NoRoom> {
        Ok(dek.generation)
    }

    fn open(
        &self,
        _: &u32,
        _: Name<'_>,
        blob: &Blob,
        _: Instant,
    ) -> Result<Loaded<u32>, OpenError> {
        Ok(Loaded {
            version: blob.version,
            dek_generation: 1,
            key_bytes: 64,
            not_after: None,
            value: blob.version,
        })
    }

    fn seal(
        &self,
        under: &u32,
        _: Name<'_>,
        _: Seal<'_, u32>,
    ) -> Result<Option<Sealed>, WriteError> {
        let bytes = under.to_le_bytes().to_vec();
        Ok(Some(Sealed { version: 1, bytes }))
    }

    fn head_of(&self, _: &[u8]) -> Result<BlobHead, String> {
        Ok(BlobHead {
            dek_generation: 1,
            algorithm: 1,
            versions: None,
        })
    }

    fn can_make(&self, _: Option<u8>) -> Result<Making, WriteError> {
        Ok(match self.0.is_slow_to_make.get() {
            true => Making::Slow,
            false => Making::Quick,
        })
    }

    fn known(&self, name: Name<'_>) -> Option<Known> {
        (!name.key_id.starts_with(b"new")).then_some(Known {
            version: 1,
            revision: self.0.revision.get(),
            state: match self.0.revokes.get() {
                true => KeyState::Revoked,
                false => KeyState::Live,
            },
        })
    }

    fn revoke(&self, _: Name<'_>, _: u64, _: bool) -> Result<(), WriteError> {
        Ok(())
    }

    fn revoke_version(&self, _: Name<'_>, _: u32, _: u64, _: bool) -> Result<(), WriteError> {
        Ok(())
    }
}

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub id: u64,
    pub status: Status,
    pub payload: Vec<u8>,
}

/// One of two shards, and its outputs.
pub struct Rig {
    pub world: Rc<World>,
    pub shard: Shard<Labels>,
    pub change: KeyspaceChange,
    /// Messages to control, except requests for DEKs.
    pub told: Vec<ToControl>,
    /// Messages to the other shard.
    pub sent: Vec<ToPeer>,
    /// Errands that the test completes itself.
    pub kept: Vec<(TaskId, Errand)>,
    pub keeps_errands: bool,
    pub reports: Vec<String>,
    received: Vec<u8>,
    /// The effects of the last turn have produced input.
    has_input: bool,
}

impl Rig {
    /// Creates a shard with a lease, whose keyspace grants the stranger the right to sign.
    pub fn new() -> Rig {
        Rig::with_connections(64)
    }

    /// As [`Rig::new`], with room for that many connections.
    pub fn with_connections(connections_max: usize) -> Rig {
        Rig::of(0, connections_max)
    }

    /// Creates the other one of the two shards.
    pub fn other() -> Rig {
        Rig::of(1, 64)
    }

    fn of(index: u16, connections_max: usize) -> Rig {
        let world = Rc::new(World {
            now_us: Cell::new(1_000_000),
            reading_us: Cell::new(0),
            operation_us: Cell::new(0),
            is_slow: Cell::new(false),
            is_unreserved: Cell::new(false),
            is_slow_to_make: Cell::new(false),
            panics_at: RefCell::default(),
            revokes: Cell::new(false),
            revision: Cell::new(1),
            operations: Cell::new(0),
        });
        let mut policy = Policy::default();
        policy.grant("uid:1000", "sign").unwrap();
        let change = KeyspaceChange {
            id: KEYSPACE,
            name: "prod".to_owned(),
            revision: Revision(1),
            epoch: Epoch::default(),
            opening: Opening::default(),
            guard: Guard {
                locked: false,
                policy,
                settings: Settings {
                    sign_wait_budget_us: 50_000,
                    ..Settings::default()
                },
            },
            seal_floor: 1,
            oldest: 1,
            ticket: 7,
        };
        let start = Start {
            site: Site {
                index,
                router: Router::new([7; 16], 2).unwrap(),
                ports: vec![7421, 7422],
            },
            limits: Limits::default(),
            seed: 42,
            owner: Owner {
                dev: false,
                uid: 500,
            },
            connections_max,
            hot_keys: Vec::new(),
        };
        let mut shard = Shard::new(start, Labels(Rc::clone(&world))).unwrap();
        shard.boot([&change]);
        Rig {
            world,
            shard,
            change,
            told: Vec::new(),
            sent: Vec::new(),
            kept: Vec::new(),
            keeps_errands: false,
            reports: Vec::new(),
            received: Vec::new(),
            has_input: false,
        }
    }

    /// Opens a connection and completes HELLO.
    pub fn connect(&mut self, who: Principal) -> Handle<Connection> {
        let arrival = Arrival {
            who,
            descriptors_left: 1_000,
        };
        let at = self.shard.handle_accepted(self.world.now(), arrival);
        let at = at.unwrap();
        let hello = Request::Hello(Hello {
            version_min: 1,
            version_max: 1,
            client_name: "",
        });
        self.receive(at, &frame(0, b"", 0, Opcode::Hello, &hello));
        self.run();
        assert_eq!(self.answers(at)[0].status, Status::Ok);
        at
    }

    /// Opens a connection and signs once with a key of this shard, which is in memory afterwards. Returns the key's id.
    pub fn connect_and_sign(&mut self, who: Principal, key: &str) -> (Handle<Connection>, Vec<u8>) {
        let (at, key) = (self.connect(who), self.key(key, 0));
        self.receive(at, &sign(1, &key, 0));
        self.run();
        assert_eq!(statuses(&self.answers(at)), [(1, Status::Ok)]);
        (at, key)
    }

    /// Passes bytes of a connection to the shard.
    pub fn receive(&mut self, at: Handle<Connection>, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.shard.recv_space(at).is_empty() {
                // A turn frees space for a complete frame.
                self.turn();
            }
            let space = self.shard.recv_space(at);
            let len = space.len().min(rest.len());
            assert!(len > 0, "no space");
            space[..len].copy_from_slice(&rest[..len]);
            self.shard.handle_received(self.world.now(), at, len);
            rest = &rest[len..];
        }
    }

    /// Takes one turn, and performs its effects.
    pub fn turn(&mut self) -> Turn {
        self.shard.handle_rested();
        let turn = self.shard.turn();
        self.perform_effects();
        turn
    }

    /// Performs the effects of the last turn.
    pub fn perform_effects(&mut self) {
        while let Some(effect) = self.shard.poll_effect() {
            self.carry_out(effect);
        }
    }

    /// Takes turns until nothing is left to do.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            self.has_input = false;
            if self.turn() != Turn::More && !self.has_input {
                return;
            }
        }
        panic!("the shard never becomes idle");
    }

    /// Advances time by ticks.
    pub fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.world.pass(1_000);
            self.turn();
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Do(task, errand) if self.keeps_errands => self.kept.push((task, errand)),
            Effect::Do(task, errand) => {
                self.has_input = true;
                self.shard.handle_done(task, done(&errand));
            }
            Effect::Tell(_, ToControl::Unwrap { keyspace }) => {
                let lease = ToShard::Lease {
                    keyspace,
                    epoch: self.change.epoch,
                    event: LeaseEvent::Granted {
                        sent_at: self.world.now(),
                        generation: self.change.seal_floor,
                    },
                    deks: (1..=self.change.seal_floor)
                        .map(|generation| {
                            Box::new(DekBytes {
                                generation,
                                bytes: [7; 32].into(),
                            })
                        })
                        .collect(),
                    ticket: 8,
                };
                self.has_input = true;
                self.shard.handle_control(Lane::Ordinary, lease);
            }
            Effect::Tell(_, message) => self.told.push(message),
            Effect::Batch(to) => {
                while let Some(batch) = self.shard.take_batch(to) {
                    self.sent.extend(batch);
                }
            }
            Effect::Log(report) => self.reports.push(format!("{report:?}")),
            Effect::Send(_) | Effect::Close(_) | Effect::Observe(_) | Effect::Publish => {}
        }
    }

    /// Applies a change of control to the keyspace.
    pub fn publish(&mut self, change: impl FnOnce(&mut KeyspaceChange)) {
        self.change.revision.count_up();
        change(&mut self.change);
        let message = ToShard::Keyspace(Box::new(self.change.clone()));
        self.shard.handle_control(Lane::Emergency, message);
    }

    /// Takes the answers of a connection.
    pub fn answers(&mut self, at: Handle<Connection>) -> Vec<Answer> {
        self.received.clear();
        self.received.extend_from_slice(self.shard.to_send(at));
        self.shard.handle_sent(at, self.received.len());
        let mut answers = Vec::new();
        let mut rest = self.received.as_slice();
        while let Some((frame, len)) = ResponseFrame::decode(rest).unwrap() {
            answers.push(Answer {
                id: frame.request_id,
                status: frame.status,
                payload: frame.payload.to_vec(),
            });
            rest = &rest[len..];
        }
        assert!(rest.is_empty(), "a partial answer was released");
        answers
    }

    /// Returns a key id that belongs to this shard, or to the other one.
    pub fn key(&self, name: &str, shard: u16) -> Vec<u8> {
        let router = Router::new([7; 16], 2).unwrap();
        let names = (0..).map(|n| format!("{name}-{n}").into_bytes());
        let mut owned = names.filter(|id| router.shard_of(KEYSPACE, id) == shard);
        owned.next().unwrap()
    }
}

/// Returns the result of an errand on a sound log.
pub fn done(errand: &Errand) -> Done {
    match errand {
        Errand::Read(_) => Done::Read(Ok(Found::Blob(Blob {
            version: 1,
            revision: 1,
            bytes: vec![1; 64],
        }))),
        Errand::Put(..) => Done::Put(Ok(1)),
        Errand::RevokedAt(_) => Done::RevokedAt(Ok(Some(0))),
        Errand::List { .. } => Done::Listed(Ok(Page::default())),
        Errand::Generate(_) => Done::Generated(Ok(vec![1].into())),
        Errand::Reserve(..) => Done::Reserved(Ok(())),
    }
}

/// Builds a request frame.
pub fn frame(
    id: u64,
    key_id: &[u8],
    deadline_us: u32,
    opcode: Opcode,
    request: &Request<'_>,
) -> Vec<u8> {
    let mut payload = Vec::new();
    request.encode_payload(&mut payload).unwrap();
    let frame = RequestFrame {
        code: opcode.code(),
        request_id: id,
        keyspace_id: match opcode.scope() {
            keyway_protocol::Scope::Server => 0,
            _ => KEYSPACE,
        },
        deadline_us,
        key_id: Octets(key_id),
        payload: Octets(&payload),
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

/// Builds a SIGN request.
pub fn sign(id: u64, key_id: &[u8], deadline_us: u32) -> Vec<u8> {
    let request = Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input: Octets(b"message"),
    });
    frame(id, key_id, deadline_us, Opcode::Sign, &request)
}

/// Builds a KEY_GENERATE request.
pub fn generate(id: u64, key_id: &[u8], deadline_us: u32) -> Vec<u8> {
    let new_key = NewKey {
        algorithm: Some(Algorithm::Ed25519),
        exportable: false,
        usage: Usage::NONE,
        not_after_unix_ms: 0,
    };
    let request = Request::KeyGenerate(KeyGenerate { new_key });
    frame(id, key_id, deadline_us, Opcode::KeyGenerate, &request)
}

/// Returns the request ids and statuses of answers, by request id.
pub fn statuses(answers: &[Answer]) -> Vec<(u64, Status)> {
    let mut statuses: Vec<_> = answers
        .iter()
        .map(|answer| (answer.id, answer.status))
        .collect();
    statuses.sort_by_key(|(id, _)| *id);
    statuses
}
