//! Points in time, as numbers that the caller reads from a clock.
//!
//! The core never reads a clock. Every input has an argument `now`, which the caller reads from a clock that counts while
//! the machine is suspended (`CLOCK_BOOTTIME`): a lease that ended during a suspend has ended.

use core::fmt;

/// One tick of the timing wheels, in µs. Every timer fires at a multiple of it, never early.
pub const TICK_US: u64 = 1_000;

/// Microseconds in a millisecond: settings are in ms, the core counts in µs.
pub(crate) const US_PER_MS: u64 = 1_000;

/// A point in time, in µs since an origin that the caller chooses (the boot of the machine).
///
/// Arithmetic saturates: `Instant::MAX` means "never", and adding to it leaves it unchanged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than every event.
    pub const MAX: Self = Self(u64::MAX);

    /// Returns the point `micros` µs after the origin.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Returns µs since the origin.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Returns the point `us` µs later, or [`Instant::MAX`].
    #[must_use]
    pub const fn plus_us(self, us: u64) -> Self {
        Self(self.0.saturating_add(us))
    }

    /// Returns the point `us` µs earlier, or [`Instant::ZERO`].
    #[must_use]
    pub const fn minus_us(self, us: u64) -> Self {
        Self(self.0.saturating_sub(us))
    }

    /// Returns µs from `earlier` to this point; 0 if `earlier` is in fact later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::MAX {
            return f.write_str("never");
        }
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_stays_never() {
        assert_eq!(Instant::MAX.plus_us(1), Instant::MAX);
        assert_eq!(Instant::MAX.plus_us(u64::MAX), Instant::MAX);
    }

    #[test]
    fn differences_saturate_at_zero() {
        let early = Instant::from_micros(5);
        let late = Instant::from_micros(9);
        assert_eq!(late.saturating_since(early), 4);
        assert_eq!(early.saturating_since(late), 0);
        assert_eq!(early.minus_us(6), Instant::ZERO);
    }
}
