//! Histories of the blob logs of a node: puts, revocations, deletions, listings and compactions over a disk that fails,
//! and crashes.
//!
//! The oracle is [`books`]: acknowledged writes are durable (16), versions never go down (9), a revocation of a key or of
//! one version holds (11) and is remembered no longer than the version is stored (36), a
//! read sees what was acknowledged before it (37), what was refused is never there (38), a listing holds every key that
//! was there throughout (39), and at the end all comes to rest (21).

mod books;
mod check;
mod plan;
mod steps;

use super::{DiskMood, SimDisk, SimLog};
use crate::history;
use crate::oracle::{Checked, Violation};
use crate::trace::Trace;
use books::{Books, Key, Told};
use keyway_store::virtual_files::Lie;
use plan::Plan;
use std::collections::BTreeMap;

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

/// Returns the history of a seed as text, and what it broke. One that breaks something is shortened first, unless the
/// `whole` history is wanted.
#[must_use]
pub fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>) {
    history::trace_of(plan::plan(seed), whole, |plan, trace| {
        let (outcome, lines, _) = run_plan(plan, trace, None);
        (outcome.violation, lines)
    })
}

fn run_plan(plan: &Plan, trace: Trace, lie: Option<Lie>) -> (DiskOutcome, Vec<String>, u64) {
    let mut world = World::new(plan, trace);
    if let Some(lie) = lie {
        world.disk.lie(lie);
    }
    let violation = history::verdict_of(|| world.run(plan));
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
    RevokeVersion(Key, u32),
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
        disk.set_versions_of(books::versions_of);
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
        for planned in &plan.steps {
            self.pass(planned.after_us)?;
            let now_us = self.now_us;
            self.trace.note(now_us, || {
                format!("step {}: {:?}", planned.number, planned.step)
            });
            self.step(planned.step)?;
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
