//! What the histories of every world share: steps in time, a verdict also on a panic, and shortening of those that fail.

use crate::oracle::{Checked, Violation};
use crate::trace::Trace;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Most runs used for shortening a history.
const RUNS_MAX: usize = 3_000;

/// A step of a plan.
#[derive(Clone, Debug)]
pub(crate) struct Planned<S> {
    /// Its position in the complete list, on which its draws depend.
    pub(crate) number: u64,
    /// µs after the step before.
    pub(crate) after_us: u64,
    pub(crate) step: S,
}

/// A plan whose steps can be left out.
pub(crate) trait Steps: Clone {
    type Step;

    fn steps(&mut self) -> &mut Vec<Planned<Self::Step>>;
}

/// Runs a history. Returns what it broke: a failed assertion is a violation like any other.
pub(crate) fn verdict_of(run: impl FnOnce() -> Checked) -> Option<Violation> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(checked) => checked.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Some(Violation {
                invariant: 0,
                what: format!("panicked: {}", text.unwrap_or_default()),
            })
        }
    }
}

/// Leaves out steps as long as the plan breaks the same invariant. The time of those left out remains.
pub(crate) fn shorten<P: Steps>(
    mut best: P,
    invariant: u8,
    verdict: impl Fn(&P) -> Option<Violation>,
) -> P {
    let mut runs = 0;
    let mut chunk = best.steps().len().div_ceil(2);
    loop {
        let (mut at, mut is_shorter) = (0, false);
        while at < best.steps().len() && runs < RUNS_MAX {
            runs += 1;
            let candidate = without(&best, at, chunk);
            if verdict(&candidate).is_some_and(|other| other.invariant == invariant) {
                best = candidate;
                is_shorter = true;
            } else {
                at += chunk;
            }
        }
        if (chunk == 1 && !is_shorter) || runs >= RUNS_MAX {
            return best;
        }
        chunk = (chunk / 2).max(1);
    }
}

/// Returns the history of a plan as text, and what it broke. A plan that breaks something is shortened first, unless the
/// `whole` history is wanted.
pub(crate) fn trace_of<P: Steps>(
    mut plan: P,
    whole: bool,
    run: impl Fn(&P, Trace) -> (Option<Violation>, Vec<String>),
) -> (Vec<String>, Option<Violation>) {
    if !whole && let Some(broken) = run(&plan, Trace::default()).0 {
        plan = shorten(plan, broken.invariant, |plan| run(plan, Trace::default()).0);
    }
    let (violation, lines) = run(&plan, Trace::on());
    (lines, violation)
}

fn without<P: Steps>(plan: &P, at: usize, count: usize) -> P {
    let mut shorter = plan.clone();
    let steps = shorter.steps();
    let end = (at + count).min(steps.len());
    let gap_us: u64 = steps.drain(at..end).map(|planned| planned.after_us).sum();
    if let Some(next) = steps.get_mut(at) {
        next.after_us += gap_us;
    }
    shorter
}
