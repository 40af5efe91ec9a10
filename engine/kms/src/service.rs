//! The process-wide entry point to the KMS: one call for many callers, within one budget.
//!
//! ```text
//! unwrap_dek ────────▶ flights ─▶ caller: retries, backoff ─▶ gate: breaker, concurrency, rate ─▶ provider
//! new_dek, wrap_dek ────────────▶
//! ```

mod breaker;
mod bucket;
mod budget;
mod caller;
mod counters;
mod flights;
mod gate;
mod unwrap_group;

#[cfg(test)]
mod dek_tests;

#[cfg(test)]
mod fake_provider;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod threads;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ring::rand::SystemRandom;

use crate::provider::{
    Initialise, Provider, ProviderState, UnlockNeed, UnlockSecret, Unlocked, WRAPPED_BYTES_MAX,
    Wrapped,
};
use crate::record::{self, Record, is_sealed_data_key};
use crate::{Class, Context, KmsError, Purpose, SecretKey, Share};

pub use breaker::BreakerState;
pub use budget::Budget;
use caller::RetryingCaller;
pub use counters::{Counters, KmsOperation, KmsOutcome};
use flights::{Flight, UnwrapResult};
use gate::CallLimiter;
use unwrap_group::{LockEpoch, Shared, UnwrapGroup};

/// The keyspace in counters for calls that belong to none.
const NO_KEYSPACE: u32 = 0;

/// Period of checks of a provider's logins.
const TEND_PERIOD_MIN: Duration = Duration::from_millis(50);
const TEND_PERIOD_MAX: Duration = Duration::from_secs(1);
/// After failures the period doubles, up to half a minute.
const TEND_DOUBLINGS_MAX: u32 = 5;

/// Suggested wait if there are too many flights.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A DEK from the KMS. All callers that shared the call hold the same secret; it is wiped when the last drops it.
#[derive(Clone, Debug)]
pub struct UnwrappedDek {
    /// The secret.
    pub dek: Arc<SecretKey>,
    /// When the successful call was sent, in µs on the clock passed to [`Service::new`]. A lease counts from this time.
    pub sent_at_us: u64,
}

/// A new DEK and its wrapped form.
#[derive(Clone, Debug)]
pub struct NewDek {
    /// The secret.
    pub dek: Arc<SecretKey>,
    /// The record to store, with the provider's wrapped key.
    pub record: Vec<u8>,
    /// When the unwrap that verified it was sent, in µs on the clock passed to [`Service::new`].
    pub sent_at_us: u64,
}

/// The remaining budget, and the calls in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Calls in flight.
    pub in_flight: u32,
    /// Unwraps in flight or waiting, each for any number of callers.
    pub unwraps: u32,
    /// Calls that the rate would allow immediately.
    pub rate_tokens: u32,
    /// Retries that the budget would allow immediately.
    pub retry_tokens: u32,
    /// The state of the circuit breaker.
    pub breaker: BreakerState,
}

/// The process's KMS. Cloning returns another handle to the same one. Its methods need a tokio runtime with time.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

struct Inner {
    provider: Arc<dyn Provider>,
    cluster: [u8; 16],
    caller: RetryingCaller,
    unwrap_group: UnwrapGroup,
    random: SystemRandom,
    unlock_time_limit: Duration,
}

impl Service {
    /// Creates a service. `cluster` is the identity to which every DEK is bound. `clock` returns µs and never decreases;
    /// leases are measured on it. A budget with conflicting limits is refused.
    pub fn new(
        provider: Arc<dyn Provider>,
        cluster: [u8; 16],
        budget: Budget,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, KmsError> {
        let gate = CallLimiter::new(&budget)?;
        Ok(Self(Arc::new(Inner {
            caller: RetryingCaller::new(provider.clone(), budget, gate, Box::new(clock)),
            provider,
            cluster,
            unwrap_group: UnwrapGroup::new(budget.waiting_max as usize),
            random: SystemRandom::new(),
            unlock_time_limit: Duration::from_millis(budget.unlock_ms_max),
        })))
    }

    /// Unwraps a keyspace's DEK from its record. Callers that request the same DEK concurrently share one call; a caller
    /// that leaves does not affect the others. A record that is corrupt or belongs elsewhere costs no call.
    pub async fn unwrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        record: &[u8],
    ) -> Result<UnwrappedDek, KmsError> {
        Record::open(&self.context_of(keyspace, generation, record), record).inspect_err(
            |error| {
                self.0
                    .caller
                    .count(keyspace, KmsOperation::Unwrap, KmsOutcome::of(error));
            },
        )?;
        let fly = |flight| {
            tokio::spawn(self.clone().start_call(flight));
        };
        match self
            .0
            .unwrap_group
            .join_or_start(keyspace, generation, record, fly)
            .await
        {
            Shared::Answered(answer) => answer,
            Shared::LockedMeanwhile => Err(locked_meanwhile(self.unlock_need())),
            Shared::Lost => Err(KmsError::new(
                Class::Unavailable { retry_after: None },
                format!("the unwrap of keyspace {keyspace}'s DEK ended without an answer"),
                "try again; the log says what failed",
            )),
            Shared::Full => {
                let outcome = KmsOutcome::OverBudget;
                self.0.caller.count(keyspace, KmsOperation::Unwrap, outcome);
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

    async fn start_call(self, flight: Flight) {
        let key = flight.key().clone();
        let answer = self
            .unwrap_alone(key.keyspace, key.generation, &key.record)
            .await;
        flight.land(answer);
    }

    async fn unwrap_alone(&self, keyspace: u32, generation: u32, record: &[u8]) -> UnwrapResult {
        let context = self.context_of(keyspace, generation, record);
        let record = Record::open(&context, record)?;
        let provider = &self.0.provider;
        let (dek, sent_at_us) = self
            .0
            .caller
            .call(keyspace, KmsOperation::Unwrap, || {
                provider.unwrap(&context, record.wrapped())
            })
            .await?;
        record.check(&dek, provider.name())?;
        Ok(UnwrappedDek {
            dek: Arc::new(dek),
            sent_at_us,
        })
    }

    /// Generates a DEK, at the KMS if it offers that and otherwise from the operating system's random numbers, and wraps
    /// and verifies it as [`Service::wrap_dek`] does. It costs two calls.
    pub async fn new_dek(&self, keyspace: u32, generation: u32) -> Result<NewDek, KmsError> {
        let epoch = self.0.unwrap_group.epoch();
        let context = self.context(keyspace, generation);
        let provider = &self.0.provider;
        if provider.generate(&context).is_none() {
            let dek = SecretKey::generate(&self.0.random)?;
            return self.wrap_dek(keyspace, generation, &dek).await;
        }
        let generate = || {
            let call = provider.generate(&context);
            call.unwrap_or_else(|| Box::pin(async { Err(generates_no_longer()) }))
        };
        let (made, _) = self
            .0
            .caller
            .call(keyspace, KmsOperation::Generate, generate)
            .await?;
        self.prove(epoch, &context, &made.dek, &made.wrapped).await
    }

    /// Wraps an existing DEK, which moves here from another KMS. Then it unwraps the result and compares: a KMS that
    /// allows wrapping but not unwrapping is detected now and not at the next start, and the lease begins with a
    /// successful unwrap, as every lease does. It costs two calls.
    pub async fn wrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        dek: &SecretKey,
    ) -> Result<NewDek, KmsError> {
        let epoch = self.0.unwrap_group.epoch();
        let context = self.context(keyspace, generation);
        let provider = &self.0.provider;
        let (wrapped, _) = self
            .0
            .caller
            .call(keyspace, KmsOperation::Wrap, || {
                provider.wrap(&context, dek)
            })
            .await?;
        self.prove(epoch, &context, dek, &wrapped).await
    }

    async fn prove(
        &self,
        epoch: LockEpoch,
        context: &Context,
        dek: &SecretKey,
        wrapped: &Wrapped,
    ) -> Result<NewDek, KmsError> {
        if wrapped.0.is_empty() || wrapped.0.len() > WRAPPED_BYTES_MAX {
            return Err(self.not_given_back(context));
        }
        let record = record::seal(context, dek, wrapped);
        let proof = self
            .unwrap_alone(context.keyspace, context.generation, &record)
            .await?;
        if !proof.dek.is_same(dek) {
            return Err(self.not_given_back(context));
        }
        self.check_not_locked_since(epoch)?;
        Ok(NewDek {
            dek: proof.dek,
            record,
            sent_at_us: proof.sent_at_us,
        })
    }

    fn not_given_back(&self, context: &Context) -> KmsError {
        KmsError::new(
            Class::Corrupt,
            format!(
                "the KMS {} does not return the key that it wrapped for {context}",
                self.provider_name()
            ),
            "nothing was stored; check the KMS",
        )
    }

    /// Creates the provider's own key if there is none. As with [`Service::unlock`], the call is made once and counted.
    /// It has no time limit, because giving up would lose the shares of a key that is created anyway. Returns the shares,
    /// if the key's secret is split.
    pub async fn initialise(&self, how: Initialise) -> Result<Vec<Share>, KmsError> {
        let result = self.0.provider.initialise(how).await;
        let outcome = result
            .as_ref()
            .map_or_else(KmsOutcome::of, |_| KmsOutcome::Ok);
        let operation = KmsOperation::Initialise;
        self.0.caller.count(NO_KEYSPACE, operation, outcome);
        result
    }

    /// Unlocks the provider. It is not retried, does not use the budget, and is counted for `keyspace`, if it was for
    /// one.
    pub async fn unlock(
        &self,
        keyspace: Option<u32>,
        secret: UnlockSecret,
    ) -> Result<Unlocked, KmsError> {
        let limit = self.0.unlock_time_limit;
        let unlocking = self.0.provider.unlock(secret);
        let (result, outcome) = match tokio::time::timeout(limit, unlocking).await {
            Ok(Ok(value)) => (Ok(value), KmsOutcome::Ok),
            Ok(Err(error)) => {
                let outcome = KmsOutcome::of(&error);
                (Err(error), outcome)
            }
            Err(_) => {
                let error = KmsError::new(
                    Class::Unavailable { retry_after: None },
                    format!("the unlock took longer than {} ms", limit.as_millis()),
                    "try again, or raise the call budget's unlock_ms_max",
                );
                (Err(error), KmsOutcome::TimedOut)
            }
        };
        let keyspace = keyspace.unwrap_or(NO_KEYSPACE);
        let operation = KmsOperation::Unlock;
        self.0.caller.count(keyspace, operation, outcome);
        result
    }

    /// Locks the provider immediately. Unwraps in progress end with [`Class::Locked`].
    pub fn lock(&self) {
        self.0.unwrap_group.lock(|| self.0.provider.lock());
    }

    /// Lets the next calls go immediately, without the waits of breaker and provider after failures: an operator has
    /// fixed the cause, or wants to check.
    pub fn hurry(&self) {
        self.0.caller.hurry();
        self.0.provider.hurry();
    }

    /// Maintains the provider's logins while this KMS is in use, in a task of its own.
    pub fn look_after_logins(&self) {
        let inner = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            let mut failed_count = 0;
            while let Some(inner) = inner.upgrade() {
                let Some(tending) = inner.provider.tend() else {
                    return;
                };
                let wait = match tokio::time::timeout(inner.unlock_time_limit, tending).await {
                    Ok(Ok(wait)) => {
                        failed_count = 0;
                        wait.clamp(TEND_PERIOD_MIN, TEND_PERIOD_MAX)
                    }
                    Ok(Err(_)) | Err(_) => {
                        failed_count = (failed_count + 1).min(TEND_DOUBLINGS_MAX);
                        TEND_PERIOD_MAX * (1 << failed_count)
                    }
                };
                drop(inner);
                tokio::time::sleep(wait).await;
            }
        });
    }

    /// Returns the calls per hour that the provider makes on its own: logins and their renewals.
    pub fn own_calls_per_hour(&self) -> f64 {
        self.0.provider.own_calls_per_hour()
    }

    /// Returns the version of the KMS's key that wrapped this record's DEK, where keys have versions.
    pub fn key_version(&self, keyspace: u32, generation: u32, record: &[u8]) -> Option<u32> {
        let context = self.context(keyspace, generation);
        let record = Record::open(&context, record).ok()?;
        self.0.provider.key_version(record.wrapped())
    }

    /// Returns the newest version of the KMS's key that was seen.
    pub fn newest_key_version(&self) -> Option<u32> {
        self.0.provider.newest_key_version()
    }

    /// Returns whether the provider can reach its key now.
    pub fn state(&self) -> ProviderState {
        self.0.provider.state()
    }

    /// Returns what [`Service::unlock`] wants.
    pub fn unlock_need(&self) -> UnlockNeed {
        self.0.provider.unlock_need()
    }

    /// Returns `true` if the key-encryption key is unprotected on this machine. Must be logged at every start.
    pub fn is_unprotected(&self) -> bool {
        self.0.provider.is_unprotected()
    }

    /// Returns the provider's name.
    pub fn provider_name(&self) -> &'static str {
        self.0.provider.name()
    }

    /// Returns the calls so far, by operation and outcome.
    pub fn counters(&self) -> Counters {
        let mut sum = self.0.caller.counters().sum();
        sum.add_all(&self.0.provider.own_calls());
        sum
    }

    /// Returns the calls so far of each keyspace; those of none are under 0.
    pub fn counters_by_keyspace(&self) -> BTreeMap<u32, Counters> {
        let mut calls = self.0.caller.counters().by_keyspace();
        let own_calls = self.0.provider.own_calls();
        if own_calls != Counters::default() {
            calls.entry(NO_KEYSPACE).or_default().add_all(&own_calls);
        }
        calls
    }

    /// Returns the remaining budget.
    pub fn gauges(&self) -> Gauges {
        self.0
            .caller
            .gauges(u32::try_from(self.0.unwrap_group.len()).unwrap_or(u32::MAX))
    }

    /// Returns the context of a new key. A key for no keyspace authenticates the catalogue.
    fn context(&self, keyspace: u32, generation: u32) -> Context {
        Context {
            cluster: self.0.cluster,
            keyspace,
            generation,
            purpose: match keyspace {
                NO_KEYSPACE => Purpose::CatalogueKey,
                _ => Purpose::SealedDataKey,
            },
        }
    }

    /// Returns the context of the key in a record. DEKs may be older than authenticated catalogues.
    fn context_of(&self, keyspace: u32, generation: u32, record: &[u8]) -> Context {
        let mut context = self.context(keyspace, generation);
        if keyspace != NO_KEYSPACE && !is_sealed_data_key(record) {
            context.purpose = Purpose::DataKey;
        }
        context
    }

    fn check_not_locked_since(&self, epoch: LockEpoch) -> Result<(), KmsError> {
        match self.0.unwrap_group.was_locked_since(epoch) {
            true => Err(locked_meanwhile(self.unlock_need())),
            false => Ok(()),
        }
    }
}

fn generates_no_longer() -> KmsError {
    KmsError::new(
        Class::Misconfigured,
        "the KMS no longer makes DEKs",
        "try again",
    )
}

fn locked_meanwhile(need: UnlockNeed) -> KmsError {
    KmsError::new(
        Class::Locked,
        "the KMS was locked in the meantime",
        need.remedy(),
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
