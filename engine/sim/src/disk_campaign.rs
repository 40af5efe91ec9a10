//! Many histories of the blob logs.

use keyway_sim::disk::history::{run_seed, trace_of};
use keyway_sim::{INVARIANTS, Violation};
use serde_json::json;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The totals of many histories.
#[derive(Debug, Default)]
pub struct DiskCampaign {
    seeds: u64,
    virtual_us: u64,
    wall_s: f64,
    errands: u64,
    acknowledged: u64,
    crashes: u64,
    compacted: u64,
    failed: Option<(u64, Violation)>,
}

/// Runs the seeds in order, `jobs` at a time, until one fails.
pub fn run(seeds: Range<u64>, jobs: usize) -> DiskCampaign {
    let began = Instant::now();
    let (next, last) = (AtomicU64::new(seeds.start), AtomicU64::new(seeds.end));
    let sum = Mutex::new(DiskCampaign::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| work(&next, &last, &sum));
        }
    });
    let mut campaign = sum.into_inner().unwrap_or_default();
    campaign.wall_s = began.elapsed().as_secs_f64();
    campaign
}

fn work(next: &AtomicU64, last: &AtomicU64, sum: &Mutex<DiskCampaign>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= last.load(Ordering::Relaxed) {
            return;
        }
        let outcome = run_seed(seed);
        let Ok(mut sum) = sum.lock() else { return };
        sum.seeds += 1;
        sum.virtual_us += outcome.virtual_us;
        sum.errands += outcome.errands;
        sum.acknowledged += outcome.acknowledged;
        sum.crashes += outcome.crashes;
        sum.compacted += outcome.compacted;
        if let Some(violation) = outcome.violation {
            last.fetch_min(seed, Ordering::Relaxed);
            if sum.failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                sum.failed = Some((seed, violation));
            }
        }
    }
}

impl DiskCampaign {
    /// Returns the totals as JSON.
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
            "errands": self.errands,
            "acknowledged": self.acknowledged,
            "crashes": self.crashes,
            "compacted_segments": self.compacted,
            "violation": violation,
        });
        format!("{figures:#}\n")
    }

    /// Prints the totals as text. Returns `true` if no promise was broken.
    pub fn show(&self) -> bool {
        println!(
            "{} histories of the blob logs in {:.1} s, {:.0} a second; {:.0} s of virtual time",
            self.seeds,
            self.wall_s,
            self.seeds as f64 / self.wall_s,
            self.virtual_us as f64 / 1e6,
        );
        println!(
            "{} errands, {} writes acknowledged, {} crashes, {} segments compacted",
            self.errands, self.acknowledged, self.crashes, self.compacted
        );
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

/// Prints one history. Returns `true` if it breaks nothing.
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
    println!("see it again: keyway-sim disk --replay {seed}");
}
