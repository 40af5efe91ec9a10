//! Determines which keys are refreshed ahead of need, and how soon.

use crate::backoff::Backoff;
use crate::entry::Due;
use crate::keyspace::Deadlines;
use crate::time::Instant;

/// Time between two passes of the prefetcher, in µs. Refreshes ahead of need start in passes only. It is well below the
/// shortest sensible refresh window and well above a load's duration, so that the slots of one pass are free again at the
/// next.
pub const SCAN_PERIOD_US: u64 = 10_000;

/// Keyspaces of one pass, at most; more of them take turns. So a pass and what an idle shard costs have a bound: 10,000
/// keyspaces have their turn every 0.1 s.
pub const SCANNED_MAX: usize = 1_024;

/// The next pass of the prefetcher.
#[derive(Debug)]
pub(crate) struct NextPass {
    /// Not before then.
    pub(crate) at: Instant,
    /// Number of the keyspace at which it begins.
    pub(crate) from: usize,
}

/// Returns the queue of a live key that has no flight, and when to check it again, never later than `points.hard_at`.
pub(crate) fn plan(
    points: &Deadlines,
    now: Instant,
    used: bool,
    backoff: &Backoff,
    recheck_us: u64,
) -> (Due, Instant) {
    let (due, look_at) = if backoff.left_us(now).is_some() {
        (Due::None, backoff.retry_at())
    } else if now < points.due_at {
        (Due::None, points.due_at)
    } else if used {
        if now < points.urgent_at {
            (Due::Ahead, points.urgent_at)
        } else {
            (Due::Urgent, points.hard_at)
        }
    } else if now < points.soft_at && recheck_us > 0 {
        (Due::None, now.plus_us(recheck_us).min(points.soft_at))
    } else {
        // Not used: left to expire.
        (Due::None, points.hard_at)
    };
    (due, look_at.min(points.hard_at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    const POINTS: Deadlines = Deadlines {
        due_at: at_const(80),
        urgent_at: at_const(95),
        soft_at: at_const(100),
        hard_at: at_const(600),
    };

    const fn at_const(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    #[test]
    fn used_key_moves_from_ahead_to_urgent() {
        let idle = Backoff::default();
        assert_eq!(plan(&POINTS, at(10), true, &idle, 2), (Due::None, at(80)));
        assert_eq!(plan(&POINTS, at(80), true, &idle, 2), (Due::Ahead, at(95)));
        assert_eq!(
            plan(&POINTS, at(95), true, &idle, 2),
            (Due::Urgent, at(600))
        );
        assert_eq!(
            plan(&POINTS, at(300), true, &idle, 2),
            (Due::Urgent, at(600))
        );
    }

    #[test]
    fn unused_key_is_checked_again_and_then_left_to_expire() {
        let idle = Backoff::default();
        assert_eq!(plan(&POINTS, at(80), false, &idle, 2), (Due::None, at(82)));
        assert_eq!(plan(&POINTS, at(99), false, &idle, 2), (Due::None, at(100)));
        assert_eq!(
            plan(&POINTS, at(100), false, &idle, 2),
            (Due::None, at(600))
        );
        assert_eq!(plan(&POINTS, at(80), false, &idle, 0), (Due::None, at(600)));
    }

    #[test]
    fn key_in_backoff_is_checked_when_the_backoff_ends() {
        let mut backoff = Backoff::default();
        backoff.failed(at(85), &mut Rng::new(1), 100, 1_000);
        assert_eq!(
            plan(&POINTS, at(85), true, &backoff, 2),
            (Due::None, backoff.retry_at())
        );
        backoff.not_before(at(9_000));
        assert_eq!(
            plan(&POINTS, at(85), true, &backoff, 2),
            (Due::None, at(600))
        );
    }
}
