//! A latency histogram with fixed buckets, as Prometheus wants it, and an HDR histogram beside it
//! for exact quantiles.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Upper bounds of the buckets, in microseconds: 5 µs to 1 s, densest around the 2 ms target.
pub const BOUNDS_US: [u64; 22] = [
    5, 10, 20, 35, 50, 75, 100, 150, 200, 350, 500, 750, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000,
    25_000, 100_000, 300_000, 1_000_000,
];

/// Longest latency that the HDR histogram distinguishes, in nanoseconds (one minute).
const NS_MAX: u64 = 60_000_000_000;

/// Two significant digits: 1 % of error, about 25 KiB at most.
const SIGNIFICANT_DIGITS: u8 = 2;

/// Latencies of one kind of work.
#[derive(Clone, Debug, Default)]
pub struct Latency {
    /// Observations per bucket of [`BOUNDS_US`]; the last is everything longer. Not cumulative.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// Sum of all observations, in nanoseconds.
    pub sum_ns: u64,
    /// The same observations in nanoseconds, for quantiles. `None` without any: there may be thousands of unused
    /// keyspaces.
    hdr: Option<Box<Histogram<u64>>>,
}

fn empty() -> Box<Histogram<u64>> {
    let hdr = Histogram::new_with_bounds(1_000, NS_MAX, SIGNIFICANT_DIGITS);
    Box::new(hdr.expect("the bounds are constants in order"))
}

impl Latency {
    /// Counts one observation.
    pub fn record_ns(&mut self, ns: u64) {
        // Prometheus' buckets are inclusive above, in whole nanoseconds here.
        let bucket = BOUNDS_US.partition_point(|bound_us| bound_us * 1_000 < ns);
        self.buckets[bucket] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        let hdr = self.hdr.get_or_insert_with(empty);
        hdr.saturating_record(ns);
    }

    /// Adds another shard's observations.
    pub fn merge(&mut self, other: &Latency) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        if let Some(theirs) = &other.hdr {
            let hdr = self.hdr.get_or_insert_with(empty);
            hdr.add(&**theirs)
                .expect("all histograms have the same bounds");
        }
    }

    /// How many observations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value at `quantile` (0 to 1), in milliseconds; 0 without observations.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        let hdr = self.hdr.as_ref();
        hdr.map_or(0.0, |hdr| hdr.value_at_quantile(quantile) as f64 / 1e6)
    }

    /// The longest, in milliseconds; 0 without observations.
    pub fn max_ms(&self) -> f64 {
        let hdr = self.hdr.as_ref();
        hdr.map_or(0.0, |hdr| hdr.max() as f64 / 1e6)
    }

    /// Returns the row of STATUS: count, sum and quantiles since the start, in milliseconds, and the buckets, which are
    /// not cumulative and are empty without observations. Two documents' buckets, subtracted, give the quantiles of the
    /// time between them.
    pub fn quantiles(&self) -> Value {
        let buckets: &[u64] = match self.count() {
            0 => &[],
            _ => &self.buckets,
        };
        json!({
            "count": self.count(),
            "sum": self.sum_ns as f64 / 1e6,
            "buckets": buckets,
            "p50": self.quantile_ms(0.50),
            "p95": self.quantile_ms(0.95),
            "p99": self.quantile_ms(0.99),
            "p999": self.quantile_ms(0.999),
            "max": self.max_ms(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_inclusive_above_and_nothing_is_lost() {
        let mut latency = Latency::default();
        for ns in [1, 5_000, 5_001, 2_000_000, 2_000_001, 5_000_000_000] {
            latency.record_ns(ns);
        }
        assert_eq!(latency.buckets[0], 2, "1 ns and exactly 5 us");
        assert_eq!(latency.buckets[1], 1, "just over 5 us");
        let two_ms = BOUNDS_US.iter().position(|bound| *bound == 2_000).unwrap();
        assert_eq!(
            (latency.buckets[two_ms], latency.buckets[two_ms + 1]),
            (1, 1)
        );
        assert_eq!(latency.buckets[BOUNDS_US.len()], 1);
        assert_eq!(latency.count(), 6);
    }

    #[test]
    fn quantiles_of_merged_shards_are_those_of_all_observations() {
        let (mut one, mut two) = (Latency::default(), Latency::default());
        (0..95).for_each(|_| one.record_ns(100_000));
        (0..5).for_each(|_| two.record_ns(10_000_000));
        one.merge(&two);
        assert!((one.quantile_ms(0.5) - 0.1).abs() < 0.01);
        assert!((one.quantile_ms(0.99) - 10.0).abs() < 0.2);
    }

    #[test]
    fn the_buckets_of_a_document_add_up_to_its_count_with_one_beyond_the_last_bound() {
        assert_eq!(Latency::default().quantiles()["buckets"], json!([]));
        let mut latency = Latency::default();
        for ns in [4_000, 2_000_000, 9_000_000_000] {
            latency.record_ns(ns);
        }
        let document = latency.quantiles();
        let buckets: Vec<u64> = serde_json::from_value(document["buckets"].clone()).unwrap();
        assert_eq!(buckets.len(), BOUNDS_US.len() + 1);
        assert_eq!(document["count"], buckets.iter().sum::<u64>());
        assert_eq!(buckets.last(), Some(&1));
        assert!((document["sum"].as_f64().unwrap() - 9_002.004).abs() < 1e-6);
    }
}
