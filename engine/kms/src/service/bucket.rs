//! Token buckets: one for the rate of calls, one for retries. Time is an argument.

use std::time::Duration;

/// Limits the rate of calls: up to `burst` immediately after a pause, then one per `interval`. Places are assigned in
/// order: a caller that reserves one waits for it.
///
/// It starts with a single call: a burst is for a process that has been quiet, which cannot be known of one that has just
/// started. A fleet that starts together is then limited to the sum of its rates.
///
/// Stored as the time at which the next place is free, in ns, on a scale where the first call is at `rest_ns`.
#[derive(Debug)]
pub(super) struct RateBucket {
    interval_ns: u64,
    /// How far the next place can be in the past: the burst, less the one call that is made now.
    rest_ns: u64,
    next_ns: u64,
}

impl RateBucket {
    /// `rate_per_s` and `burst` are 1 or more.
    pub(super) fn new(rate_per_s: u32, burst: u32) -> Self {
        let interval_ns = (1_000_000_000 / u64::from(rate_per_s)).max(1);
        Self {
            interval_ns,
            rest_ns: interval_ns * (u64::from(burst) - 1),
            next_ns: interval_ns * (u64::from(burst) - 1),
        }
    }

    /// Takes the next place if it is at most `wait_max` away, and returns the wait. `Err` contains the wait that would be
    /// needed.
    pub(super) fn reserve(
        &mut self,
        now: Duration,
        wait_max: Duration,
    ) -> Result<Duration, Duration> {
        let now_ns = self.scale(now);
        let place_ns = self.next_ns.max(now_ns - self.rest_ns);
        let wait = Duration::from_nanos(place_ns.saturating_sub(now_ns));
        if wait > wait_max {
            return Err(wait);
        }
        self.next_ns = place_ns + self.interval_ns;
        Ok(wait)
    }

    /// Assigns no place before `until`, and no burst at that time.
    pub(super) fn pause(&mut self, until: Duration) {
        self.next_ns = self.next_ns.max(self.scale(until));
    }

    /// Returns the number of calls that could be sent immediately.
    pub(super) fn available(&self, now: Duration) -> u32 {
        let now_ns = self.scale(now);
        let place_ns = self.next_ns.max(now_ns - self.rest_ns);
        match now_ns.checked_sub(place_ns) {
            Some(behind_ns) => u32::try_from(behind_ns / self.interval_ns + 1).unwrap_or(u32::MAX),
            None => 0,
        }
    }

    fn scale(&self, time: Duration) -> u64 {
        u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2) + self.rest_ns
    }
}

const MILLI: u64 = 1000;

/// Limits retries to a share of the successful calls: each retry takes a token, and each success returns a fraction of
/// one. A KMS that is down is then called little more often than one that works.
#[derive(Debug)]
pub(super) struct RetryBucket {
    tokens_milli: u64,
    tokens_milli_max: u64,
    refund_milli: u64,
}

impl RetryBucket {
    pub(super) fn new(tokens_max: u32, refund_pct: u32) -> Self {
        let tokens_milli_max = u64::from(tokens_max) * MILLI;
        Self {
            tokens_milli: tokens_milli_max,
            tokens_milli_max,
            refund_milli: u64::from(refund_pct) * MILLI / 100,
        }
    }

    /// Takes a token for a retry. Returns `false` if there is none.
    pub(super) fn take(&mut self) -> bool {
        match self.tokens_milli.checked_sub(MILLI) {
            Some(left) => {
                self.tokens_milli = left;
                true
            }
            None => false,
        }
    }

    pub(super) fn refund(&mut self) {
        self.tokens_milli = (self.tokens_milli + self.refund_milli).min(self.tokens_milli_max);
    }

    /// Returns the number of retries that could be made now.
    pub(super) fn available(&self) -> u32 {
        u32::try_from(self.tokens_milli / MILLI).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREVER: Duration = Duration::from_secs(3600);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_call_goes_at_once_and_there_is_no_burst_before_a_rest() {
        let mut bucket = RateBucket::new(10, 3);
        assert_eq!(bucket.available(ms(0)), 1);
        let waits: Vec<Duration> = (0..3)
            .map(|_| bucket.reserve(ms(0), FOREVER).unwrap())
            .collect();
        assert_eq!(waits, [ms(0), ms(100), ms(200)]);
    }

    #[test]
    fn a_burst_goes_at_once_and_the_rest_in_turn() {
        let mut bucket = RateBucket::new(10, 3);
        assert_eq!(bucket.available(ms(200)), 3);
        let waits: Vec<Duration> = (0..5)
            .map(|_| bucket.reserve(ms(200), FOREVER).unwrap())
            .collect();
        assert_eq!(waits, [ms(0), ms(0), ms(0), ms(100), ms(200)]);
        assert_eq!(bucket.available(ms(200)), 0);
        assert_eq!(bucket.reserve(ms(400), FOREVER), Ok(ms(100)));
    }

    #[test]
    fn a_rest_refills_up_to_the_burst_and_no_further() {
        let mut bucket = RateBucket::new(10, 3);
        bucket.reserve(ms(0), FOREVER).unwrap();
        assert_eq!(bucket.available(ms(99)), 0);
        assert_eq!(bucket.available(ms(100)), 1);
        assert_eq!(bucket.available(ms(100_000)), 3);
        let waits: Vec<Duration> = (0..4)
            .map(|_| bucket.reserve(ms(100_000), FOREVER).unwrap())
            .collect();
        assert_eq!(waits, [ms(0), ms(0), ms(0), ms(100)]);
    }

    #[test]
    fn a_place_too_far_away_is_not_taken() {
        let mut bucket = RateBucket::new(10, 1);
        assert_eq!(bucket.reserve(ms(0), ms(0)), Ok(ms(0)));
        assert_eq!(bucket.reserve(ms(0), ms(99)), Err(ms(100)));
        assert_eq!(bucket.reserve(ms(0), ms(100)), Ok(ms(100)));
    }

    #[test]
    fn after_a_pause_there_is_no_burst() {
        let mut bucket = RateBucket::new(10, 50);
        bucket.pause(ms(5_000));
        assert_eq!(bucket.reserve(ms(0), FOREVER), Ok(ms(5_000)));
        assert_eq!(bucket.reserve(ms(5_000), FOREVER), Ok(ms(100)));
    }

    #[test]
    fn retries_are_a_share_of_the_successes() {
        let mut bucket = RetryBucket::new(2, 10);
        assert!(bucket.take() && bucket.take() && !bucket.take());
        for _ in 0..9 {
            bucket.refund();
        }
        assert!(!bucket.take());
        bucket.refund();
        assert_eq!(bucket.available(), 1);
        assert!(bucket.take() && !bucket.take());
        for _ in 0..1000 {
            bucket.refund();
        }
        assert_eq!(bucket.available(), 2);
    }

    #[test]
    fn no_tokens_means_no_retries() {
        let mut bucket = RetryBucket::new(0, 100);
        bucket.refund();
        assert!(!bucket.take());
    }
}
