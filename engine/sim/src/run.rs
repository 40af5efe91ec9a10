//! Runs one history, from its seed to its verdict.

use crate::coverage::Coverage;
use crate::history::verdict_of;
use crate::oracle::Violation;
use crate::plan::{self, Plan};
use crate::trace::Trace;
use crate::world::World;

/// The result of a history.
#[derive(Debug, Default)]
pub struct RunResult {
    /// The broken promise, if any.
    pub violation: Option<Violation>,
    /// Virtual time, in µs.
    pub virtual_us: u64,
    /// Inputs to shards.
    pub inputs: u64,
    /// Operations executed with a key.
    pub served: u64,
    /// Loads started.
    pub loads: u64,
    /// Which inputs met which states.
    pub coverage: Coverage,
    /// The hash of the history as text, if it was requested.
    pub trace_hash: u64,
}

/// Runs the history of a seed.
#[must_use]
pub fn run_seed(seed: u64) -> RunResult {
    run_plan(&plan::plan(seed), Trace::default()).0
}

/// Returns the history of a seed as text, and the broken promise.
#[must_use]
pub fn trace_of(seed: u64) -> (Vec<String>, Option<Violation>) {
    let (outcome, lines) = run_plan(&plan::plan(seed), Trace::on());
    (lines, outcome.violation)
}

/// Returns a hash of the history of a seed as text: the same in every run, in every process. `is_planted`: one delay in
/// it comes from a random source, which a comparison of two runs must detect.
#[must_use]
pub fn hash_of(seed: u64, is_planted: bool) -> u64 {
    let mut plan = plan::plan(seed);
    plan.is_nondeterministic = is_planted;
    run_plan(&plan, Trace::hashed()).0.trace_hash
}

/// Runs a plan. A failed assertion of the core is a violation like any other.
pub(crate) fn run_plan(plan: &Plan, trace: Trace) -> (RunResult, Vec<String>) {
    let mut world = World::new(plan, trace);
    let violation = verdict_of(|| world.run());
    let trace_hash = world.trace.hash();
    let lines = world.trace.take();
    let figures = world.figures;
    let outcome = RunResult {
        violation,
        virtual_us: figures.virtual_us,
        inputs: figures.inputs,
        served: figures.served,
        loads: figures.loads,
        coverage: std::mem::take(&mut world.coverage),
        trace_hash,
    };
    (outcome, lines)
}
