//! Zipf-distributed choice: rank `k` (from 1) is drawn in proportion to `1 / k^exponent`.

use crate::rng::Rng;

/// Draws ranks from 0, the most frequent first. A table of sums, searched by halves: exact, and
/// small for the thousands of keys used here.
#[derive(Clone, Debug)]
pub struct Zipf {
    sums: Vec<f64>,
}

impl Zipf {
    /// Over `count >= 1` ranks.
    pub fn new(count: usize, exponent: f64) -> Self {
        assert!(count >= 1, "Zipf needs at least one rank");
        let mut sum = 0.0;
        let sums = (1..=count)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        Self { sums }
    }

    /// A rank, `0 <= rank < count`.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let last = self.sums.len() - 1;
        let at = rng.unit() * self.sums[last];
        self.sums.partition_point(|&sum| sum <= at).min(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_power_law() {
        let zipf = Zipf::new(1000, 1.0);
        let mut rng = Rng::new(1);
        let draws = 400_000;
        let mut counts = vec![0u32; 1000];
        for _ in 0..draws {
            counts[zipf.draw(&mut rng)] += 1;
        }
        let harmonic: f64 = (1..=1000).map(|k| 1.0 / f64::from(k)).sum();
        for rank in [1u32, 2, 10] {
            let expected = f64::from(draws) / (f64::from(rank) * harmonic);
            let drawn = f64::from(counts[rank as usize - 1]);
            assert!(
                (drawn / expected - 1.0).abs() < 0.05,
                "rank {rank}: {drawn}, not {expected}"
            );
        }
        assert!(counts.iter().filter(|&&count| count > 0).count() > 990);
    }

    #[test]
    fn one_rank_is_always_drawn() {
        assert_eq!(Zipf::new(1, 0.99).draw(&mut Rng::new(3)), 0);
    }
}
