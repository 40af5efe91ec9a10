//! The whole node that serves, in virtual time: its shards, its connections and its control, and all that is around them.
//!
//! ```text
//! clients ══ bytes: split, late, unread, reset ══▶ Shard<SimPort> × n ══ mesh ══ Shard
//!    ▲                                             │ ▲        │
//!    ║                                             ▼ │        ▼ two lanes each way
//!  oracle ◀── uses, loads, seals (the port) ── blob logs    Control ──▶ KMSes, keyspaces.json
//! ```
//!
//! A history is a list of steps out of a seed; what depends on the node's own doings is drawn where it happens. Work takes
//! time on the clock of the shard that does it: the shard is busy until then, and the others go on. The oracle knows what
//! clients' bytes and the shards' ports tell it, and compares points in time, since the shards' clocks overlap.

mod answers;
mod ask;
mod books;
mod calm;
mod clock;
mod control;
mod coverage;
mod exporter;
mod label;
mod log;
mod moves;
mod plan;
mod port;
mod pressure;
mod process;
mod reports;
mod sight;
mod site;
mod sockets;
mod steps;
mod terms;
mod told;
mod verdicts;
mod versions;
mod walks;

use crate::control::kms::SimKms;
use crate::control::plan::DiskMood;
use crate::dice::Dice;
use crate::disk::SimDisk;
use crate::history;
use crate::oracle::{Checked, Violation};
use crate::schedule::Scheduled;
use crate::trace::Trace;
use books::Books;
use exporter::Exporter;
use keyway_core::Instant;
use keyway_node::catalogue::Catalogue;
use keyway_node::control::{Control, KmsAnswer};
use keyway_node::ids::{CallId, QuestionId, WriteId};
use keyway_node::messages::{Lane, ToControl};
use keyway_node::time::Moment;
use log::ShardLog;
use plan::Plan;
use port::Shared;
use pressure::Pressure;
use site::{Input, Site};
use sockets::Socket;
use std::collections::{BTreeMap, BinaryHeap};

pub use coverage::{NodeCoverage, all_permitted, is_permitted};
pub use plan::NEWEST_FROM;

/// The wall clock at virtual time 0, ms.
const UNIX_MS: u64 = 1_900_000_000_000;

fn instant_of_unix_ms(unix_ms: u64) -> Instant {
    Instant::from_micros(unix_ms.saturating_sub(UNIX_MS) * 1_000)
}

/// How a history of the node ended.
#[derive(Debug, Default)]
pub struct NodeOutcome {
    /// What it broke, if anything.
    pub violation: Option<Violation>,
    /// Virtual time, µs.
    pub virtual_us: u64,
    /// Turns of shards.
    pub turns: u64,
    /// Answers to clients.
    pub answers: u64,
    /// Uses of keys.
    pub served: u64,
    /// Which operations had which answers.
    pub coverage: NodeCoverage,
}

/// Runs the history of a seed.
#[must_use]
pub fn run_seed(seed: u64) -> NodeOutcome {
    run_plan(&plan::plan(seed), Trace::default()).0
}

/// A hash of the history of a seed in words.
#[must_use]
pub fn hash_of(seed: u64) -> u64 {
    run_plan(&plan::plan(seed), Trace::hashed()).2
}

/// Returns the history of a seed as text, and what it broke. One that breaks something is shortened first, unless the
/// `whole` history is wanted.
#[must_use]
pub fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>) {
    history::trace_of(plan::plan(seed), whole, |plan, trace| {
        let (outcome, lines, _) = run_plan(plan, trace);
        (outcome.violation, lines)
    })
}

fn run_plan(plan: &Plan, trace: Trace) -> (NodeOutcome, Vec<String>, u64) {
    let mut world = World::new(plan, trace);
    let violation = history::verdict_of(|| world.run());
    let hash = world.trace.hash();
    let lines = world.trace.take();
    let outcome = NodeOutcome {
        violation,
        virtual_us: world.now,
        ..std::mem::take(&mut world.outcome)
    };
    (outcome, lines, hash)
}

/// Something that will happen.
enum Event {
    /// A shard's thread may go on.
    Wake(u16),
    ToShard {
        shard: u16,
        input: Input,
    },
    ToControl {
        from: u16,
        message: ToControl,
    },
    /// A shard's log has come to the end of something.
    Log(u16),
    KmsAnswers {
        call: CallId,
        answer: KmsAnswer,
    },
    /// keyspaces.json is replaced.
    Replaced(WriteId),
    Saved {
        write: WriteId,
        result: Result<(), String>,
    },
    HotKeysSaved,
    /// The exporter has made a page of STATUS.
    Exported(QuestionId),
    /// Bytes for a client, of one of its connections; `None`: its connection is closed.
    ToClient {
        client: usize,
        connection: u64,
        bytes: Option<Vec<u8>>,
    },
    /// Every shard must act by a lock by now.
    MustBeLocked {
        keyspace: u32,
        begun_at: u64,
    },
    /// An emergency command must have its answer by now.
    MustBeAnswered(u64),
}

/// `keyspaces.json`, and the write in progress.
struct Disk {
    durable: Catalogue,
    /// What it replaced, until control has received the result.
    before: Option<Catalogue>,
    writing: Option<(WriteId, Catalogue)>,
    mood: DiskMood,
    takes_us: u64,
}

/// All of it.
struct World<'a> {
    plan: &'a Plan,
    now: u64,
    sequence: u64,
    incarnation: u64,
    queue: BinaryHeap<Scheduled<Event>>,
    /// Messages of one way and lane arrive in their order.
    lanes: BTreeMap<(bool, u16, Lane), u64>,
    control: Control,
    made: u64,
    sites: Vec<Site>,
    /// By shard. What is on the platter outlives the process.
    logs: Vec<ShardLog>,
    platter: SimDisk,
    /// When each log is looked at next.
    log_watches: Vec<Option<u64>>,
    kms: [SimKms; 2],
    disk: Disk,
    sockets: Vec<Socket>,
    shared: Shared,
    pressure: Pressure,
    exporter: Exporter,
    books: Books,
    is_calm: bool,
    outcome: NodeOutcome,
    trace: Trace,
}

impl<'a> World<'a> {
    fn run(&mut self) -> Checked {
        self.boot()?;
        let plan = self.plan;
        for planned in &plan.steps {
            self.advance(planned.after_us)?;
            self.carry_out(planned.number, planned.step)?;
        }
        self.calm_down()
    }

    fn moment(&self) -> Moment {
        moment(self.now)
    }

    fn dice(&self, what: u64, which: u64) -> Dice {
        Dice::of(self.plan.seed, what, which, self.sequence)
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.queue.push(Scheduled {
            at,
            sequence: self.sequence,
            incarnation: self.incarnation,
            event,
        });
    }

    /// Lets time pass, with all that happens meanwhile.
    fn advance(&mut self, us: u64) -> Checked {
        let to = self.now + us;
        loop {
            let event_at = self.queue.peek().map_or(u64::MAX, |event| event.at);
            let tick_at = self.control.poll_timeout().as_micros().max(self.now);
            if event_at.min(tick_at) > to {
                break;
            }
            if event_at <= tick_at {
                let Some(scheduled) = self.queue.pop() else {
                    break;
                };
                self.now = self.now.max(scheduled.at);
                if scheduled.incarnation == self.incarnation {
                    self.happen(scheduled.event)?;
                }
            } else {
                self.now = tick_at;
                self.tick()?;
            }
        }
        self.now = to;
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Wake(shard) => self.wake(shard),
            Event::ToShard { shard, input } => {
                self.arrive(shard, input);
                Ok(())
            }
            Event::ToControl { from, message } => self.hear_shard(from, message),
            Event::Log(shard) => self.log_goes_on(shard),
            Event::KmsAnswers { call, answer } => self.hear_kms(call, answer),
            Event::Replaced(write) => self.replaced(write),
            Event::Saved { write, result } => self.saved(write, result),
            Event::HotKeysSaved => {
                self.control.handle_hot_keys_saved();
                self.control_effects()
            }
            Event::Exported(question) => self.export(question),
            Event::ToClient {
                client,
                connection,
                bytes,
            } => self.reach_client(client, connection, bytes),
            Event::MustBeLocked { keyspace, begun_at } => self.check_locked(keyspace, begun_at),
            Event::MustBeAnswered(request) => self.check_answered(request),
        }
    }
}

fn moment(now: u64) -> Moment {
    Moment {
        unix_ms: UNIX_MS + now / 1_000,
        instant: Instant::from_micros(now),
    }
}
