//! Runs many seeds on many threads, with progress.

use keyway_sim::{Coverage, Violation, run_seed};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The totals of many histories.
#[derive(Debug, Default)]
pub struct Campaign {
    /// Number of histories.
    pub seeds: u64,
    /// Virtual time of all of them, in µs.
    pub virtual_us: u64,
    /// Real time, in s.
    pub wall_s: f64,
    /// Inputs to shards.
    pub inputs: u64,
    /// Operations executed with a key.
    pub served: u64,
    /// Loads started.
    pub loads: u64,
    /// Pairs of state and input reached.
    pub coverage: Coverage,
    /// The lowest seed that broke a promise.
    pub failed: Option<(u64, Violation)>,
}

/// Runs the seeds in order, `jobs` at a time, until one fails.
pub fn run(seeds: Range<u64>, jobs: usize) -> Campaign {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let last = AtomicU64::new(seeds.end);
    let sum = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs)
            .map(|_| scope.spawn(|| work(&next, &last, &sum)))
            .collect();
        let mut told = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(20));
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                tell(&sum, began, seeds.end - seeds.start);
            }
        }
    });
    let mut campaign = sum.into_inner().unwrap_or_default();
    campaign.wall_s = began.elapsed().as_secs_f64();
    campaign
}

fn work(next: &AtomicU64, last: &AtomicU64, sum: &Mutex<Campaign>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= last.load(Ordering::Relaxed) {
            return;
        }
        let outcome = run_seed(seed);
        let mut sum = sum
            .lock()
            .expect("a worker's panic is caught where it happens");
        sum.seeds += 1;
        sum.virtual_us += outcome.virtual_us;
        sum.inputs += outcome.inputs;
        sum.served += outcome.served;
        sum.loads += outcome.loads;
        sum.coverage.add(&outcome.coverage);
        if let Some(violation) = outcome.violation {
            last.fetch_min(seed, Ordering::Relaxed);
            if sum.failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                sum.failed = Some((seed, violation));
            }
        }
    }
}

fn tell(sum: &Mutex<Campaign>, began: Instant, seeds: u64) {
    let sum = sum
        .lock()
        .expect("a worker's panic is caught where it happens");
    let wall_s = began.elapsed().as_secs_f64();
    eprintln!(
        "{:>7} of {seeds} seeds, {:.0} a second, {:.0} x real time, {} of {} pairs reached",
        sum.seeds,
        sum.seeds as f64 / wall_s,
        sum.virtual_us as f64 / 1e6 / wall_s,
        sum.coverage.reached_pairs(),
        Coverage::pairs(),
    );
}
