//! Shrinks a failing history: steps are left out while the same invariant breaks.

use crate::oracle::Violation;
use crate::plan::{self, Plan};
use crate::run::run_plan;
use crate::trace::Trace;

/// Most runs used for shrinking.
const RUNS_MAX: usize = 3_000;

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
    let mut best = whole;
    let mut runs = 0;
    let mut chunk = best.steps.len().div_ceil(2);
    loop {
        let mut shorter = false;
        let mut at = 0;
        while at < best.steps.len() && runs < RUNS_MAX {
            runs += 1;
            let candidate = without(&best, at, chunk);
            let violation = run_plan(&candidate, Trace::default()).0.violation;
            if violation.is_some_and(|other| other.invariant == broken.invariant) {
                best = candidate;
                shorter = true;
            } else {
                at += chunk;
            }
        }
        if (chunk == 1 && !shorter) || runs >= RUNS_MAX {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    let (outcome, trace) = run_plan(&best, Trace::on());
    Some(Shrunk {
        steps_before,
        steps: best.steps.len(),
        violation: outcome.violation.unwrap_or(broken),
        trace,
    })
}

/// Returns the plan without some steps; their time remains.
fn without(plan: &Plan, at: usize, count: usize) -> Plan {
    let mut shorter = plan.clone();
    let end = (at + count).min(plan.steps.len());
    let gone = shorter.steps.drain(at..end);
    let gap_us: u64 = gone.map(|planned| planned.after_us).sum();
    if let Some(next) = shorter.steps.get_mut(at) {
        next.after_us += gap_us;
    }
    shorter
}
