//! A moving average of durations.

/// Exponentially weighted: each sample counts one eighth. The first sample sets it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ewma(Option<u64>);

impl Ewma {
    pub(crate) fn add_us(&mut self, sample_us: u64) {
        self.0 = Some(match self.0 {
            None => sample_us,
            Some(mean) => mean - mean / 8 + sample_us / 8,
        });
    }

    /// Returns the average, or `None` before the first sample.
    pub(crate) fn us(&self) -> Option<u64> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_sets_the_average_and_later_ones_adjust_it() {
        let mut mean = Ewma::default();
        assert_eq!(mean.us(), None);
        mean.add_us(800);
        assert_eq!(mean.us(), Some(800));
        mean.add_us(1_600);
        assert_eq!(mean.us(), Some(900));
        for _ in 0..100 {
            mean.add_us(80);
        }
        assert!(mean.us().is_some_and(|us| us < 100));
    }
}
