//! One operation at the KMS, with all its attempts.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

use super::Gauges;
use super::breaker::CallResult;
use super::budget::Budget;
use super::counters::{KmsOperation, KmsOutcome, LiveCounters};
use super::gate::{CallLimiter, Refused};
use crate::provider::{Provider, ProviderFuture, ProviderState, UnlockNeed};
use crate::{Cause, Class, KmsError};

type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// Makes calls within the budget and counts them.
pub(super) struct RetryingCaller {
    provider: Arc<dyn Provider>,
    budget: Budget,
    gate: Arc<CallLimiter>,
    counters: LiveCounters,
    clock: Clock,
    random: SystemRandom,
    /// The last failure that found the KMS down, for callers that the breaker refuses.
    last_down: Mutex<Option<KmsError>>,
}

/// A failed attempt.
enum AttemptError {
    /// At the KMS: a retry may help.
    Sent(KmsError),
    /// Before it was sent: the caller gets it immediately.
    Unsent(KmsError),
}

impl RetryingCaller {
    pub(super) fn new(
        provider: Arc<dyn Provider>,
        budget: Budget,
        gate: Arc<CallLimiter>,
        clock: Clock,
    ) -> Self {
        Self {
            provider,
            budget,
            gate,
            counters: LiveCounters::default(),
            clock,
            random: SystemRandom::new(),
            last_down: Mutex::default(),
        }
    }

    /// Makes the call, with retries where they can help. Returns when the successful attempt was sent.
    pub(super) async fn call<'a, T>(
        &self,
        keyspace: u32,
        operation: KmsOperation,
        send: impl Fn() -> ProviderFuture<'a, T>,
    ) -> Result<(T, u64), KmsError> {
        let deadline = Instant::now() + self.budget.total_time_limit();
        let mut failed_count = 0;
        loop {
            let error = match self.try_once(keyspace, operation, deadline, &send).await {
                Ok(success) => return Ok(success),
                Err(AttemptError::Unsent(error)) => return Err(error),
                Err(AttemptError::Sent(error)) => error,
            };
            failed_count += 1;
            if !error.is_retryable() || failed_count >= self.budget.attempts_max {
                return Err(error);
            }
            let asked_for = error.class().retry_after().unwrap_or(Duration::ZERO);
            let wait = self
                .draw_up_to(self.budget.backoff_end(failed_count))
                .max(asked_for);
            if Instant::now() + wait >= deadline || !self.gate.take_retry() {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    pub(super) fn count(&self, keyspace: u32, operation: KmsOperation, outcome: KmsOutcome) {
        self.counters.add(keyspace, operation, outcome);
    }

    /// Lets the next call go immediately.
    pub(super) fn hurry(&self) {
        self.gate.hurry();
    }

    pub(super) fn counters(&self) -> &LiveCounters {
        &self.counters
    }

    pub(super) fn gauges(&self, unwraps: u32) -> Gauges {
        let (rate_tokens, retry_tokens, breaker) = self.gate.headroom();
        Gauges {
            in_flight: self.gate.in_flight(),
            unwraps,
            rate_tokens,
            retry_tokens,
            breaker,
        }
    }

    async fn try_once<'a, T>(
        &self,
        keyspace: u32,
        operation: KmsOperation,
        deadline: Instant,
        send: &impl Fn() -> ProviderFuture<'a, T>,
    ) -> Result<(T, u64), AttemptError> {
        // A call to a locked KMS is not sent.
        if self.provider.state() == ProviderState::Locked {
            self.count(keyspace, operation, KmsOutcome::Locked);
            return Err(AttemptError::Unsent(locked(&*self.provider)));
        }
        let entry = self.gate.enter(deadline).await.map_err(|refused| {
            let (outcome, error) = self.describe(refused);
            self.count(keyspace, operation, outcome);
            AttemptError::Unsent(error)
        })?;
        let sent_at_us = (self.clock)();
        let (outcome, result) =
            match tokio::time::timeout(self.budget.call_time_limit(), send()).await {
                Ok(Ok(value)) => (KmsOutcome::Ok, Ok((value, sent_at_us))),
                Ok(Err(error)) => (KmsOutcome::of(&error), Err(error)),
                Err(_) => (
                    KmsOutcome::TimedOut,
                    Err(timed_out(self.provider.name(), self.budget.call_ms_max)),
                ),
            };
        self.count(keyspace, operation, outcome);
        if let Err(error) = &result
            && let Class::Throttled {
                retry_after: Some(retry_after),
            } = error.class()
        {
            self.gate.pause(retry_after);
        }
        let showed = match (outcome, &result) {
            (KmsOutcome::Unavailable | KmsOutcome::TimedOut, Err(error)) => {
                *self.last_down() = Some(error.clone());
                CallResult::Down
            }
            _ => CallResult::Alive,
        };
        entry.record(showed, outcome == KmsOutcome::Ok);
        result.map_err(AttemptError::Sent)
    }

    fn describe(&self, refused: Refused) -> (KmsOutcome, KmsError) {
        match refused {
            Refused::BreakerOpen { retry_after } => {
                let class = Class::Unavailable {
                    retry_after: Some(retry_after),
                };
                let pause = format!("it is not called for {} ms", retry_after.as_millis());
                let error = match &*self.last_down() {
                    Some(last) => {
                        KmsError::new(class, format!("{}; {pause}", last.what()), last.remedy())
                            .from_cause(last.cause())
                    }
                    None => KmsError::new(
                        class,
                        format!("the KMS has failed several times in a row; {pause}"),
                        "check the KMS and the way to it",
                    ),
                };
                (KmsOutcome::BreakerOpen, error)
            }
            Refused::OverBudget { retry_after } => (
                KmsOutcome::OverBudget,
                KmsError::new(
                    Class::Throttled {
                        retry_after: Some(retry_after),
                    },
                    "the budget for KMS calls was exhausted until the time limit",
                    "wait, or raise the call budget's rate_per_s or concurrency_max",
                )
                .from_cause(Cause::OverBudget),
            ),
        }
    }

    fn last_down(&self) -> std::sync::MutexGuard<'_, Option<KmsError>> {
        // Only complete values are stored there.
        self.last_down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws a duration uniformly from 0 to `end`: full jitter, so that clients that failed together do not retry
    /// together.
    fn draw_up_to(&self, end: Duration) -> Duration {
        let mut bytes = [0; 8];
        if self.random.fill(&mut bytes).is_err() {
            return end;
        }
        let end_us = u64::try_from(end.as_micros()).unwrap_or(u64::MAX - 1);
        // The bias of the remainder is below 2^-30 for every backoff that the budget allows.
        Duration::from_micros(u64::from_le_bytes(bytes) % (end_us + 1))
    }
}

impl fmt::Debug for RetryingCaller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("budget", &self.budget)
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

fn locked(provider: &dyn Provider) -> KmsError {
    let name = provider.name();
    let need = provider.unlock_need();
    let what = match need {
        UnlockNeed::Initialise => "has no key of its own yet",
        _ => "is locked",
    };
    KmsError::new(
        Class::Locked,
        format!("the KMS {name} {what}"),
        need.remedy(),
    )
}

fn timed_out(provider: &str, call_ms_max: u64) -> KmsError {
    KmsError::new(
        Class::Unavailable { retry_after: None },
        format!("the KMS {provider} did not answer within {call_ms_max} ms"),
        "check the KMS and the way to it; call_ms_max of the call budget is the limit",
    )
    .from_cause(Cause::TimedOut)
}
