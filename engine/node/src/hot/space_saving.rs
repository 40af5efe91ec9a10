//! The heaviest keys of a stream, in bounded memory: the Space-Saving sketch of Metwally, Agrawal and El Abbadi
//! ("Efficient Computation of Frequent and Top-k Elements in Data Streams", ICDT 2005), with weights.
//!
//! It holds at most `capacity` keys. A key that comes when all places are taken gets the place of the lightest one
//! and its count, which is noted as what the count may be too high by. With a total of N, that gives:
//!
//! - every key that weighs more than N / capacity is held;
//! - a count is never too low, and too high by at most its excess, which is at most N / capacity;
//! - a key that is not held weighs at most [`SpaceSaving::floor`], which is at most N / capacity.

use std::rc::Rc;

use hashbrown::HashMap;

/// What is known of a key's weight: it lies between `count - excess_max` and `count`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// Never too low.
    pub count: u64,
    /// How much too high it can be, at most `count`.
    pub excess_max: u64,
}

impl Estimate {
    /// Of a weight about which nothing is known but that it is at most `ceiling`.
    pub fn at_most(ceiling: u64) -> Estimate {
        Estimate {
            count: ceiling,
            excess_max: ceiling,
        }
    }

    /// Of the sum of two weights.
    pub fn plus(self, other: Estimate) -> Estimate {
        Estimate {
            count: self.count.saturating_add(other.count),
            excess_max: self.excess_max.saturating_add(other.excess_max),
        }
    }
}

/// The sketch.
///
/// A key that is held costs one hash lookup. One that is not costs a walk over the counts, 2 KiB for 256 of them, in
/// one piece: for so few that is less work than a heap that every addition has to keep in order.
#[derive(Debug)]
pub struct SpaceSaving {
    capacity: usize,
    /// The place of each key that is held.
    places: HashMap<Rc<[u8]>, usize>,
    /// Of each place, in three lists, so that the walk touches counts only.
    counts: Vec<u64>,
    excesses: Vec<u64>,
    keys: Vec<Rc<[u8]>>,
    total: u64,
}

impl SpaceSaving {
    /// An empty sketch of at most `capacity` keys, at least one. Memory is taken as keys come.
    pub fn new(capacity: usize) -> SpaceSaving {
        SpaceSaving {
            capacity: capacity.max(1),
            places: HashMap::new(),
            counts: Vec::new(),
            excesses: Vec::new(),
            keys: Vec::new(),
            total: 0,
        }
    }

    /// Adds to a key's weight.
    pub fn add(&mut self, key: &[u8], weight: u64) {
        if weight == 0 {
            return;
        }
        self.total = self.total.saturating_add(weight);
        if let Some(&place) = self.places.get(key) {
            self.counts[place] = self.counts[place].saturating_add(weight);
        } else if self.keys.len() < self.capacity {
            let key: Rc<[u8]> = Rc::from(key);
            self.places.insert(Rc::clone(&key), self.keys.len());
            self.keys.push(key);
            self.counts.push(weight);
            self.excesses.push(0);
        } else {
            self.replace_lightest(key, weight);
        }
    }

    /// Of ties the first place goes, so that equal streams make equal sketches.
    fn replace_lightest(&mut self, key: &[u8], weight: u64) {
        let lightest = self.floor();
        let place = self.counts.iter().position(|count| *count == lightest);
        let place = place.expect("a sketch that is full has a lightest key");
        let key: Rc<[u8]> = Rc::from(key);
        self.places.insert(Rc::clone(&key), place);
        self.places.remove(&self.keys[place]);
        self.keys[place] = key;
        self.counts[place] = lightest.saturating_add(weight);
        self.excesses[place] = lightest;
    }

    /// The most that a key which is not held can weigh.
    pub fn floor(&self) -> u64 {
        if self.keys.len() < self.capacity {
            return 0;
        }
        self.counts.iter().copied().fold(u64::MAX, u64::min)
    }

    /// What all keys weigh together, exactly.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What is known of a key that is held. For others, see [`SpaceSaving::floor`].
    pub fn held(&self, key: &[u8]) -> Option<Estimate> {
        self.places.get(key).map(|&place| Estimate {
            count: self.counts[place],
            excess_max: self.excesses[place],
        })
    }

    /// The keys that are held, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &Rc<[u8]>> {
        self.keys.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::splitmix::Random;

    fn estimate(sketch: &SpaceSaving, key: &[u8]) -> Estimate {
        let held = sketch.held(key);
        held.unwrap_or(Estimate::at_most(sketch.floor()))
    }

    /// Adds a stream to a sketch and counts it exactly, then checks all that the sketch promises.
    fn check(capacity: usize, stream: impl Iterator<Item = (u64, u64)>, what: &str) {
        let mut sketch = SpaceSaving::new(capacity);
        let mut exact: BTreeMap<String, u64> = BTreeMap::new();
        for (key, weight) in stream {
            let key = format!("key-{key}");
            sketch.add(key.as_bytes(), weight);
            *exact.entry(key).or_default() += weight;
        }
        let total: u64 = exact.values().sum();
        let share = total / capacity as u64;
        assert_eq!(sketch.total(), total, "{what}");
        assert!(sketch.keys().count() <= capacity, "{what}");
        assert!(sketch.floor() <= share, "{what}");
        let held: Vec<&[u8]> = sketch.keys().map(|key| &**key).collect();
        for (key, &weight) in &exact {
            let estimate = estimate(&sketch, key.as_bytes());
            assert!(estimate.count >= weight, "{what}: {key} is too low");
            assert!(
                estimate.count - estimate.excess_max <= weight,
                "{what}: {key} is too high"
            );
            assert!(estimate.excess_max <= share, "{what}: {key}");
            if weight > share {
                assert!(held.contains(&key.as_bytes()), "{what}: {key} is missing");
            }
        }
        // Every place holds a key of its own, and a key that never came has no weight.
        for key in held {
            assert!(exact.contains_key(std::str::from_utf8(key).unwrap()));
        }
        assert_eq!(sketch.places.len(), sketch.keys.len(), "{what}");
        assert_eq!(estimate(&sketch, b"never").count, sketch.floor(), "{what}");
        let counted: u64 = sketch.counts.iter().sum();
        assert_eq!(counted, total, "{what}: weight was lost or made");
    }

    #[test]
    fn what_it_promises_holds_of_streams_of_every_shape() {
        for seed in 0..40 {
            let mut random = Random(seed);
            for capacity in [1, 2, 7, 64] {
                let mut of = |keys: u64, weight_max: u64| {
                    let stream: Vec<_> = (0..2_000)
                        .map(|_| (random.below(keys), 1 + random.below(weight_max)))
                        .collect();
                    stream.into_iter()
                };
                let what = |shape| format!("seed {seed}, {capacity} places, {shape}");
                check(capacity, of(5, 1), &what("few keys"));
                check(capacity, of(300, 1), &what("many keys"));
                check(capacity, of(300, 1_000), &what("many weights"));
                // About as Zipf has it: a key is half as likely as the one before its double.
                let zipf = of(u64::MAX, 1)
                    .map(|(key, weight)| ((key.leading_zeros() as u64) * 4 + key % 4, weight));
                check(capacity, zipf, &what("a few heavy keys"));
            }
        }
    }

    #[test]
    fn keys_that_come_one_by_one_cannot_push_a_heavy_one_out() {
        let mut sketch = SpaceSaving::new(8);
        for n in 0..10_000_u32 {
            sketch.add(format!("light-{n}").as_bytes(), 1);
            if n % 4 == 0 {
                sketch.add(b"heavy", 1);
            }
        }
        let heavy = estimate(&sketch, b"heavy");
        assert!(heavy.count >= 2_500 && heavy.count - heavy.excess_max <= 2_500);
        let heaviest = sketch.keys().max_by_key(|key| estimate(&sketch, key).count);
        assert_eq!(heaviest.map(|key| &**key), Some(&b"heavy"[..]));
    }

    #[test]
    fn while_there_is_room_every_count_is_exact() {
        let mut sketch = SpaceSaving::new(3);
        for (key, weight) in [(&b"a"[..], 2), (b"b", 5), (b"a", 1), (b"c", 0)] {
            sketch.add(key, weight);
        }
        let exact = |count| Estimate {
            count,
            excess_max: 0,
        };
        assert_eq!(estimate(&sketch, b"a"), exact(3));
        assert_eq!(estimate(&sketch, b"b"), exact(5));
        assert_eq!(estimate(&sketch, b"c"), exact(0));
        assert_eq!((sketch.total(), sketch.floor()), (8, 0));
    }

    #[test]
    fn of_the_lightest_keys_the_first_goes_and_its_count_is_the_doubt() {
        let mut sketch = SpaceSaving::new(2);
        for key in [&b"a"[..], b"b", b"c"] {
            sketch.add(key, 4);
        }
        let newcomer = Estimate {
            count: 8,
            excess_max: 4,
        };
        assert_eq!(estimate(&sketch, b"c"), newcomer);
        assert_eq!(estimate(&sketch, b"a"), Estimate::at_most(4));
        assert_eq!(sketch.floor(), 4);
    }
}
