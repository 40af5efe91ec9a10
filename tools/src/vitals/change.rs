//! What changed between two status documents of the same process.

use crate::text;

use super::{Keyspace, Latency, ServerStatus, Shard};

/// Two documents, the earlier one first.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// The earlier one.
    pub before: &'a ServerStatus,
    /// The later one.
    pub now: &'a ServerStatus,
}

impl<'a> Change<'a> {
    /// How long it is, in seconds; never 0.
    pub fn seconds(self) -> f64 {
        let ms = self.now.unix_ms.saturating_sub(self.before.unix_ms);
        ms.max(1) as f64 / 1_000.0
    }

    /// A counter's rise, per second.
    pub fn rate(self, before: u64, now: u64) -> f64 {
        now.saturating_sub(before) as f64 / self.seconds()
    }

    /// The keyspaces, each with what it was; one that is new was nothing.
    pub fn keyspaces(self) -> impl Iterator<Item = (Keyspace, &'a Keyspace)> {
        self.now.keyspaces.iter().map(move |now| {
            let mut earlier = self.before.keyspaces.iter();
            let before = earlier.find(|before| before.name == now.name).cloned();
            (before.unwrap_or_default(), now)
        })
    }

    /// The shards, each with what it was.
    pub fn shards(self) -> impl Iterator<Item = (Shard, &'a Shard)> {
        self.now.shards.iter().map(move |now| {
            let mut earlier = self.before.shards.iter();
            let before = earlier.find(|before| before.shard == now.shard).cloned();
            (before.unwrap_or_default(), now)
        })
    }

    /// The observations of a latency in between.
    pub fn spread(self, before: &Latency, now: &Latency) -> HistogramDelta<'a> {
        let earlier = before.buckets.iter().copied().chain(std::iter::repeat(0));
        let buckets = now.buckets.iter().zip(earlier);
        HistogramDelta {
            bounds_ms: &self.now.latency_bounds_ms,
            buckets: buckets
                .map(|(now, before)| now.saturating_sub(before))
                .collect(),
            sum_ms: (now.sum - before.sum).max(0.0),
        }
    }
}

/// Observations of a latency in some time.
#[derive(Clone, Debug)]
pub struct HistogramDelta<'a> {
    bounds_ms: &'a [f64],
    buckets: Vec<u64>,
    /// Their sum, in ms.
    pub sum_ms: f64,
}

impl HistogramDelta<'_> {
    /// How many there are.
    pub fn count(&self) -> u64 {
        text::sum(self.buckets.iter().copied())
    }

    /// The bound of the bucket that the observation at `quantile` (0 to 1) lies in: it took no
    /// longer. The last bound stands for what is beyond. `None` without observations.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let rank = (self.count() as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen: u64 = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen = seen.saturating_add(*count);
            seen >= rank
        })?;
        let bound = self.bounds_ms.get(bucket).or(self.bounds_ms.last());
        bound.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(unix_ms: u64) -> ServerStatus {
        ServerStatus {
            unix_ms,
            latency_bounds_ms: vec![1.0, 2.0, 5.0],
            ..ServerStatus::default()
        }
    }

    #[test]
    fn a_rate_is_per_second_and_never_below_nothing() {
        let (before, now) = (vitals(1_000), vitals(5_000));
        let change = Change {
            before: &before,
            now: &now,
        };
        assert!((change.rate(10, 30) - 5.0).abs() < 1e-9);
        assert!(change.rate(30, 10).abs() < 1e-9);
        let none = Change {
            before: &now,
            now: &now,
        };
        assert!(none.rate(0, 1).is_finite());
    }

    #[test]
    fn quantiles_are_those_of_the_time_between() {
        let (before, now) = (vitals(0), vitals(1_000));
        let change = Change {
            before: &before,
            now: &now,
        };
        let latency = |buckets: &[u64]| Latency {
            buckets: buckets.to_vec(),
            ..Latency::default()
        };
        let spread = change.spread(&latency(&[1_000, 0, 0, 0]), &latency(&[1_090, 8, 2, 0]));
        assert_eq!(spread.count(), 100);
        assert_eq!(spread.quantile_ms(0.90), Some(1.0));
        assert_eq!(spread.quantile_ms(0.95), Some(2.0));
        assert_eq!(spread.quantile_ms(0.99), Some(5.0));
        // Beyond all bounds, and from nothing at all.
        let spread = change.spread(&latency(&[]), &latency(&[0, 0, 0, 3]));
        assert_eq!(spread.quantile_ms(0.5), Some(5.0));
        assert_eq!(
            change.spread(&latency(&[]), &latency(&[])).quantile_ms(0.5),
            None
        );
    }
}
