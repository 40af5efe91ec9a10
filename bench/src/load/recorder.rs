//! The outcomes of requests.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use keyway_protocol::{ResponseFlags, ResponseFrame, Status};
use serde::Serialize;

/// Latencies are recorded in ns, up to this, with three significant digits.
const LATENCY_NS_MAX: u64 = 600_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;
pub const SECOND_NS: u64 = 1_000_000_000;

/// One second of a run, by the time of the answer.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    /// The second's start, from the start of the run.
    pub at_s: u64,
    /// Requests answered in it.
    pub answered: u64,
    /// Of these, with a status other than OK.
    pub not_ok: u64,
    /// Median latency of these answers; 0 if there was none.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// The slowest.
    pub max_us: f64,
}

/// Called at the end of each second of a run.
pub type Seconds<'a> = &'a mut dyn FnMut(&Second);

/// The measurements of a complete run.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Requests that were due.
    pub offered: u64,
    /// Requests that were answered, whatever the status.
    pub answered: u64,
    /// Answers with the stale flag.
    pub stale: u64,
    /// Answers by status.
    pub by_status: BTreeMap<&'static str, u64>,
    /// From the first due time to the last answer, or to the end of the patience.
    pub elapsed: Duration,
    /// Latency in ns of every request that was due; one that was never answered counts with the
    /// time that it was waited for.
    pub latency_ns: Histogram<u64>,
    /// Second by second.
    pub seconds: Vec<Second>,
}

impl Recording {
    /// Answers with status OK.
    pub fn ok(&self) -> u64 {
        self.count(Status::Ok)
    }

    /// Answers with this status.
    pub fn count(&self, status: Status) -> u64 {
        self.by_status.get(status.name()).copied().unwrap_or(0)
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> u64 {
        self.offered - self.answered
    }

    /// A latency quantile in µs, `0 <= q <= 1`.
    pub fn latency_us(&self, q: f64) -> f64 {
        us(self.latency_ns.value_at_quantile(q))
    }
}

/// Records answers as they arrive.
#[derive(Debug)]
pub struct Recorder {
    outcome: Recording,
    second: Histogram<u64>,
    second_not_ok: u64,
}

impl Recorder {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self {
            outcome: Recording {
                offered: 0,
                answered: 0,
                stale: 0,
                by_status: BTreeMap::new(),
                elapsed: Duration::ZERO,
                latency_ns: histogram(),
                seconds: Vec::new(),
            },
            second: histogram(),
            second_not_ok: 0,
        }
    }

    /// A request that was due at `due_ns` has been answered at `now_ns`.
    pub fn answer(&mut self, due_ns: u64, now_ns: u64, frame: &ResponseFrame) {
        let latency_ns = now_ns.saturating_sub(due_ns);
        self.outcome.offered += 1;
        self.outcome.answered += 1;
        self.outcome.latency_ns.saturating_record(latency_ns);
        self.second.saturating_record(latency_ns);
        *self
            .outcome
            .by_status
            .entry(frame.status.name())
            .or_default() += 1;
        self.outcome.stale += u64::from(frame.flags.contains(ResponseFlags::STALE));
        self.second_not_ok += u64::from(frame.status != Status::Ok);
    }

    /// A request that was due at `due_ns` has been given up at `now_ns`.
    pub fn unanswered(&mut self, due_ns: u64, now_ns: u64) {
        self.outcome.offered += 1;
        self.outcome
            .latency_ns
            .saturating_record(now_ns.saturating_sub(due_ns));
    }

    /// Closes the seconds that are over at `now_ns`.
    pub fn tick(&mut self, now_ns: u64, each: &mut dyn FnMut(&Second)) {
        while now_ns >= (self.outcome.seconds.len() as u64 + 1) * SECOND_NS {
            let second = Second {
                at_s: self.outcome.seconds.len() as u64,
                answered: self.second.len(),
                not_ok: self.second_not_ok,
                p50_us: us(self.second.value_at_quantile(0.5)),
                p99_us: us(self.second.value_at_quantile(0.99)),
                max_us: us(self.second.max()),
            };
            self.second.reset();
            self.second_not_ok = 0;
            each(&second);
            self.outcome.seconds.push(second);
        }
    }

    /// Returns the measurements of the complete run.
    pub fn finish(mut self, now_ns: u64) -> Recording {
        self.outcome.elapsed = Duration::from_nanos(now_ns);
        self.outcome
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that HDR histograms allow")
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1e3
}
