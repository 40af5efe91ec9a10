//! The limits of one shard.

use core::fmt;

/// Named maxima of one shard. Every list, map and queue of the core is bounded by one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The index of this shard, `0..shard_count`. The first shards get the remainder of node-wide limits.
    pub shard_index: u16,
    /// Number of shards of the node.
    pub shard_count: u16,
    /// Most entries in any state: live keys, flights, missing and revoked keys.
    pub entries_max: usize,
    /// Largest sum of [`Loaded::key_bytes`](crate::Loaded::key_bytes) of the live keys.
    pub key_bytes_max: usize,
    /// Most loads that run or wait for a DEK at a time.
    pub flights_max: usize,
    /// How many of `flights_max` prefetching leaves unused.
    pub on_demand_reserve: usize,
    /// Most requests and force-refreshes that wait at a time.
    pub waiters_max: usize,
    /// Most keys cached as missing.
    pub negatives_max: usize,
    /// Most keys cached as revoked. A key that is dropped is read from the store again.
    pub revoked_max: usize,
    /// Most timers of waiters and flights that fire in one tick. Others that are due fire in the next ticks, so that a
    /// tick takes a bounded time however many waits end together.
    pub timers_per_tick_max: usize,
    /// Time limit of one flight, in µs.
    pub flight_time_limit_us: u64,
    /// How much earlier than half of its lease a DEK is renewed, in parts per million: after `(1 - renew_early_ppm /
    /// 10^6) / 2` of the lease, never later than half. A process draws it at its start, the same for all its shards:
    /// processes that started together then have different periods and drift apart, instead of calling the KMS together
    /// indefinitely.
    pub renew_early_ppm: u32,
}

/// The largest [`Limits::renew_early_ppm`]: a renewal at two fifths of the lease, and a quarter more KMS calls.
pub const RENEW_EARLY_PPM_MAX: u32 = 200_000;

/// Returns how often a lease that is in use is renewed during its duration, with [`Limits::renew_early_ppm`]: 2.0 with 0,
/// 2.5 with the maximum.
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
    /// Returns this shard's share of a node-wide limit: the quotient, and one more for each of the first (limit mod
    /// shards) shards. The shares of all shards add up to it.
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

/// The limits conflict with each other, or are out of range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitsError {
    /// The violated rule.
    pub rule: &'static str,
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the limits of a shard must satisfy {}", self.rule)
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
    fn earlier_renewals_are_more_frequent() {
        let renewals = |early_ppm| (renewals_per_lease(early_ppm) * 1e6).round() as u64;
        assert_eq!(
            [0, 100_000, RENEW_EARLY_PPM_MAX].map(renewals),
            [2_000_000, 2_222_222, 2_500_000]
        );
    }

    #[test]
    fn violated_rule_is_named() {
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
