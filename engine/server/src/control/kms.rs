//! Between the KMS's words and the shard's: what the control thread needs of a KMS, and error classes.

use std::collections::{BTreeMap, BTreeSet};

use keyway_kms::{
    Class, Initialise, KmsError, NewDek, ProviderState, SecretKey, Service, Share, UnlockNeed,
    UnlockSecret, Unlocked, UnwrappedDek,
};
use keyway_node::control::{FailureClass, KmsFailure, Need};

use crate::metrics::snapshot::{BudgetSnapshot, KmsCalls, KmsSnapshot};

/// A KMS as the control thread needs it; [`Service`] is one.
pub trait Kms {
    /// Makes a DEK.
    fn new_dek(
        &self,
        keyspace: u32,
        generation: u32,
    ) -> impl Future<Output = Result<NewDek, KmsError>>;

    /// Wraps a DEK that there is already.
    fn wrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        dek: &SecretKey,
    ) -> impl Future<Output = Result<NewDek, KmsError>>;

    /// Unwraps a DEK.
    fn unwrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        record: &[u8],
    ) -> impl Future<Output = Result<UnwrappedDek, KmsError>>;

    /// Unlocks the provider, for a keyspace or for none.
    fn unlock(
        &self,
        keyspace: Option<u32>,
        secret: UnlockSecret,
    ) -> impl Future<Output = Result<Unlocked, KmsError>>;

    /// The version of the KMS's key that wrapped this record's DEK, where keys have versions.
    fn key_version(&self, keyspace: u32, generation: u32, record: &[u8]) -> Option<u32> {
        let _ = (keyspace, generation, record);
        None
    }

    /// The newest version of the KMS's key that was seen.
    fn newest_key_version(&self) -> Option<u32> {
        None
    }

    /// Has the next calls made at once, whatever is waited for after failures.
    fn hurry(&self) {}

    /// Makes the provider's own key.
    fn initialise(&self, how: Initialise) -> impl Future<Output = Result<Vec<Share>, KmsError>>;

    /// Wipes the provider's key, PIN or token from memory, and what was being unwrapped, at once.
    fn lock(&self);

    /// Whether the provider can reach its key now.
    fn state(&self) -> ProviderState;

    /// What an unlock wants.
    fn unlock_need(&self) -> UnlockNeed;

    /// What the exporter is to know of the KMS `name`.
    fn figures(&self, name: &str) -> KmsSnapshot;
}

impl Kms for Service {
    async fn new_dek(&self, keyspace: u32, generation: u32) -> Result<NewDek, KmsError> {
        Service::new_dek(self, keyspace, generation).await
    }

    async fn wrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        dek: &SecretKey,
    ) -> Result<NewDek, KmsError> {
        Service::wrap_dek(self, keyspace, generation, dek).await
    }

    async fn unwrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        record: &[u8],
    ) -> Result<UnwrappedDek, KmsError> {
        Service::unwrap_dek(self, keyspace, generation, record).await
    }

    async fn unlock(
        &self,
        keyspace: Option<u32>,
        secret: UnlockSecret,
    ) -> Result<Unlocked, KmsError> {
        Service::unlock(self, keyspace, secret).await
    }

    fn key_version(&self, keyspace: u32, generation: u32, record: &[u8]) -> Option<u32> {
        Service::key_version(self, keyspace, generation, record)
    }

    fn newest_key_version(&self) -> Option<u32> {
        Service::newest_key_version(self)
    }

    fn hurry(&self) {
        Service::hurry(self);
    }

    async fn initialise(&self, how: Initialise) -> Result<Vec<Share>, KmsError> {
        Service::initialise(self, how).await
    }

    fn lock(&self) {
        Service::lock(self);
    }

    fn state(&self) -> ProviderState {
        Service::state(self)
    }

    fn unlock_need(&self) -> UnlockNeed {
        Service::unlock_need(self)
    }

    fn figures(&self, name: &str) -> KmsSnapshot {
        let gauges = self.gauges();
        let calls = self.counters_by_keyspace();
        let calls = calls.iter().flat_map(|(keyspace, counters)| {
            let counted = counters.iter().filter(|(_, _, count)| *count > 0);
            counted.map(|(operation, outcome, count)| KmsCalls {
                keyspace: *keyspace,
                operation: operation.name(),
                outcome: outcome.name(),
                count,
            })
        });
        KmsSnapshot {
            name: name.to_owned(),
            provider: self.provider_name(),
            state: state_word(Service::state(self), Service::unlock_need(self)),
            need: need_word(Service::unlock_need(self)),
            calls: calls.collect(),
            budget: BudgetSnapshot {
                calls_in_flight: gauges.in_flight,
                unwraps: gauges.unwraps,
                rate_tokens: gauges.rate_tokens,
                retry_tokens: gauges.retry_tokens,
                breaker: gauges.breaker.name(),
            },
            own_calls_per_hour: self.own_calls_per_hour(),
            lease_calls_per_hour: BTreeMap::new(),
            trouble: None,
            key_versions: None,
        }
    }
}

/// A KMS's state in one word, for status and metrics.
fn state_word(state: ProviderState, need: UnlockNeed) -> &'static str {
    match (state, need) {
        (ProviderState::Unlocked, _) => "unlocked",
        (ProviderState::Locked, UnlockNeed::Initialise) => "uninitialised",
        (ProviderState::Locked, _) => "locked",
    }
}

/// What an unlock needs in one word, for status.
fn need_word(need: UnlockNeed) -> &'static str {
    match need {
        UnlockNeed::Nothing => "none",
        UnlockNeed::Passphrase => "passphrase",
        UnlockNeed::Pin => "pin",
        UnlockNeed::Shares { .. } => "shares",
        UnlockNeed::Initialise => "init",
    }
}

/// The KMSes by name, and which of them new keyspaces use.
pub struct KmsSet<K> {
    kms: BTreeMap<String, K>,
    default: String,
    /// Those of which a keyspace that an operator has locked can be unlocked without their secret while they are open.
    without_secret: BTreeSet<String>,
}

impl<K> KmsSet<K> {
    /// `default` is one of `kms`.
    pub fn new(kms: BTreeMap<String, K>, default: String) -> Self {
        Self {
            kms,
            default,
            without_secret: BTreeSet::new(),
        }
    }

    /// With these names in the place of those that want their secret for each keyspace that an operator has locked.
    #[must_use]
    pub fn unlocking_without_secret(self, names: BTreeSet<String>) -> Self {
        Self {
            without_secret: names,
            ..self
        }
    }

    /// Those of which a keyspace that an operator has locked can be unlocked without their secret while they are open.
    pub fn without_secret(&self) -> &BTreeSet<String> {
        &self.without_secret
    }

    /// The KMS of keyspaces that name none.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// The KMS of that name.
    ///
    /// Errors: [`Class::Misconfigured`] if there is none.
    pub fn get(&self, name: &str) -> Result<&K, KmsError> {
        self.kms.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.kms.keys().map(String::as_str).collect();
            KmsError::new(
                Class::Misconfigured,
                format!("there is no KMS `{name}`"),
                format!(
                    "use one of {}, or add [kms.{name}] to the configuration and restart",
                    names.join(", ")
                ),
            )
        })
    }

    /// All of them by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &K)> {
        self.kms.iter().map(|(name, kms)| (name.as_str(), kms))
    }
}

/// A failure as the state machine knows it.
pub(super) fn failure(error: &KmsError) -> KmsFailure {
    let us = |after: Option<std::time::Duration>| {
        after.map(|after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX))
    };
    KmsFailure {
        class: match error.class() {
            Class::Denied => FailureClass::Denied,
            Class::Disabled => FailureClass::Disabled,
            Class::Credential => FailureClass::Credential,
            Class::Locked => FailureClass::Locked,
            Class::Throttled { retry_after } => FailureClass::Throttled {
                retry_after_us: us(retry_after),
            },
            Class::Unavailable { retry_after } => FailureClass::Unavailable {
                retry_after_us: us(retry_after),
            },
            Class::Corrupt => FailureClass::Corrupt,
            Class::Misconfigured => FailureClass::Misconfigured,
        },
        cause: error.cause().name(),
        what: error.what().to_owned(),
        remedy: error.remedy().to_owned(),
    }
}

/// What an unlock wants, as the state machine knows it.
pub(super) fn need(need: UnlockNeed) -> Need {
    match need {
        UnlockNeed::Nothing => Need::Nothing,
        UnlockNeed::Passphrase => Need::Passphrase,
        UnlockNeed::Pin => Need::Pin,
        UnlockNeed::Shares { given, .. } => Need::Shares { given },
        UnlockNeed::Initialise => Need::Initialise,
    }
}
