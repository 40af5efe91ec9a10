//! Histories of the blob logs of a node: puts, revocations, deletions, listings and compactions over a disk that fails,
//! and crashes.
//!
//! The oracle is [`books`]: acknowledged writes are durable (16), versions never go down (9), a revocation holds (11), a
//! read sees what was acknowledged before it (37), what was refused is never there (38), a listing holds every key that
//! was there throughout (39), and at the end all comes to rest (21).

mod books;
mod check;
mod plan;
mod steps;

use super::{DiskMood, SimDisk, SimLog};
use crate::oracle::{Checked, Violation};
use crate::trace::Trace;
use books::{Books, Key, Told};
use keyway_store::virtual_files::Lie;
use plan::Plan;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How a history of the logs ended.
#[derive(Debug, Default)]
pub struct DiskOutcome {
    /// What it broke, if anything.
    pub violation: Option<Violation>,
    /// Virtual time, µs.
    pub virtual_us: u64,
    /// Errands.
    pub errands: u64,
    /// Puts, revocations, deletions and counts that were acknowledged.
    pub acknowledged: u64,
    /// Ends of processes.
    pub crashes: u64,
    /// Segments that compactions removed.
    pub compacted: u64,
}

/// Runs the history of a seed.
#[must_use]
pub fn run_seed(seed: u64) -> DiskOutcome {
    run_plan(&plan::plan(seed), Trace::default(), None).0
}

/// Runs the history of a seed on a disk that reports what it has not done.
#[must_use]
pub fn run_lying(seed: u64, lie: Lie) -> DiskOutcome {
    run_plan(&plan::plan(seed), Trace::default(), Some(lie)).0
}

/// A hash of the history of a seed in words.
#[must_use]
pub fn hash_of(seed: u64) -> u64 {
    run_plan(&plan::plan(seed), Trace::hashed(), None).2
}

/// The history of a seed in words, and what it broke; one that breaks something is made as short as it goes first.
#[must_use]
pub fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>) {
    let mut plan = plan::plan(seed);
    if !whole && let Some(broken) = run_plan(&plan, Trace::default(), None).0.violation {
        plan = shorten(plan, broken.invariant);
    }
    let (outcome, lines, _) = run_plan(&plan, Trace::on(), None);
    (lines, outcome.violation)
}

/// Leaves out steps as long as the same invariant breaks.
fn shorten(mut best: Plan, invariant: u8) -> Plan {
    let mut chunk = best.steps.len().div_ceil(2);
    loop {
        let (mut at, mut is_shorter) = (0, false);
        while at < best.steps.len() {
            let mut candidate = best.clone();
            let end = (at + chunk).min(best.steps.len());
            let gone: u64 = candidate.steps.drain(at..end).map(|it| it.after_us).sum();
            if let Some(next) = candidate.steps.get_mut(at) {
                next.after_us += gone;
            }
            let violation = run_plan(&candidate, Trace::default(), None).0.violation;
            if violation.is_some_and(|other| other.invariant == invariant) {
                best = candidate;
                is_shorter = true;
            } else {
                at += chunk;
            }
        }
        if chunk == 1 && !is_shorter {
            return best;
        }
        chunk = (chunk / 2).max(1);
    }
}

fn run_plan(plan: &Plan, trace: Trace, lie: Option<Lie>) -> (DiskOutcome, Vec<String>, u64) {
    let mut world = World::new(plan, trace);
    if let Some(lie) = lie {
        world.disk.lie(lie);
    }
    let ended = catch_unwind(AssertUnwindSafe(|| world.run(plan)));
    let violation = match ended {
        Ok(checked) => checked.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(Violation {
                invariant: 0,
                what: format!("panicked: {}", text.unwrap_or_default()),
            })
        }
    };
    let (hash, lines) = (world.trace.hash(), world.trace.take());
    let outcome = DiskOutcome {
        violation,
        virtual_us: world.now_us,
        ..world.outcome
    };
    (outcome, lines, hash)
}

/// A node's logs, and who uses them.
struct World {
    disk: SimDisk,
    logs: Vec<SimLog<u64>>,
    now_us: u64,
    books: Books,
    /// Errands in flight, by number.
    asked: BTreeMap<u64, Asked>,
    next: u64,
    outcome: DiskOutcome,
    trace: Trace,
}

/// What an errand is for.
enum Asked {
    /// Of this attempt.
    Put(u64),
    Read(Key, Told),
    Revoke(Key),
    Delete(Key),
    RevokedAt(Key, Told),
    Reserve(Key, u32),
    List(Listing),
}

/// A listing that is being paged through.
struct Listing {
    shard: usize,
    keyspace: u32,
    rows_max: usize,
    /// Keys that were there when it began, with what was known of them.
    before: BTreeMap<Key, Told>,
    shown: BTreeMap<Key, u64>,
}

impl World {
    fn new(plan: &Plan, trace: Trace) -> Self {
        let mut disk = SimDisk::new(plan.seed);
        disk.set_mood(DiskMood {
            takes_us: 100,
            ..DiskMood::default()
        });
        Self {
            disk,
            logs: Vec::new(),
            now_us: 0,
            books: Books::default(),
            asked: BTreeMap::new(),
            next: 0,
            outcome: DiskOutcome::default(),
            trace,
        }
    }

    fn run(&mut self, plan: &Plan) -> Checked {
        self.logs = self
            .disk
            .start(self.now_us, plan.shards, route(plan.shards));
        for (at, step) in plan.steps.iter().enumerate() {
            self.pass(step.after_us)?;
            let now_us = self.now_us;
            self.trace
                .note(now_us, || format!("step {at}: {:?}", step.what));
            self.step(step.what)?;
        }
        self.come_to_rest()
    }
}

/// Spreads keys over shards.
fn route(shards: u16) -> impl Fn(u32, &[u8]) -> usize {
    move |keyspace, key_id| {
        let sum = key_id
            .iter()
            .fold(keyspace as usize, |sum, byte| sum + usize::from(*byte));
        sum % usize::from(shards)
    }
}
