//! The limits of the whole process's KMS calls.

use std::time::Duration;

use serde::Deserialize;

use crate::{Class, KmsError};

/// Limits of a [`Service`](crate::Service), checked when it is created. The defaults suit a shared remote KMS: AWS KMS
/// allows 5,500 or more symmetric calls per second and account, and one process among a hundred uses its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Calls per second in the long run. At least 1.
    pub rate_per_s: u32,
    /// Calls that may be sent immediately after a pause. At least 1.
    pub burst: u32,
    /// Most calls in flight. At least 1.
    pub concurrency_max: u32,
    /// Most unwraps of different keys that may wait or be in flight; further ones are refused as throttled. At least
    /// `concurrency_max`.
    pub waiting_max: u32,
    /// Time limit of one attempt at the KMS, in ms; after that it counts as unavailable.
    pub call_ms_max: u64,
    /// Time limit of one operation with all waits and attempts, in ms. At least `call_ms_max`.
    pub total_ms_max: u64,
    /// Time limit of an unlock, in ms. It is never retried.
    pub unlock_ms_max: u64,
    /// Attempts per operation, including the first. At least 1.
    pub attempts_max: u32,
    /// Upper bound of the first backoff, in ms; it doubles with each attempt. The backoff itself is uniform from 0.
    pub backoff_ms_min: u64,
    /// Upper bound of the longest backoff, in ms.
    pub backoff_ms_max: u64,
    /// Longest pause of all calls that the KMS can request when it throttles, in ms.
    pub throttle_ms_max: u64,
    /// Retries that may be made immediately, over all operations. 0 disables retries.
    pub retry_tokens_max: u32,
    /// The fraction of a retry that a successful call returns, in percent: the share of retries in the long run.
    pub retry_refund_pct: u32,
    /// Consecutive failures that open the breaker. At least 1.
    pub breaker_failures: u32,
    /// How long the breaker stays open at first, in ms; it doubles with each failed probe. At least 1.
    pub breaker_open_ms: u64,
    /// Longest time for which it stays open, in ms.
    pub breaker_open_ms_max: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            rate_per_s: 50,
            burst: 100,
            concurrency_max: 8,
            waiting_max: 4096,
            call_ms_max: 5_000,
            total_ms_max: 60_000,
            unlock_ms_max: 60_000,
            attempts_max: 4,
            backoff_ms_min: 50,
            backoff_ms_max: 2_000,
            throttle_ms_max: 60_000,
            retry_tokens_max: 20,
            retry_refund_pct: 10,
            breaker_failures: 5,
            breaker_open_ms: 1_000,
            breaker_open_ms_max: 10_000,
        }
    }
}

impl Budget {
    /// Returns limits for a provider in this process, such as [`Local`](crate::Local): no shared service must be spared,
    /// and a start with a thousand keyspaces takes milliseconds.
    pub fn in_process() -> Self {
        Self {
            rate_per_s: 100_000,
            burst: 100_000,
            ..Self::default()
        }
    }
}

/// Longest of all durations, in ms: a day. It keeps sums of durations far from overflow.
const TIME_MS_MAX: u64 = 86_400_000;
/// Largest of all counts: a million.
const COUNT_MAX: u32 = 1_000_000;

impl Budget {
    /// Refuses conflicting limits, and names the rule.
    pub fn check(&self) -> Result<(), KmsError> {
        let counts = [
            ("rate_per_s", self.rate_per_s),
            ("burst", self.burst),
            ("concurrency_max", self.concurrency_max),
            ("waiting_max", self.waiting_max),
            ("attempts_max", self.attempts_max),
            ("breaker_failures", self.breaker_failures),
        ];
        for (name, value) in counts {
            rule((1..=COUNT_MAX).contains(&value), || {
                format!("{name} is {value}, not 1 to {COUNT_MAX}")
            })?;
        }
        let times = [
            ("call_ms_max", self.call_ms_max),
            ("total_ms_max", self.total_ms_max),
            ("unlock_ms_max", self.unlock_ms_max),
            ("backoff_ms_min", self.backoff_ms_min),
            ("backoff_ms_max", self.backoff_ms_max),
            ("throttle_ms_max", self.throttle_ms_max),
            ("breaker_open_ms", self.breaker_open_ms),
            ("breaker_open_ms_max", self.breaker_open_ms_max),
        ];
        for (name, value) in times {
            rule((1..=TIME_MS_MAX).contains(&value), || {
                format!("{name} is {value}, not 1 to {TIME_MS_MAX}")
            })?;
        }
        let orders = [
            (
                "concurrency_max",
                u64::from(self.concurrency_max),
                "waiting_max",
                u64::from(self.waiting_max),
            ),
            (
                "call_ms_max",
                self.call_ms_max,
                "total_ms_max",
                self.total_ms_max,
            ),
            (
                "backoff_ms_min",
                self.backoff_ms_min,
                "backoff_ms_max",
                self.backoff_ms_max,
            ),
            (
                "breaker_open_ms",
                self.breaker_open_ms,
                "breaker_open_ms_max",
                self.breaker_open_ms_max,
            ),
        ];
        for (low_name, low, high_name, high) in orders {
            rule(low <= high, || {
                format!("{low_name} {low} is more than {high_name} {high}")
            })?;
        }
        let retries = self.retry_tokens_max;
        rule(retries <= COUNT_MAX, || {
            format!("retry_tokens_max is {retries}, not 0 to {COUNT_MAX}")
        })?;
        let refund = self.retry_refund_pct;
        rule(refund <= 100, || {
            format!("retry_refund_pct is {refund}, not 0 to 100")
        })
    }

    pub(super) fn call_time_limit(&self) -> Duration {
        Duration::from_millis(self.call_ms_max)
    }

    pub(super) fn total_time_limit(&self) -> Duration {
        Duration::from_millis(self.total_ms_max)
    }

    /// Returns the upper bound of the backoff after `failed_count` failed attempts, which is 1 or more.
    pub(super) fn backoff_end(&self, failed_count: u32) -> Duration {
        let doublings = failed_count.saturating_sub(1).min(32);
        Duration::from_millis(
            self.backoff_ms_min
                .saturating_mul(1 << doublings)
                .min(self.backoff_ms_max),
        )
    }
}

fn rule(holds: bool, broken: impl FnOnce() -> String) -> Result<(), KmsError> {
    if holds {
        return Ok(());
    }
    let what = format!("the limits of the KMS call budget conflict: {}", broken());
    Err(KmsError::new(
        Class::Misconfigured,
        what,
        "correct the setting",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Budget::default().check().unwrap();
        Budget::in_process().check().unwrap();
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let good = Budget::default();
        let table = [
            (
                Budget {
                    rate_per_s: 0,
                    ..good
                },
                "rate_per_s",
            ),
            (Budget { burst: 0, ..good }, "burst"),
            (
                Budget {
                    concurrency_max: 0,
                    ..good
                },
                "concurrency_max",
            ),
            (
                Budget {
                    concurrency_max: 5000,
                    ..good
                },
                "waiting_max",
            ),
            (
                Budget {
                    attempts_max: 0,
                    ..good
                },
                "attempts_max",
            ),
            (
                Budget {
                    call_ms_max: 0,
                    ..good
                },
                "call_ms_max",
            ),
            (
                Budget {
                    call_ms_max: 60_001,
                    ..good
                },
                "total_ms_max",
            ),
            (
                Budget {
                    total_ms_max: u64::MAX,
                    ..good
                },
                "total_ms_max",
            ),
            (
                Budget {
                    backoff_ms_min: 3_000,
                    ..good
                },
                "backoff_ms_max",
            ),
            (
                Budget {
                    retry_refund_pct: 101,
                    ..good
                },
                "retry_refund_pct",
            ),
            (
                Budget {
                    breaker_failures: 0,
                    ..good
                },
                "breaker_failures",
            ),
            (
                Budget {
                    breaker_open_ms: 20_000,
                    ..good
                },
                "breaker_open_ms_max",
            ),
        ];
        for (budget, name) in table {
            let error = budget.check().unwrap_err();
            assert_eq!(error.class(), Class::Misconfigured);
            assert!(error.what().contains(name), "{error} should name {name}");
        }
    }

    #[test]
    fn the_back_off_doubles_up_to_its_limit() {
        let budget = Budget {
            backoff_ms_min: 50,
            backoff_ms_max: 300,
            ..Budget::default()
        };
        let ends: Vec<u128> = [1, 2, 3, 4, 1000]
            .map(|n| budget.backoff_end(n).as_millis())
            .into();
        assert_eq!(ends, [50, 100, 200, 300, 300]);
    }
}
