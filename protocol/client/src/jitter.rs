//! Randomness for backoff. It spreads clients out and needs to be neither secret nor good.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// SplitMix64: each call steps a counter and mixes it.
#[derive(Debug)]
pub(crate) struct Jitter(AtomicU64);

impl Jitter {
    /// The golden ratio's fraction in 64 bits, SplitMix64's increment.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

    pub(crate) fn new() -> Self {
        // The standard library seeds each `RandomState` from the operating system.
        Self(AtomicU64::new(RandomState::new().build_hasher().finish()))
    }

    /// A duration from 0 to `max`, each alike.
    pub(crate) fn up_to(&self, max: Duration) -> Duration {
        let mut mixed = self.0.fetch_add(Self::STEP, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 53 bits fill the mantissa of an f64: a fraction from 0 to just under 1.
        max.mul_f64((mixed >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_its_bound_and_moves() {
        let jitter = Jitter::new();
        let max = Duration::from_millis(100);
        let drawn: Vec<_> = (0..1_000).map(|_| jitter.up_to(max)).collect();
        assert!(drawn.iter().all(|delay| *delay <= max));
        assert!(drawn.iter().any(|delay| *delay < max / 4));
        assert!(drawn.iter().any(|delay| *delay > max / 4 * 3));
    }
}
