//! The two clocks of the server.
//!
//! Expiry runs on `CLOCK_BOOTTIME`, which continues during a suspend: a key that expires while the
//! machine is suspended has expired when it resumes. The wall clock appears only in the metadata of
//! a key (created, not before, not after), in a keyspace's history, in the remaining time of a
//! temporary override after a restart, and in the status document. It never extends the life of a
//! key.

use keyway_core::Instant;
use keyway_node::time::Moment;
use rustix::time::{ClockId, clock_gettime};

/// Now on `CLOCK_BOOTTIME`, in microseconds. About 30 ns; shards read it after each unit of work.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant::from_micros(time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000)
}

/// Now on the wall clock, in milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    (time.tv_sec.max(0) as u64) * 1_000 + time.tv_nsec as u64 / 1_000_000
}

/// Now on both clocks.
pub fn moment() -> Moment {
    Moment {
        unix_ms: unix_ms(),
        instant: now(),
    }
}

/// The point on the expiry clock at which the wall clock will read `unix_ms_at`; the present
/// when that has passed already.
pub fn instant_of_unix_ms(unix_ms_at: u64, now: Instant) -> Instant {
    now.plus_us(unix_ms_at.saturating_sub(unix_ms()).saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_in_the_past_is_the_present() {
        let now = now();
        assert_eq!(instant_of_unix_ms(1, now), now);
    }

    #[test]
    fn a_moment_ahead_is_as_far_ahead_on_the_expiry_clock() {
        let now = now();
        let ahead_us = instant_of_unix_ms(unix_ms() + 60_000, now).saturating_since(now);
        assert!((59_000_000..=60_000_000).contains(&ahead_us));
    }
}
