//! The settings of a keyspace: names, defaults, and the rules that tie them together.

mod rules;
mod text;

pub use rules::SettingsError;

use crate::time::US_PER_MS;

/// What a request that finds a stale key does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnSoftExpiry {
    /// Joins the flight and waits up to the wait budget; then it gets the stale value.
    #[default]
    Wait,
    /// Gets the stale value at once.
    ServeStale,
}

/// The settings of one keyspace. All of them act at once when they change.
///
/// A change never brings a key more life than it was loaded with: a longer `hard_ttl_ms` holds
/// for keys from their next load on, a longer `dek_lease_ms` from the next unwrap on; shorter ones
/// hold for everything at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Age at which a key goes stale, ms.
    pub soft_ttl_ms: u64,
    /// Age at which a key is no longer used, ms.
    pub hard_ttl_ms: u64,
    /// How long an unwrap at the KMS allows the use of the DEK, ms. Renewed at half, or
    /// a little before: see [`Limits::renew_early_ppm`](crate::Limits::renew_early_ppm).
    pub dek_lease_ms: u64,
    /// How long before its soft expiry a key is refreshed, ms. `None`: a fifth of `soft_ttl_ms`.
    pub refresh_window_ms: Option<u64>,
    /// With less than this part of its soft TTL left, in percent, a key's refresh is urgent.
    pub low_water_pct: u8,
    /// Prefetch flights of the whole node; 0 switches the prefetcher off.
    pub max_in_flight: u32,
    /// How long a request waits for a flight, µs; 0: not at all.
    pub sign_wait_budget_us: u64,
    /// What a request that finds a stale key does.
    pub on_soft_expiry: OnSoftExpiry,
    /// By how much of itself a key's soft TTL is shortened at random, at most, in percent.
    pub jitter_pct: u8,
    /// How long after its revocation a key can be deleted, ms. The core itself has no use for it.
    pub delete_wait_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            soft_ttl_ms: 600_000,
            hard_ttl_ms: 3_600_000,
            dek_lease_ms: 3_600_000,
            refresh_window_ms: None,
            low_water_pct: 5,
            max_in_flight: 64,
            sign_wait_budget_us: 3_000,
            on_soft_expiry: OnSoftExpiry::Wait,
            jitter_pct: 10,
            delete_wait_ms: 0,
        }
    }
}

impl Settings {
    /// The part of the soft TTL that the refresh window takes when it was not set, in percent.
    pub const REFRESH_WINDOW_PCT: u64 = 20;

    /// The refresh window in force, ms.
    #[must_use]
    pub const fn refresh_window_ms(&self) -> u64 {
        match self.refresh_window_ms {
            Some(ms) => ms,
            None => self.soft_ttl_ms.saturating_mul(Self::REFRESH_WINDOW_PCT) / 100,
        }
    }

    pub(crate) const fn soft_ttl_us(&self) -> u64 {
        self.soft_ttl_ms * US_PER_MS
    }

    pub(crate) const fn hard_ttl_us(&self) -> u64 {
        self.hard_ttl_ms * US_PER_MS
    }

    pub(crate) const fn dek_lease_us(&self) -> u64 {
        self.dek_lease_ms * US_PER_MS
    }

    pub(crate) const fn refresh_window_us(&self) -> u64 {
        self.refresh_window_ms() * US_PER_MS
    }

    /// How long before its soft expiry a key's refresh gets urgent, µs.
    pub(crate) const fn low_water_us(&self) -> u64 {
        self.soft_ttl_us() / 100 * self.low_water_pct as u64
    }

    /// The most by which jitter shortens the soft TTL, µs.
    pub(crate) const fn jitter_us_max(&self) -> u64 {
        self.soft_ttl_us() / 100 * self.jitter_pct as u64
    }
}

#[cfg(test)]
mod tests;
