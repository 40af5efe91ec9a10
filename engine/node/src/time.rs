//! Time as an argument: the crate has no clock.

use keyway_core::Instant;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// On the wall clock, ms since the Unix epoch.
    pub unix_ms: u64,
    /// On the clock of expiry.
    pub instant: Instant,
}
