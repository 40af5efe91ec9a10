//! The expiry check: the only place that lends a key.

use crate::entry::Live;
use crate::keyspace::ExpiryRules;
use crate::time::Instant;
use core::fmt;

/// The right to use a key once, now. Only the expiry check creates one, so a `Grant` proves that the check was made.
pub struct Grant<'a, V> {
    /// The key.
    pub value: &'a V,
    /// Its latest version.
    pub version: u32,
    /// Past its soft TTL.
    pub stale: bool,
    /// Time since the load of this key began, in µs.
    pub age_us: u64,
    /// `effective_hard`: at this time and later no result may be released.
    pub expires_at: Instant,
    _checked: Checked,
}

/// Can be constructed in this module only.
struct Checked;

impl<'a, V> Grant<'a, V> {
    /// Returns `None` at or after `effective_hard`, or if the key is older than a purge of its keyspace.
    #[inline]
    pub(crate) fn check(live: &'a Live<V>, terms: &ExpiryRules, now: Instant) -> Option<Self> {
        let expires_at = terms.effective_hard(live);
        if now >= expires_at {
            return None;
        }
        Some(Self {
            value: &live.value,
            version: live.version,
            stale: now >= terms.soft_at(live),
            age_us: now.saturating_since(live.loaded_at),
            expires_at,
            _checked: Checked,
        })
    }
}

// Implemented by hand: the key must not be printed, and need not implement `Debug`.
impl<V> fmt::Debug for Grant<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant")
            .field("version", &self.version)
            .field("stale", &self.stale)
            .field("age_us", &self.age_us)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
