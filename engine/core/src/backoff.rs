//! Full-jitter backoff between two bounds.

use crate::rng::Rng;
use crate::time::Instant;

/// Bounds of the backoff of one key's loads, in µs.
pub(crate) const LOAD_BACKOFF_US_MIN: u64 = 50_000;
pub(crate) const LOAD_BACKOFF_US_MAX: u64 = 10_000_000;
/// Bounds of the backoff of one keyspace's unwraps, in µs.
pub(crate) const UNWRAP_BACKOFF_US_MIN: u64 = 100_000;
pub(crate) const UNWRAP_BACKOFF_US_MAX: u64 = 10_000_000;

const _: () = assert!(LOAD_BACKOFF_US_MIN < LOAD_BACKOFF_US_MAX);
const _: () = assert!(UNWRAP_BACKOFF_US_MIN < UNWRAP_BACKOFF_US_MAX);

/// Consecutive failures, and the time before which no attempt is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    attempts: u8,
    retry_at: Instant,
}

impl Backoff {
    /// Records a failure. The delay is drawn uniformly from `min_us` up to a ceiling that doubles with each consecutive
    /// failure and never exceeds `max_us`. A later time set before remains in effect.
    pub(crate) fn failed(&mut self, now: Instant, rng: &mut Rng, min_us: u64, max_us: u64) {
        self.attempts = self.attempts.saturating_add(1);
        let doubled = min_us.saturating_mul(1 << self.attempts.min(40));
        let ceiling_us = doubled.min(max_us);
        let retry_at = now.plus_us(min_us + rng.up_to(ceiling_us - min_us));
        self.retry_at = self.retry_at.max(retry_at);
    }

    /// Delays the next attempt at least until `at`.
    pub(crate) fn not_before(&mut self, at: Instant) {
        self.retry_at = self.retry_at.max(at);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the number of consecutive failures.
    pub(crate) fn attempts(&self) -> u8 {
        self.attempts
    }

    pub(crate) fn retry_at(&self) -> Instant {
        self.retry_at
    }

    /// Returns the time until the next attempt in µs, if it is in the future.
    pub(crate) fn left_us(&self, now: Instant) -> Option<u64> {
        (self.retry_at > now).then(|| self.retry_at.saturating_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_within_their_bounds_and_grow() {
        let mut rng = Rng::new(3);
        let now = Instant::from_micros(1_000);
        let mut backoff = Backoff::default();
        let mut longest_us = 0;
        for attempt in 1..=100_u64 {
            let now = now.plus_us(attempt * 20_000_000);
            backoff.failed(now, &mut rng, 50_000, 10_000_000);
            let delay_us = backoff.left_us(now).expect("a failure causes a delay");
            assert!((50_000..=10_000_000).contains(&delay_us));
            assert!(delay_us <= 50_000 << attempt.min(30));
            longest_us = longest_us.max(delay_us);
        }
        assert!(
            longest_us > 5_000_000,
            "full jitter produces long delays: {longest_us}"
        );
        backoff.clear();
        assert_eq!(backoff.left_us(now), None);
        backoff.not_before(now.plus_us(60_000_000));
        backoff.failed(now, &mut rng, 50_000, 10_000_000);
        assert_eq!(backoff.left_us(now), Some(60_000_000));
    }
}
