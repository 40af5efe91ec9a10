//! What one shard may hold at most.

use core::fmt;

/// Named maxima of one shard. Every list, map and queue of the core is bounded by one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Which shard this is, `0..shard_count`. The first shards get the remainder of node-wide
    /// figures.
    pub shard_index: u16,
    /// How many shards the node has.
    pub shard_count: u16,
    /// Entries of every state: live keys, flights, negatives, marks.
    pub entries_max: usize,
    /// Sum of [`Loaded::key_bytes`](crate::Loaded::key_bytes) of the live keys.
    pub key_bytes_max: usize,
    /// Loads that may run or wait for a DEK at a time.
    pub flights_max: usize,
    /// Of `flights_max`, what prefetching leaves alone.
    pub on_demand_reserve: usize,
    /// Requests and force-refreshes that may wait at a time.
    pub waiters_max: usize,
    /// Keys remembered as missing.
    pub negatives_max: usize,
    /// Keys remembered as revoked. One that falls out is learned again from the store.
    pub revoked_max: usize,
    /// Timers of waiters and flights that go off in one tick. The rest of those that are due go off in the next ticks,
    /// so that a tick takes a bounded time however many waits end at once.
    pub timers_per_tick_max: usize,
    /// Time limit of one flight, µs.
    pub flight_time_limit_us: u64,
    /// By how much of it a DEK is renewed before half of its lease, parts per million: after
    /// `(1 - renew_early_ppm / 10^6) / 2` of the lease, never later than half. A process draws it
    /// at its start, the same for all its shards: processes that began together then have different
    /// periods and drift apart, instead of calling the KMS together for ever.
    pub renew_early_ppm: u32,
}

/// The largest [`Limits::renew_early_ppm`]: a renewal at two fifths of the lease, and a quarter
/// more calls of the KMS.
pub const RENEW_EARLY_PPM_MAX: u32 = 200_000;

/// How often a lease that is in use is renewed while it lasts, with [`Limits::renew_early_ppm`]:
/// 2.0 with none, 2.5 with the most.
#[must_use]
pub fn renewals_per_lease(renew_early_ppm: u32) -> f64 {
    2.0 / (1.0 - f64::from(renew_early_ppm) / 1e6)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            shard_index: 0,
            shard_count: 1,
            entries_max: 1 << 20,
            key_bytes_max: 256 << 20,
            flights_max: 1_024,
            on_demand_reserve: 256,
            waiters_max: 1 << 16,
            negatives_max: 1 << 16,
            revoked_max: 1 << 16,
            timers_per_tick_max: 1_024,
            flight_time_limit_us: 2_000_000,
            renew_early_ppm: 0,
        }
    }
}

impl Limits {
    /// The share of a node-wide figure that falls to this shard: the quotient, and one more for
    /// each of the first (figure mod shards) shards. The shares of all shards add up to it.
    #[must_use]
    pub fn share_of(&self, node_wide: u32) -> u32 {
        let shards = u32::from(self.shard_count);
        node_wide / shards + u32::from(u32::from(self.shard_index) < node_wide % shards)
    }

    /// # Errors
    /// The first rule that these limits break.
    pub fn validate(&self) -> Result<(), LimitsError> {
        let rules = [
            (self.shard_count >= 1, "shard_count >= 1"),
            (
                self.shard_index < self.shard_count,
                "shard_index < shard_count",
            ),
            (self.entries_max >= 4, "entries_max >= 4"),
            (self.entries_max <= 1 << 30, "entries_max <= 2^30"),
            (self.key_bytes_max >= 1, "key_bytes_max >= 1"),
            (self.flights_max >= 1, "flights_max >= 1"),
            (
                self.flights_max < self.entries_max,
                "flights_max < entries_max",
            ),
            (
                self.on_demand_reserve < self.flights_max,
                "on_demand_reserve < flights_max",
            ),
            (self.waiters_max >= 1, "waiters_max >= 1"),
            (self.waiters_max <= 1 << 30, "waiters_max <= 2^30"),
            (self.timers_per_tick_max >= 1, "timers_per_tick_max >= 1"),
            (self.negatives_max >= 1, "negatives_max >= 1"),
            (
                self.negatives_max <= self.entries_max / 2,
                "negatives_max <= entries_max / 2",
            ),
            (self.revoked_max >= 1, "revoked_max >= 1"),
            (
                self.revoked_max <= self.entries_max / 2,
                "revoked_max <= entries_max / 2",
            ),
            (
                self.flight_time_limit_us >= 10_000,
                "flight_time_limit_us >= 10000",
            ),
            (
                self.flight_time_limit_us <= 600_000_000,
                "flight_time_limit_us <= 600000000",
            ),
            (
                self.renew_early_ppm <= RENEW_EARLY_PPM_MAX,
                "renew_early_ppm <= 200000",
            ),
        ];
        match rules.iter().find(|(kept, _)| !kept) {
            Some((_, rule)) => Err(LimitsError { rule }),
            None => Ok(()),
        }
    }
}

/// The limits contradict each other, or reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsError {
    /// The rule that is broken.
    pub rule: &'static str,
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limits of a shard must keep the rule {}", self.rule)
    }
}

impl core::error::Error for LimitsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Limits::default().validate(), Ok(()));
    }

    #[test]
    fn shares_add_up_and_the_first_shards_get_the_remainder() {
        for (node_wide, shard_count) in [(64, 1), (64, 3), (1, 2), (0, 4), (7, 4), (65_536, 5)] {
            let shares: alloc::vec::Vec<u32> = (0..shard_count)
                .map(|shard_index| {
                    Limits {
                        shard_index,
                        shard_count,
                        ..Limits::default()
                    }
                    .share_of(node_wide)
                })
                .collect();
            assert_eq!(shares.iter().sum::<u32>(), node_wide);
            assert!(shares.is_sorted_by(|one, two| one >= two));
            assert!(shares[0] - shares[shares.len() - 1] <= 1);
        }
    }

    #[test]
    fn the_earlier_renewals_come_the_more_of_them_there_are() {
        let renewals = |early_ppm| (renewals_per_lease(early_ppm) * 1e6).round() as u64;
        assert_eq!(
            [0, 100_000, RENEW_EARLY_PPM_MAX].map(renewals),
            [2_000_000, 2_222_222, 2_500_000]
        );
    }

    #[test]
    fn a_broken_rule_is_named() {
        let limits = Limits {
            on_demand_reserve: 1_024,
            ..Limits::default()
        };
        assert_eq!(
            limits.validate(),
            Err(LimitsError {
                rule: "on_demand_reserve < flights_max"
            })
        );
    }
}
