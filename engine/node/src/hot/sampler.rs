//! Which requests are counted: every one while there are few, then one of sixteen, picked at random.
//!
//! Picked at random, not each sixteenth: clients that go over their keys in turn would have the same ones counted
//! again and again, and the others never.

/// Requests that are counted one by one, from the start.
pub const EXACT_MAX: u32 = 4_096;

/// After that, one request in this many is sampled, and counted as this many.
pub const SAMPLING_PERIOD: u32 = 16;

/// Picks requests.
#[derive(Debug)]
pub struct Sampler {
    exact_left: u32,
    /// Requests to pass over before the next that is counted.
    skip: u32,
    random: u64,
}

impl Sampler {
    /// From the start. `seed` decides what is picked.
    pub fn new(seed: u64) -> Sampler {
        Sampler {
            exact_left: EXACT_MAX,
            skip: 0,
            random: seed,
        }
    }

    /// Starts again with counting every request.
    pub fn restart(&mut self) {
        self.exact_left = EXACT_MAX;
    }

    /// For one more request: what it counts as, if it is to be counted.
    #[inline]
    pub fn sample(&mut self) -> Option<u64> {
        if self.exact_left > 0 {
            self.exact_left -= 1;
            if self.exact_left == 0 {
                self.skip = self.draw();
            }
            return Some(1);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.skip = self.draw();
        Some(u64::from(SAMPLING_PERIOD))
    }

    /// One of how many is counted now.
    pub fn one_in(&self) -> u32 {
        match self.exact_left {
            0 => SAMPLING_PERIOD,
            _ => 1,
        }
    }

    /// 0 to 30, each as likely: 15 on average, and the one that is counted makes 16. Knuth's linear congruential
    /// generator, of which the high bits are good enough for this.
    fn draw(&mut self) -> u32 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as u32 % (2 * SAMPLING_PERIOD - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_requests_are_all_counted_once() {
        let mut sampler = Sampler::new(1);
        for _ in 0..EXACT_MAX {
            assert_eq!(sampler.one_in(), 1);
            assert_eq!(sampler.sample(), Some(1));
        }
        assert_eq!(sampler.one_in(), SAMPLING_PERIOD);
        sampler.restart();
        assert_eq!(sampler.sample(), Some(1));
    }

    /// Requests that come in turn, for keys of any number, are each counted about as often as they come.
    #[test]
    fn no_rhythm_of_requests_hides_a_key_or_favours_one() {
        const ROUNDS: u64 = 40_000;
        for keys in [1, 2, 3, 8, 16, 31, 32, 48] {
            let mut sampler = Sampler::new(keys);
            let mut counted = vec![0; keys as usize];
            for request in 0..ROUNDS * keys {
                counted[(request % keys) as usize] += sampler.sample().unwrap_or(0);
            }
            for (key, counted) in counted.into_iter().enumerate() {
                // Six times the standard deviation of one in sixteen, √(15 × 40,000).
                let off = (counted as i64 - ROUNDS as i64).abs();
                assert!(
                    off < 6 * 775,
                    "{keys} keys in turn: key {key} is off by {off}"
                );
            }
        }
    }
}
