//! Runs many seeds on many threads, with progress, and shows the outcome.

use clap::Args;
use keyway_sim::{INVARIANTS, Violation};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How many histories to run, on how many threads, and where the results go.
#[derive(Args)]
pub struct Extent {
    /// How many
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// Threads; by default one for each core
    #[arg(long)]
    pub jobs: Option<usize>,
    /// Where to write the results, as JSON
    #[arg(long)]
    pub json: Option<PathBuf>,
}

impl Extent {
    /// Returns the seeds to run, of which `from` is the first.
    pub fn seeds_from(&self, from: u64) -> Range<u64> {
        from..from.saturating_add(self.seeds)
    }
}

/// The totals of histories of one kind.
pub trait Totals: Default + Send {
    /// Runs the history of a seed.
    fn run(seed: u64) -> Ran<Self>;

    /// Adds those of other histories.
    fn add(&mut self, other: Self);

    /// Returns what progress says of them: nothing, or words that continue the line.
    fn progress(&self) -> String {
        String::new()
    }
}

/// A history that was run.
pub struct Ran<T> {
    /// Virtual time, in µs.
    pub virtual_us: u64,
    /// The broken promise, if any.
    pub violation: Option<Violation>,
    pub totals: T,
}

/// What many histories came to.
#[derive(Debug, Default)]
pub struct Campaign<T> {
    /// Number of histories.
    pub seeds: u64,
    /// Virtual time of all of them, in µs.
    pub virtual_us: u64,
    /// Real time, in s.
    pub wall_s: f64,
    pub totals: T,
    /// The lowest seed that broke a promise.
    pub failed: Option<(u64, Violation)>,
}

impl<T: Totals> Campaign<T> {
    /// Runs the seeds in order, on as many threads as `jobs` says or there are cores, until one fails.
    pub fn run(seeds: Range<u64>, jobs: Option<usize>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = jobs.unwrap_or(cores).max(1);
        let began = Instant::now();
        let next = AtomicU64::new(seeds.start);
        let last = AtomicU64::new(seeds.end);
        let sum = Mutex::new(Self::default());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..jobs)
                .map(|_| scope.spawn(|| work(&next, &last, &sum)))
                .collect();
            let mut told = Instant::now();
            while workers.iter().any(|worker| !worker.is_finished()) {
                std::thread::sleep(Duration::from_millis(20));
                if told.elapsed() >= PROGRESS_EVERY {
                    told = Instant::now();
                    lock(&sum).tell(began, seeds.end - seeds.start);
                }
            }
        });
        let mut campaign = sum.into_inner().unwrap_or_default();
        campaign.wall_s = began.elapsed().as_secs_f64();
        campaign
    }

    fn add(&mut self, seed: u64, ran: Ran<T>) {
        self.seeds += 1;
        self.virtual_us += ran.virtual_us;
        self.totals.add(ran.totals);
        if let Some(violation) = ran.violation
            && self.failed.as_ref().is_none_or(|(other, _)| seed < *other)
        {
            self.failed = Some((seed, violation));
        }
    }

    fn tell(&self, began: Instant, seeds: u64) {
        let wall_s = began.elapsed().as_secs_f64();
        eprintln!(
            "{:>7} of {seeds} seeds, {:.0} a second, {:.0} x real time{}",
            self.seeds,
            self.seeds as f64 / wall_s,
            self.virtual_us as f64 / 1e6 / wall_s,
            self.totals.progress(),
        );
    }

    /// Returns `figures` with what is the same of all campaigns, as JSON. `steps`: those of the shortened history.
    pub fn json(&self, figures: Value, steps: Option<usize>) -> String {
        let violation = self.failed.as_ref().map(|(seed, violation)| {
            json!({
                "seed": seed,
                "invariant": violation.invariant,
                "title": INVARIANTS[usize::from(violation.invariant)],
                "what": violation.what,
                "steps": steps,
            })
        });
        let mut all = json!({
            "seeds": self.seeds,
            "virtual_s": self.virtual_us as f64 / 1e6,
            "wall_s": self.wall_s,
            "violation": violation,
        });
        if let (Value::Object(all), Value::Object(figures)) = (&mut all, figures) {
            all.extend(figures);
        }
        format!("{all:#}\n")
    }

    /// Prints how many histories there were, and how fast.
    pub fn summary(&self, what: &str) {
        let virtual_s = self.virtual_us as f64 / 1e6;
        println!(
            "{} {what} in {:.1} s, {:.0} a second; {virtual_s:.0} s of virtual time, {:.0} x real time",
            self.seeds,
            self.wall_s,
            self.seeds as f64 / self.wall_s,
            virtual_s / self.wall_s,
        );
    }
}

fn work<T: Totals>(next: &AtomicU64, last: &AtomicU64, sum: &Mutex<Campaign<T>>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= last.load(Ordering::Relaxed) {
            return;
        }
        let ran = T::run(seed);
        if ran.violation.is_some() {
            last.fetch_min(seed, Ordering::Relaxed);
        }
        lock(sum).add(seed, ran);
    }
}

fn lock<T>(sum: &Mutex<Campaign<T>>) -> MutexGuard<'_, Campaign<T>> {
    sum.lock()
        .expect("a worker's panic is caught where it happens")
}
