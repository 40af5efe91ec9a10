//! Leave to use a key.

use keyway_core::{Grant, Instant};

use super::permit::Allowed;

/// Leave to use a key once, now. It takes a right that was checked in this turn and a grant of the core.
pub struct Use<'a, K> {
    key: &'a K,
    expires_at: Instant,
}

impl<'a, K> Use<'a, K> {
    pub(super) fn of(grant: &Grant<'a, K>, _allowed: Allowed<'_>) -> Self {
        Use {
            key: grant.value,
            expires_at: grant.expires_at,
        }
    }

    /// Returns the key.
    #[must_use]
    pub fn key(&self) -> &'a K {
        self.key
    }

    /// Returns the time at which no result may leave any more.
    #[must_use]
    pub fn expires_at(&self) -> Instant {
        self.expires_at
    }
}
