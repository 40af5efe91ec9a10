//! When requests are due.

use std::time::Duration;

use crate::rng::Rng;

/// How requests arrive.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Open loop: a Poisson process.
    Poisson {
        /// Mean rate.
        rate_per_s: f64,
        /// For how long.
        duration: Duration,
    },
    /// Open loop: so many at once, all due at the start.
    Burst {
        /// How many.
        count: u64,
    },
    /// Closed loop: `window` requests are in flight at any time, the same number on each
    /// connection. Finds a capacity; says nothing about latency under a given load.
    Closed {
        /// Requests in flight.
        window: usize,
        /// For how long.
        duration: Duration,
    },
    /// Closed loop until so many are answered.
    ClosedCount {
        /// Requests in flight.
        window: usize,
        /// How many in all.
        count: u64,
    },
}

impl Pace {
    /// The most requests in flight on one of `connections`. A closed loop divides its window among
    /// them; an open one has no limit of its own.
    pub fn in_flight_max(self, connections: usize) -> usize {
        match self {
            Self::Poisson { .. } | Self::Burst { .. } => usize::MAX,
            Self::Closed { window, .. } | Self::ClosedCount { window, .. } => {
                window.div_ceil(connections.max(1))
            }
        }
    }
}

/// The due times of a pace, in ns from the start.
#[derive(Debug)]
pub struct Arrivals {
    pace: Pace,
    rng: Rng,
    next_ns: f64,
    issued: u64,
}

impl Arrivals {
    /// The arrivals of `pace`; the same `seed` gives the same times.
    pub fn new(pace: Pace, seed: u64) -> Self {
        let mut arrivals = Self {
            pace,
            rng: Rng::new(seed),
            next_ns: 0.0,
            issued: 0,
        };
        arrivals.advance();
        arrivals
    }

    /// The due time of the next request, if it is due at `now_ns`.
    pub fn due(&self, now_ns: u64, in_flight: usize) -> Option<u64> {
        match self.pace {
            Pace::Poisson { .. } => {
                let next = self.next_ns as u64;
                (next <= now_ns && !self.is_over(now_ns)).then_some(next)
            }
            Pace::Burst { .. } => (!self.is_over(now_ns)).then_some(0),
            Pace::Closed { window, .. } | Pace::ClosedCount { window, .. } => {
                (in_flight < window && !self.is_over(now_ns)).then_some(now_ns)
            }
        }
    }

    /// The request that was due has been taken.
    pub fn take(&mut self) {
        self.issued += 1;
        self.advance();
    }

    /// Whether no request will be due any more.
    pub fn is_over(&self, now_ns: u64) -> bool {
        match self.pace {
            // By due time, not by the clock: what was due and could not be sent is still to come.
            Pace::Poisson { duration, .. } => self.next_ns >= duration.as_nanos() as f64,
            Pace::Closed { duration, .. } => u128::from(now_ns) >= duration.as_nanos(),
            Pace::Burst { count } | Pace::ClosedCount { count, .. } => self.issued >= count,
        }
    }

    /// Requests that were or will be due, by an open pace, whatever becomes of them. Those of a
    /// closed pace are due only when they are sent.
    pub fn count_rest(&mut self, mut each_due_ns: impl FnMut(u64)) {
        match self.pace {
            Pace::Poisson { .. } | Pace::Burst { .. } => {
                while !self.is_over(0) {
                    each_due_ns(self.next_ns as u64);
                    self.take();
                }
            }
            Pace::Closed { .. } | Pace::ClosedCount { .. } => {}
        }
    }

    /// When the last request is due at the latest, in ns, if the pace says so.
    pub fn end_ns(&self) -> Option<u64> {
        match self.pace {
            Pace::Poisson { duration, .. } | Pace::Closed { duration, .. } => {
                Some(duration.as_nanos() as u64)
            }
            Pace::Burst { .. } => Some(0),
            Pace::ClosedCount { .. } => None,
        }
    }

    fn advance(&mut self) {
        if let Pace::Poisson { rate_per_s, .. } = self.pace {
            self.next_ns += self.rng.exponential(1e9 / rate_per_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn poisson_arrivals_keep_their_rate_and_end() {
        let mut arrivals = Arrivals::new(
            Pace::Poisson {
                rate_per_s: 10_000.0,
                duration: SECOND,
            },
            5,
        );
        assert_eq!(arrivals.due(0, 0), None);
        let mut count = 0;
        let mut last = 0;
        while let Some(due) = arrivals.due(u64::MAX, 0) {
            assert!(due >= last && due < 1_000_000_000);
            last = due;
            count += 1;
            arrivals.take();
        }
        assert!((9_500..10_500).contains(&count), "{count}");
        assert!(arrivals.is_over(0));
    }

    #[test]
    fn a_burst_is_due_at_once_and_a_window_holds_back() {
        let mut burst = Arrivals::new(Pace::Burst { count: 2 }, 1);
        assert_eq!(burst.due(99, 0), Some(0));
        burst.take();
        burst.take();
        assert_eq!(burst.due(99, 0), None);
        let closed = Arrivals::new(
            Pace::Closed {
                window: 3,
                duration: SECOND,
            },
            1,
        );
        assert_eq!(closed.due(7, 2), Some(7));
        assert_eq!(closed.due(7, 3), None);
        assert_eq!(closed.due(1_000_000_000, 0), None);
    }

    #[test]
    fn what_could_not_be_sent_is_counted() {
        let mut arrivals = Arrivals::new(
            Pace::Poisson {
                rate_per_s: 1_000.0,
                duration: SECOND,
            },
            5,
        );
        let mut rest = 0;
        arrivals.count_rest(|_| rest += 1);
        assert!((850..1_150).contains(&rest), "{rest}");
    }
}
