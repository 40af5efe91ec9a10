//! The settings of a keyspace: names, defaults, and the rules between them.

mod rules;
mod text;

pub use rules::SettingsError;
pub use text::{Setting, SettingName};

use crate::time::US_PER_MS;

/// What happens to a request that finds a stale key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnSoftExpiry {
    /// It joins the flight and waits up to the wait budget, and then gets the stale value.
    #[default]
    Wait,
    /// It gets the stale value immediately.
    ServeStale,
}

/// The settings of one keyspace. Changes take effect immediately.
///
/// A change never prolongs the life of a loaded key: a longer `hard_ttl_ms` applies to keys from their next load, a
/// longer `dek_lease_ms` from the next unwrap. Shorter values apply immediately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Age at which a key goes stale, ms.
    pub soft_ttl_ms: u64,
    /// Age at which a key is no longer used, ms.
    pub hard_ttl_ms: u64,
    /// How long an unwrap by the KMS allows the use of the DEK, in ms. Renewed at half, or slightly earlier: see
    /// [`Limits::renew_early_ppm`](crate::Limits::renew_early_ppm).
    pub dek_lease_ms: u64,
    /// How long before its soft expiry a key is refreshed, ms. `None`: a fifth of `soft_ttl_ms`.
    pub refresh_window_ms: Option<u64>,
    /// The remaining part of a key's soft TTL below which its refresh is urgent, in percent.
    pub low_water_pct: u8,
    /// Most prefetch flights of the whole node; 0 disables the prefetcher.
    pub max_in_flight: u32,
    /// How long a request waits for a flight, in µs; 0: it does not wait.
    pub sign_wait_budget_us: u64,
    /// What happens to a request that finds a stale key.
    pub on_soft_expiry: OnSoftExpiry,
    /// Largest random reduction of a key's soft TTL, in percent.
    pub jitter_pct: u8,
    /// How long after its revocation a key can be deleted, in ms. The core itself does not use it.
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
    /// The refresh window if it is not set, in percent of the soft TTL.
    pub const REFRESH_WINDOW_PCT: u64 = 20;

    /// Returns the refresh window in effect, in ms.
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

    /// Returns how long before its soft expiry a key's refresh becomes urgent, in µs.
    pub(crate) const fn low_water_us(&self) -> u64 {
        self.soft_ttl_us() / 100 * self.low_water_pct as u64
    }

    /// Returns the largest reduction of the soft TTL by jitter, in µs.
    pub(crate) const fn jitter_us_max(&self) -> u64 {
        self.soft_ttl_us() / 100 * self.jitter_pct as u64
    }
}

#[cfg(test)]
mod tests;
