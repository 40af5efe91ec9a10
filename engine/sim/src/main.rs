//! `keyway-sim`: runs histories until one breaks a promise, and shows it.

mod campaign;
mod control_totals;
mod core_totals;
mod disk_totals;
mod node_totals;
mod picture;
mod replayable;
mod report;

use campaign::{Campaign, Extent};
use clap::{Parser, Subcommand};
use control_totals::ControlTotals;
use core_totals::CoreTotals;
use disk_totals::DiskTotals;
use node_totals::NodeTotals;
use replayable::Histories;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Histories from this seed include everything.
const NEWEST_FROM: u64 = 1_000_000;
/// This many histories reach every possible pair of state and input.
const SEEDS_THAT_REACH_ALL: u64 = 100_000;

/// Keyway's shards in virtual time, with faults, and checkers for every promise.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the histories of many seeds; stops at the first that breaks a promise, and shrinks it
    Run {
        #[command(flatten)]
        extent: Extent,
        /// The first one; those below 200,000 are histories of before something was added
        #[arg(long, default_value_t = NEWEST_FROM)]
        from: u64,
        /// Fail unless every pair of state and input was reached, or is known to be impossible; with
        /// 100,000 seeds and more that is demanded anyway
        #[arg(long)]
        coverage: bool,
        /// Where to draw which inputs occurred in which states, as SVG
        #[arg(long)]
        svg: Option<PathBuf>,
        /// Do not shrink a failing history
        #[arg(long)]
        no_shrink: bool,
    },
    /// Show the history of one seed as text; of a failing one the shortest that still fails
    Replay {
        /// The seed that a failing run printed
        seed: u64,
        /// The complete history, even if it fails
        #[arg(long)]
        whole: bool,
    },
    /// Run histories of the node's control state machine; stops at the first that breaks a promise, and shrinks it
    Control(Histories),
    /// Run histories of the blob logs over a virtual disk; stops at the first that breaks a promise, and shrinks it
    Disk(Histories),
    /// Run histories of the whole node, bytes to bytes; stops at the first that breaks a promise, and shrinks it
    Node(Histories),
    /// Print a hash of each history: two runs, in two processes, must print the same
    Hashes {
        /// How many
        #[arg(long, default_value_t = 200)]
        seeds: u64,
        /// The first one
        #[arg(long, default_value_t = NEWEST_FROM)]
        from: u64,
        /// Plant a source of nondeterminism, which must show in the hashes
        #[arg(long)]
        planted: bool,
    },
    /// Run the seeds that have failed before
    Regressions {
        /// One seed per line, with what it once broke
        #[arg(default_value = "engine/sim/regressions.txt")]
        file: PathBuf,
    },
    /// List the pairs of state and input that cannot occur, with the reasons
    Impossible,
}

fn main() -> ExitCode {
    // A failed assertion of the core is a finding, and is reported as one.
    std::panic::set_hook(Box::new(|_| {}));
    let passed = match Args::parse().command {
        Command::Run {
            extent,
            from,
            coverage,
            svg,
            no_shrink,
        } => run(
            extent.seeds_from(from),
            extent.jobs,
            extent.json.as_deref(),
            svg.as_deref(),
            coverage,
            !no_shrink,
        ),
        Command::Replay { seed, whole } => report::replay(seed, whole),
        Command::Control(histories) => histories.run::<ControlTotals>(),
        Command::Disk(histories) => histories.run::<DiskTotals>(),
        Command::Node(histories) => histories.run::<NodeTotals>(),
        Command::Hashes {
            seeds,
            from,
            planted,
        } => {
            for seed in from..from.saturating_add(seeds) {
                let shards = keyway_sim::hash_of(seed, planted);
                let control = keyway_sim::control::hash_of(seed);
                let disk = keyway_sim::disk::history::hash_of(seed);
                let node = keyway_sim::node::hash_of(seed);
                println!("{seed} {shards:016x} {control:016x} {disk:016x} {node:016x}");
            }
            true
        }
        Command::Regressions { file } => regressions(&file),
        Command::Impossible => {
            report::impossible();
            true
        }
    };
    if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run(
    seeds: Range<u64>,
    jobs: Option<usize>,
    json: Option<&Path>,
    svg: Option<&Path>,
    demand_all: bool,
    shrink: bool,
) -> bool {
    let demand_all = demand_all || seeds.end - seeds.start >= SEEDS_THAT_REACH_ALL;
    let result = Campaign::<CoreTotals>::run(seeds, jobs);
    let shrunk = match (&result.failed, shrink) {
        (Some((seed, _)), true) => keyway_sim::shrink(*seed),
        _ => None,
    };
    let written = report::write(json, || report::json(&result, shrunk.as_ref()))
        && report::write(svg, || picture::svg(&result.totals.coverage, result.seeds));
    report::summary(&result);
    if let Some((seed, violation)) = &result.failed {
        report::failure(*seed, violation, shrunk.as_ref());
        return false;
    }
    let complete = report::coverage(&result.totals.coverage);
    written && (complete || !demand_all)
}

fn regressions(file: &Path) -> bool {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("keyway-sim: cannot read {}: {error}", file.display());
            return false;
        }
    };
    let mut passed = true;
    let mut count = 0;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let Ok(seed) = line.parse() else {
            eprintln!("keyway-sim: {}: '{line}' is no seed", file.display());
            return false;
        };
        count += 1;
        if let Some(violation) = keyway_sim::run_seed(seed).violation {
            report::failure(seed, &violation, None);
            passed = false;
        }
    }
    println!(
        "{count} seeds that failed before: {}",
        if passed { "all hold" } else { "not all hold" }
    );
    passed
}
