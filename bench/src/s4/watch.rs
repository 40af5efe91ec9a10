//! Looks at the server once a second while an arm runs.

use std::net::SocketAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::arm::{KEYSPACE, REHYDRATE_LATENCY};
use crate::control::Control;
use crate::error::{Context, Result};
use crate::server::scrape;

const PERIOD: Duration = Duration::from_secs(1);

/// Rehydrations between two scrapes, from the differences of the buckets.
#[derive(Clone, Debug, Serialize)]
pub struct RehydrateSecond {
    /// The time of the later scrape, from the start of the arm.
    pub at_s: f64,
    pub count: f64,
    pub p50_ms: f64,
    pub p95_ms: f64,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Second by second; seconds without a rehydration are left out.
    pub seconds: Vec<RehydrateSecond>,
    /// The most waiters that any STATUS named.
    pub waiters_max: u64,
}

/// A thread that looks.
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Result<Watched>>,
}

impl Watch {
    /// Starts to look, on the caller's core.
    pub fn start(metrics: SocketAddr, control: Control) -> Result<Self> {
        let (stop, stopped) = channel();
        let watch = move || {
            let start = Instant::now();
            let mut watched = Watched::default();
            let mut earlier = scrape(metrics)?.buckets(REHYDRATE_LATENCY, KEYSPACE);
            let mut next = start + PERIOD;
            loop {
                let wait = next.saturating_duration_since(Instant::now());
                match stopped.recv_timeout(wait) {
                    Err(RecvTimeoutError::Timeout) => next += PERIOD,
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(watched),
                }
                let now = scrape(metrics)?.buckets(REHYDRATE_LATENCY, KEYSPACE);
                let seen = now.since(&earlier);
                if let (Some(p50_ms), Some(p95_ms)) = (seen.quantile(0.5), seen.quantile(0.95)) {
                    watched.seconds.push(RehydrateSecond {
                        at_s: start.elapsed().as_secs_f64(),
                        count: seen.count(),
                        p50_ms,
                        p95_ms,
                    });
                }
                earlier = now;
                let waiters = control
                    .status(KEYSPACE)?
                    .count("singleflight_waiters_max")?;
                watched.waiters_max = watched.waiters_max.max(waiters);
            }
        };
        let thread = thread::Builder::new().name("watch".into()).spawn(watch);
        Ok(Self {
            stop,
            thread: thread.context(|| "start a thread".into())?,
        })
    }

    /// Ends the looking.
    pub fn stop(self) -> Result<Watched> {
        // It does not listen any more only if it failed, and then it says so itself.
        let _ended = self.stop.send(());
        self.thread
            .join()
            .map_err(|_| "the watching thread panicked")?
    }
}
