//! The control state machine of a node, the one that serves, in virtual time.
//!
//! ```text
//! operators ─▶ shards (modelled) ══ two lanes ══▶ Control (the real keyway-node) ──▶ KMS: slow, refusing, locked
//! clients   ─▶   │               ◀══ two lanes ══      │                         ──▶ disk: slow, failing, half done
//!                ▼                                     ▼
//!              oracle: invariants 21, 25 to 31, 34, 35, 37 and 40, after every step
//! ```
//!
//! A history is a list of steps out of a seed, as in [`crate::plan`]; what depends on control's own doings is drawn where it
//! happens. Shards are modelled by control's contract with them, [`keyway_node::messages`]: what they act by, hold and seal.

mod books;
mod calm;
mod coverage;
mod drive;
mod impossible;
pub(crate) mod kms;
pub(crate) mod plan;
mod process;
mod shards;
mod steps;
mod tell;
mod visible;

use crate::dice::Dice;
use crate::history;
use crate::oracle::{Checked, Violation};
use crate::schedule::Scheduled;
use crate::trace::Trace;
use books::Books;
use keyway_core::Instant;
use keyway_node::catalogue::Catalogue;
use keyway_node::control::{Control, KmsAnswer};
use keyway_node::ids::{CallId, WriteId};
use keyway_node::messages::{Lane, ToControl, ToShard};
use keyway_node::time::Moment;
use kms::{Dek, SimKms};
use plan::{ControlPlan, DiskMood};
use shards::SimShard;
use std::collections::{BTreeMap, BinaryHeap};

pub use coverage::ControlCoverage;

/// The wall clock at virtual time 0, ms.
const UNIX_MS: u64 = 1_900_000_000_000;

/// How a history of control ended.
#[derive(Debug, Default)]
pub struct ControlOutcome {
    /// What it broke, if anything.
    pub violation: Option<Violation>,
    /// Virtual time, µs.
    pub virtual_us: u64,
    /// Inputs to control.
    pub inputs: u64,
    /// Uses of keys, and seals.
    pub served: u64,
    /// Calls to KMSes.
    pub calls: u64,
    /// Which inputs met which states.
    pub coverage: ControlCoverage,
}

/// Runs the history of a seed.
#[must_use]
pub fn run_seed(seed: u64) -> ControlOutcome {
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

fn run_plan(plan: &ControlPlan, trace: Trace) -> (ControlOutcome, Vec<String>, u64) {
    let mut world = World::new(plan, trace);
    let violation = history::verdict_of(|| world.run());
    let hash = world.trace.hash();
    let lines = world.trace.take();
    let outcome = ControlOutcome {
        violation,
        virtual_us: world.now,
        inputs: world.inputs,
        served: world.served,
        calls: world.made,
        coverage: std::mem::take(&mut world.coverage),
    };
    (outcome, lines, hash)
}

/// Something that will happen.
enum Event {
    ToControl {
        from: u16,
        message: ToControl,
    },
    ToShard {
        shard: u16,
        message: ToShard,
    },
    KmsAnswers {
        call: CallId,
        answer: KmsAnswer,
    },
    /// The file is replaced.
    Replaced(WriteId),
    Saved {
        write: WriteId,
        result: Result<(), String>,
    },
    HotKeysSaved,
    /// Nothing of a locked keyspace is left at a shard.
    Wiped {
        shard: u16,
        keyspace: u32,
    },
    /// A blob is in a shard's log.
    Landed {
        shard: u16,
        keyspace: u32,
        seal: u64,
    },
    /// Every shard must act by a lock by now.
    MustBeLocked {
        keyspace: u32,
        lock: u64,
    },
    /// Every shard must act by a withdrawal by now.
    MustBeWithdrawn {
        token: u64,
    },
    /// An emergency command must have its answer by now.
    MustBeAnswered {
        token: u64,
    },
}

/// `keyspaces.json`, and the write in progress.
struct Disk {
    durable: Catalogue,
    /// The contents that it replaced, until control has been notified.
    before: Option<Catalogue>,
    writing: Option<(WriteId, Catalogue)>,
    mood: DiskMood,
    takes_us: u64,
}

/// All of it.
struct World<'a> {
    plan: &'a ControlPlan,
    now: u64,
    sequence: u64,
    incarnation: u64,
    queue: BinaryHeap<Scheduled<Event>>,
    /// Messages of one way and lane arrive in their order.
    lanes: BTreeMap<(bool, u16, Lane), u64>,
    control: Control,
    shards: Vec<SimShard>,
    /// By shard; they outlive the process.
    logs: Vec<Vec<Dek>>,
    kms: [SimKms; 2],
    disk: Disk,
    books: Books,
    tokens: u64,
    seals: u64,
    made: u64,
    inputs: u64,
    served: u64,
    coverage: ControlCoverage,
    trace: Trace,
}

impl<'a> World<'a> {
    fn new(plan: &'a ControlPlan, trace: Trace) -> Self {
        let now = 1_000_000;
        let durable = process::first_catalogue(plan, moment(now));
        let kms = [SimKms::new(0), SimKms::new(1)];
        Self {
            plan,
            now,
            sequence: 0,
            incarnation: 0,
            queue: BinaryHeap::new(),
            lanes: BTreeMap::new(),
            control: process::control(plan, moment(now), durable.clone(), &kms, 0),
            shards: Vec::new(),
            logs: vec![Vec::new(); usize::from(plan.shards)],
            kms,
            disk: Disk {
                durable,
                before: None,
                writing: None,
                mood: DiskMood::Good,
                takes_us: 1_000,
            },
            books: Books::default(),
            tokens: 0,
            seals: 0,
            made: 1_000,
            inputs: 0,
            served: 0,
            coverage: ControlCoverage::default(),
            trace,
        }
    }

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
                    self.happen(scheduled)?;
                }
            } else {
                self.now = tick_at;
                self.tick()?;
            }
        }
        self.now = to;
        Ok(())
    }
}

fn moment(now: u64) -> Moment {
    Moment {
        unix_ms: UNIX_MS + now / 1_000,
        instant: Instant::from_micros(now),
    }
}
