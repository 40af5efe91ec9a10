//! The checks of every call before it is sent: breaker, concurrency, rate, and a pause requested by the KMS.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::breaker::{Breaker, BreakerState, CallResult, Permit};
use super::bucket::{RateBucket, RetryBucket};
use super::budget::Budget;
use crate::KmsError;

/// Suggested wait if every call in flight has used its whole time limit.
const SATURATED_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limiter. Its mutex is held for a few instructions at a time and never across an await.
#[derive(Debug)]
pub(super) struct CallLimiter {
    /// The origin of the times inside.
    start: OnceLock<Instant>,
    concurrency: Semaphore,
    concurrency_max: u32,
    throttle_max: Duration,
    limits: Mutex<Limits>,
}

#[derive(Debug)]
struct Limits {
    rate: RateBucket,
    retries: RetryBucket,
    breaker: Breaker,
    /// No call is sent before this.
    paused_until: Duration,
}

/// Why a call was not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    BreakerOpen { retry_after: Duration },
    OverBudget { retry_after: Duration },
}

/// Permission to send one call now. Dropping it without [`CallPermit::record`] counts the call as abandoned.
#[derive(Debug)]
pub(super) struct CallPermit<'a> {
    gate: &'a CallLimiter,
    pass: Option<Permit>,
    _permit: SemaphorePermit<'a>,
}

impl CallLimiter {
    /// Refuses a budget with conflicting limits.
    pub(super) fn new(budget: &Budget) -> Result<Arc<Self>, KmsError> {
        budget.check()?;
        let limits = Limits {
            rate: RateBucket::new(budget.rate_per_s, budget.burst),
            retries: RetryBucket::new(budget.retry_tokens_max, budget.retry_refund_pct),
            breaker: Breaker::new(
                budget.breaker_failures,
                Duration::from_millis(budget.breaker_open_ms),
                Duration::from_millis(budget.breaker_open_ms_max),
            ),
            paused_until: Duration::ZERO,
        };
        Ok(Arc::new(Self {
            start: OnceLock::new(),
            concurrency: Semaphore::new(budget.concurrency_max as usize),
            concurrency_max: budget.concurrency_max,
            throttle_max: Duration::from_millis(budget.throttle_ms_max),
            limits: Mutex::new(limits),
        }))
    }

    /// Waits for its turn, until `deadline` at the latest. Turns are in order of arrival.
    pub(super) async fn enter(&self, deadline: Instant) -> Result<CallPermit<'_>, Refused> {
        // A call that cannot be sent now does not queue.
        self.check_breaker()?;
        let permit = match tokio::time::timeout_at(deadline, self.concurrency.acquire()).await {
            Ok(permit) => permit.expect("the semaphore is never closed"),
            Err(_) => {
                return Err(Refused::OverBudget {
                    retry_after: SATURATED_RETRY_AFTER,
                });
            }
        };
        // The breaker may have opened during the wait; then no place in the rate is consumed.
        self.check_breaker()?;
        let wait = {
            let now = self.now();
            let wait_max = deadline.saturating_duration_since(Instant::now());
            let reserved = self.limits().rate.reserve(now, wait_max);
            reserved.map_err(|retry_after| Refused::OverBudget { retry_after })?
        };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        loop {
            let now = self.now();
            let pause = {
                let mut limits = self.limits();
                match limits.paused_until.checked_sub(now) {
                    None | Some(Duration::ZERO) => {
                        let entered = limits.breaker.enter(now);
                        let pass =
                            entered.map_err(|retry_after| Refused::BreakerOpen { retry_after })?;
                        return Ok(CallPermit {
                            gate: self,
                            pass: Some(pass),
                            _permit: permit,
                        });
                    }
                    Some(pause) => pause,
                }
            };
            if Instant::now() + pause > deadline {
                return Err(Refused::OverBudget { retry_after: pause });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Pauses all calls, as the KMS requested.
    pub(super) fn pause(&self, pause: Duration) {
        let until = self.now() + pause.min(self.throttle_max);
        let mut limits = self.limits();
        limits.paused_until = limits.paused_until.max(until);
        limits.rate.pause(until);
    }

    /// Lets the next call go, whatever the breaker waits for.
    pub(super) fn hurry(&self) {
        let now = self.now();
        self.limits().breaker.hurry(now);
    }

    /// Takes one retry from the budget. Returns `false` if there is none.
    pub(super) fn take_retry(&self) -> bool {
        self.limits().retries.take()
    }

    pub(super) fn in_flight(&self) -> u32 {
        let free = u32::try_from(self.concurrency.available_permits()).unwrap_or(u32::MAX);
        self.concurrency_max.saturating_sub(free)
    }

    /// Rate tokens, retry tokens and the breaker's state.
    pub(super) fn headroom(&self) -> (u32, u32, BreakerState) {
        let now = self.now();
        let limits = self.limits();
        (
            limits.rate.available(now),
            limits.retries.available(),
            limits.breaker.state(),
        )
    }

    fn check_breaker(&self) -> Result<(), Refused> {
        let now = self.now();
        self.limits()
            .breaker
            .check(now)
            .map_err(|retry_after| Refused::BreakerOpen { retry_after })
    }

    fn now(&self) -> Duration {
        let now = Instant::now();
        now.saturating_duration_since(*self.start.get_or_init(|| now))
    }

    fn limits(&self) -> MutexGuard<'_, Limits> {
        // The parts only do arithmetic under the lock, so a poisoned lock guards consistent values.
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallPermit<'_> {
    /// Records the end of the call, and what it showed about the KMS.
    pub(super) fn record(mut self, showed: CallResult, succeeded: bool) {
        self.report(showed);
        if succeeded {
            self.gate.limits().retries.refund();
        }
    }

    fn report(&mut self, showed: CallResult) {
        if let Some(pass) = self.pass.take() {
            let now = self.gate.now();
            self.gate.limits().breaker.record(now, pass, showed);
        }
    }
}

impl Drop for CallPermit<'_> {
    fn drop(&mut self) {
        self.report(CallResult::Nothing);
    }
}
