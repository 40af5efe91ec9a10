//! Randomness that is the same on every machine, and stays the same when the history around it is shortened.

/// Xorshift64*: independent of the generator of the core.
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // A seed with few bits must not cause a first draw with few bits, and the state must not be 0.
        Self(mix(seed) | 1)
    }

    /// Returns a separate stream for one event: it does not depend on earlier draws, so that leaving out a step of a
    /// history does not change the other steps.
    pub(crate) fn of(seed: u64, what: u64, which: u64, turn: u64) -> Self {
        Self::new(mix(mix(mix(seed ^ what) ^ which) ^ turn))
    }

    /// Returns a number in `0..below`, which is not 0.
    pub(crate) fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    /// Returns a number in `from..=to`.
    pub(crate) fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Returns a number in `0..below`, low ones more often.
    pub(crate) fn skewed(&mut self, below: u64) -> u64 {
        let most = 1 + self.below(below);
        self.below(most)
    }
}

/// Returns the finisher of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(x: u64) -> u64 {
    let mut x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_do_not_depend_on_each_other() {
        let mut one = Dice::of(1, 2, 3, 4);
        let first = one.below(1_000);
        Dice::of(1, 2, 3, 5).below(10);
        assert_eq!(Dice::of(1, 2, 3, 4).below(1_000), first);
    }

    #[test]
    fn draws_stay_in_their_range_and_reach_both_ends() {
        let mut dice = Dice::new(0);
        let seen: std::collections::BTreeSet<u64> = (0..200).map(|_| dice.range(3, 6)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert!((0..100).all(|_| dice.skewed(5) < 5));
    }
}
