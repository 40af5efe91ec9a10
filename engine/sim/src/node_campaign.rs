//! Many histories of the whole node.

use keyway_sim::node::{NodeCoverage, run_seed, trace_of};
use keyway_sim::{INVARIANTS, Violation};
use serde_json::json;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What many histories came to.
#[derive(Debug, Default)]
pub struct NodeCampaign {
    seeds: u64,
    virtual_us: u64,
    wall_s: f64,
    turns: u64,
    answers: u64,
    served: u64,
    coverage: NodeCoverage,
    failed: Option<(u64, Violation)>,
}

/// Runs the seeds in order, `jobs` at a time, until one fails.
pub fn run(seeds: Range<u64>, jobs: usize) -> NodeCampaign {
    let began = Instant::now();
    let (next, last) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let sum = Mutex::new(NodeCampaign::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&next, &last, &sum));
        }
    });
    let mut campaign = sum.into_inner().unwrap_or_default();
    campaign.wall_s = began.elapsed().as_secs_f64();
    campaign
}

fn work(next: &AtomicU64, last: &AtomicU64, sum: &Mutex<NodeCampaign>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= last.load(Ordering::Relaxed) {
            return;
        }
        let outcome = run_seed(seed);
        let Ok(mut sum) = sum.lock() else { return };
        sum.seeds += 1;
        sum.virtual_us += outcome.virtual_us;
        sum.turns += outcome.turns;
        sum.answers += outcome.answers;
        sum.served += outcome.served;
        sum.coverage.add(&outcome.coverage);
        if let Some(violation) = outcome.violation {
            last.fetch_min(seed, Ordering::Relaxed);
            if sum.failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                sum.failed = Some((seed, violation));
            }
        }
    }
}

impl NodeCampaign {
    /// The results for a program.
    pub fn json(&self) -> String {
        let violation = self.failed.as_ref().map(|(seed, violation)| {
            json!({
                "seed": seed,
                "invariant": violation.invariant,
                "title": INVARIANTS[usize::from(violation.invariant)],
                "what": violation.what,
            })
        });
        let figures = json!({
            "seeds": self.seeds,
            "virtual_s": self.virtual_us as f64 / 1e6,
            "wall_s": self.wall_s,
            "turns": self.turns,
            "answers": self.answers,
            "served": self.served,
            "pairs_reached": self.coverage.pairs(),
            "violation": violation,
        });
        format!("{figures:#}\n")
    }

    /// The results as lines. True: nothing was broken.
    pub fn show(&self) -> bool {
        println!(
            "{} histories of the node in {:.1} s, {:.0} a second; {:.0} s of virtual time",
            self.seeds,
            self.wall_s,
            self.seeds as f64 / self.wall_s,
            self.virtual_us as f64 / 1e6,
        );
        println!(
            "{} turns, {} answers, {} uses of keys",
            self.turns, self.answers, self.served
        );
        println!("{} pairs of operation and answer:", self.coverage.pairs());
        let mut last = None;
        for (opcode, status, count) in self.coverage.rows() {
            if last.replace(opcode) != Some(opcode) {
                print!("\n  {:16}", opcode.name());
            }
            print!(" {}:{count}", status.name());
        }
        println!();
        if let Some((seed, violation)) = &self.failed {
            let (lines, shrunk) = trace_of(*seed, false);
            for line in lines {
                println!("{line}");
            }
            tell(*seed, shrunk.as_ref().unwrap_or(violation));
        }
        self.failed.is_none()
    }
}

/// Shows one history. True: it breaks nothing.
pub fn replay(seed: u64, whole: bool) -> bool {
    let (lines, violation) = trace_of(seed, whole);
    for line in lines {
        println!("{line}");
    }
    match &violation {
        Some(violation) => tell(seed, violation),
        None => println!("seed {seed} breaks nothing"),
    }
    violation.is_none()
}

fn tell(seed: u64, violation: &Violation) {
    let title = INVARIANTS[usize::from(violation.invariant)];
    println!(
        "\nseed {seed} breaks invariant {} ({title}):\n  {}",
        violation.invariant, violation.what
    );
    println!("see it again: keyway-sim node --replay {seed}");
}
