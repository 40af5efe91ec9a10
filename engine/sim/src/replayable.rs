//! Histories that are run, shown and replayed in the same way: those of control, of the blob logs and of the node.

use crate::campaign::{Campaign, Extent, Totals};
use crate::report;
use clap::Args;
use keyway_sim::Violation;
use serde_json::Value;

/// A kind of history with a subcommand of its own.
pub trait Replayable: Totals {
    /// The subcommand.
    const COMMAND: &'static str;
    /// What its histories are called.
    const NAME: &'static str;
    /// The first seed, unless another one is named: its histories include everything.
    const FIRST: u64 = 0;

    /// Returns the history of a seed as text, and what it broke; unless it is wanted whole, a failing one is shortened.
    fn trace_of(seed: u64, whole: bool) -> (Vec<String>, Option<Violation>);

    /// Returns the totals as JSON.
    fn json(&self) -> Value;

    /// Prints the totals of `seeds` histories as text. Returns `true` if they reached all that they must.
    fn show(&self, seeds: u64) -> bool;
}

/// Which histories to run, or which one to show.
#[derive(Args)]
pub struct Histories {
    #[command(flatten)]
    extent: Extent,
    /// The first one; those of the node below 1,000,000 are histories of before something was added
    #[arg(long)]
    from: Option<u64>,
    /// Show this one history as text instead
    #[arg(long)]
    replay: Option<u64>,
    /// The complete history, even if it fails
    #[arg(long)]
    whole: bool,
}

impl Histories {
    /// Runs the histories, or shows the one. Returns `true` if no promise was broken.
    pub fn run<T: Replayable>(self) -> bool {
        if let Some(seed) = self.replay {
            let violation = show::<T>(seed, self.whole);
            if violation.is_none() {
                println!("seed {seed} breaks nothing");
            }
            return violation.is_none();
        }
        let campaign = Campaign::<T>::run(
            self.extent.seeds_from(self.from.unwrap_or(T::FIRST)),
            self.extent.jobs,
        );
        let written = report::write(self.extent.json.as_deref(), || {
            campaign.json(campaign.totals.json(), None)
        });
        campaign.summary(T::NAME);
        let is_complete = campaign.totals.show(campaign.seeds);
        if let Some((seed, violation)) = &campaign.failed
            && show::<T>(*seed, false).is_none()
        {
            report::broken(*seed, violation);
        }
        written && is_complete && campaign.failed.is_none()
    }
}

fn show<T: Replayable>(seed: u64, whole: bool) -> Option<Violation> {
    let (lines, violation) = T::trace_of(seed, whole);
    for line in lines {
        println!("{line}");
    }
    if let Some(violation) = &violation {
        report::broken(seed, violation);
        println!("see it again: keyway-sim {} --replay {seed}", T::COMMAND);
    }
    violation
}
