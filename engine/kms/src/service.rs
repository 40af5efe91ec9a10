//! The process-wide entrance to the KMS: one call for many callers, within one budget.
//!
//! ```text
//! unwrap_dek ─▶ flights ─▶ caller: tries, back-off ─▶ gate: breaker, concurrency, rate ─▶ provider
//! new_dek ────────────────▶
//! ```

mod breaker;
mod bucket;
mod budget;
mod caller;
mod counters;
mod desk;
mod flights;
mod gate;

#[cfg(test)]
mod fake_provider;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod threads;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SystemRandom;

use crate::provider::{
    Provider, ProviderState, UnlockNeed, UnlockSecret, Unlocked, WRAPPED_BYTES_MAX, Wrapped,
};
use crate::{Class, Context, KmsError, Purpose, SecretKey};

pub use breaker::BreakerState;
pub use budget::Budget;
use caller::Caller;
pub use counters::{Counters, Operation, Outcome};
use desk::{Desk, Shared, Visit};
use flights::{Answer, Flight};
use gate::Gate;

/// How soon to try again when there is no room for another flight.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A DEK from the KMS. All callers that shared the call hold the same secret; the last one to drop it wipes it.
#[derive(Clone, Debug)]
pub struct UnwrappedDek {
    /// The secret.
    pub dek: Arc<SecretKey>,
    /// When the call that succeeded was sent, in µs on the clock given to [`Service::new`]. A lease counts from here.
    pub sent_at_us: u64,
}

/// A new DEK and its wrapped form.
#[derive(Clone, Debug)]
pub struct NewDek {
    /// The secret.
    pub dek: Arc<SecretKey>,
    /// What to store.
    pub wrapped: Wrapped,
    /// When the unwrap that proved it was sent, in µs on the clock given to [`Service::new`].
    pub sent_at_us: u64,
}

/// How much of the budget is left, and what is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Calls at the KMS now.
    pub in_flight: u32,
    /// Unwraps under way or waiting, each for any number of callers.
    pub unwraps: u32,
    /// Calls that the rate would let go at once.
    pub rate_tokens: u32,
    /// Retries that could be made at once.
    pub retry_tokens: u32,
    /// The breaker.
    pub breaker: BreakerState,
}

/// The process's KMS. Cloning gives another handle to the same one. Its methods want a tokio runtime with time.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    provider: Arc<dyn Provider>,
    cluster: [u8; 16],
    caller: Caller,
    desk: Desk,
    random: SystemRandom,
    unlock_time_limit: Duration,
}

impl Service {
    /// `cluster` is the identity that every DEK is bound to. `clock` returns µs and never goes back; leases are counted
    /// on it. A budget that contradicts itself is refused.
    pub fn new(
        provider: Arc<dyn Provider>,
        cluster: [u8; 16],
        budget: Budget,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, KmsError> {
        let gate = Gate::new(&budget)?;
        Ok(Self(Arc::new(Inner {
            caller: Caller::new(provider.clone(), budget, gate, Box::new(clock)),
            provider,
            cluster,
            desk: Desk::new(budget.waiting_max as usize),
            random: SystemRandom::new(),
            unlock_time_limit: Duration::from_millis(budget.unlock_ms_max),
        })))
    }

    /// Unwraps a keyspace's DEK. Callers who ask for the same DEK at the same time share one call; a caller who leaves
    /// changes nothing for the others.
    pub async fn unwrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        wrapped: &[u8],
    ) -> Result<UnwrappedDek, KmsError> {
        if wrapped.is_empty() || wrapped.len() > WRAPPED_BYTES_MAX {
            return Err(KmsError::new(
                Class::Corrupt,
                format!(
                    "the wrapped DEK of keyspace {keyspace} has {} bytes",
                    wrapped.len()
                ),
                "restore it from a backup",
            ));
        }
        let fly = |flight| {
            tokio::spawn(self.clone().fly(flight));
        };
        match self.0.desk.share(keyspace, generation, wrapped, fly).await {
            Shared::Answered(answer) => answer,
            Shared::LockedMeanwhile => Err(locked_meanwhile()),
            Shared::Lost => Err(KmsError::new(
                Class::Unavailable { retry_after: None },
                format!("the unwrap of keyspace {keyspace}'s DEK ended without an answer"),
                "try again; the log says what failed",
            )),
            Shared::Full => {
                self.0.caller.count(Operation::Unwrap, Outcome::OverBudget);
                Err(KmsError::new(
                    Class::Throttled {
                        retry_after: Some(FULL_RETRY_AFTER),
                    },
                    "too many keyspaces are waiting for the KMS",
                    "try again, or raise the call budget's waiting_max",
                ))
            }
        }
    }

    async fn fly(self, flight: Flight) {
        let key = flight.key().clone();
        let answer = self
            .unwrap_alone(key.keyspace, key.generation, &key.wrapped)
            .await;
        flight.land(answer);
    }

    async fn unwrap_alone(&self, keyspace: u32, generation: u32, wrapped: &[u8]) -> Answer {
        let context = self.context(keyspace, generation);
        let provider = &self.0.provider;
        let (dek, sent_at_us) = self
            .0
            .caller
            .call(Operation::Unwrap, || provider.unwrap(&context, wrapped))
            .await?;
        Ok(UnwrappedDek {
            dek: Arc::new(dek),
            sent_at_us,
        })
    }

    /// Makes a DEK from the operating system's random numbers and wraps it. Then it unwraps what came back and compares:
    /// a KMS that lets us wrap and not unwrap is found out now and not at the next start, and the lease begins with a
    /// successful unwrap, as every lease does. It costs two calls.
    pub async fn new_dek(&self, keyspace: u32, generation: u32) -> Result<NewDek, KmsError> {
        let visit = self.0.desk.visit();
        let context = self.context(keyspace, generation);
        let provider = &self.0.provider;
        let dek = SecretKey::generate(&self.0.random)?;
        let (wrapped, _) = self
            .0
            .caller
            .call(Operation::Wrap, || provider.wrap(&context, &dek))
            .await?;
        let proof = self.unwrap_alone(keyspace, generation, &wrapped.0).await?;
        if wrapped.0.len() > WRAPPED_BYTES_MAX || !proof.dek.is_same(&dek) {
            return Err(KmsError::new(
                Class::Corrupt,
                format!(
                    "the KMS {} does not give back the key that it wrapped for {context}",
                    provider.name()
                ),
                "nothing was stored; check the KMS",
            ));
        }
        self.check_not_locked_since(visit)?;
        Ok(NewDek {
            dek: proof.dek,
            wrapped,
            sent_at_us: proof.sent_at_us,
        })
    }

    /// Unlocks the provider. It is not retried, takes no part in the budget, and is counted.
    pub async fn unlock(&self, secret: UnlockSecret) -> Result<Unlocked, KmsError> {
        let limit = self.0.unlock_time_limit;
        let (result, outcome) =
            match tokio::time::timeout(limit, self.0.provider.unlock(secret)).await {
                Ok(Ok(unlocked)) => (Ok(unlocked), Outcome::Ok),
                Ok(Err(error)) => {
                    let outcome = Outcome::of(&error);
                    (Err(error), outcome)
                }
                Err(_) => {
                    let error = KmsError::new(
                        Class::Unavailable { retry_after: None },
                        format!("the unlock took longer than {} ms", limit.as_millis()),
                        "try again, or raise the call budget's unlock_ms_max",
                    );
                    (Err(error), Outcome::TimedOut)
                }
            };
        self.0.caller.count(Operation::Unlock, outcome);
        result
    }

    /// Locks the provider at once. Unwraps under way end as [`Class::Locked`].
    pub fn lock(&self) {
        self.0.desk.lock(|| self.0.provider.lock());
    }

    /// Whether the provider can reach its key now.
    pub fn state(&self) -> ProviderState {
        self.0.provider.state()
    }

    /// What [`Service::unlock`] wants.
    pub fn unlock_need(&self) -> UnlockNeed {
        self.0.provider.unlock_need()
    }

    /// Whether the key-encryption key lies unprotected on this machine. To be logged at every start.
    pub fn is_unprotected(&self) -> bool {
        self.0.provider.is_unprotected()
    }

    /// The provider's name.
    pub fn provider_name(&self) -> &'static str {
        self.0.provider.name()
    }

    /// Calls so far, by operation and outcome.
    pub fn counters(&self) -> Counters {
        self.0.caller.counters()
    }

    /// The budget's headroom now.
    pub fn gauges(&self) -> Gauges {
        self.0
            .caller
            .gauges(u32::try_from(self.0.desk.len()).unwrap_or(u32::MAX))
    }

    fn context(&self, keyspace: u32, generation: u32) -> Context {
        Context {
            cluster: self.0.cluster,
            keyspace,
            generation,
            purpose: Purpose::DataKey,
        }
    }

    fn check_not_locked_since(&self, visit: Visit) -> Result<(), KmsError> {
        match self.0.desk.was_locked_since(visit) {
            true => Err(locked_meanwhile()),
            false => Ok(()),
        }
    }
}

fn locked_meanwhile() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the KMS was locked meanwhile",
        "unlock it: keyway unlock KEYSPACE",
    )
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("provider", &self.provider_name())
            .field("gauges", &self.gauges())
            .finish()
    }
}
