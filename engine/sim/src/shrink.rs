//! Shrinks a failing history: steps are left out while the same invariant breaks.

use crate::history::shorten;
use crate::oracle::Violation;
use crate::plan;
use crate::run::run_plan;
use crate::trace::Trace;

/// A short history that breaks the same promise as the long one.
#[derive(Debug)]
pub struct Shrunk {
    /// Number of steps of the seed's own plan.
    pub steps_before: usize,
    /// Number of remaining steps.
    pub steps: usize,
    /// The broken promise.
    pub violation: Violation,
    /// The short history as text.
    pub trace: Vec<String>,
}

/// Shrinks the history of a seed. Returns `None` if it breaks nothing.
#[must_use]
pub fn shrink(seed: u64) -> Option<Shrunk> {
    let whole = plan::plan(seed);
    let broken = run_plan(&whole, Trace::default()).0.violation?;
    let steps_before = whole.steps.len();
    let best = shorten(whole, broken.invariant, |plan| {
        run_plan(plan, Trace::default()).0.violation
    });
    let (outcome, trace) = run_plan(&best, Trace::on());
    Some(Shrunk {
        steps_before,
        steps: best.steps.len(),
        violation: outcome.violation.unwrap_or(broken),
        trace,
    })
}
