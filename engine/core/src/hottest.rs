//! The hottest keys of a shard, by name only: what it writes down for its next start.

use crate::action::{KeyId, KeyspaceId};
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// The hottest keys, collected by [`Shard::survey`](crate::Shard::survey) in bounded steps.
///
/// A key's heat is how many requests found it live, halved each time it was loaded: uses of the
/// last soft TTL or so, as long as it is refreshed. So keys of one keyspace compare well; between
/// keyspaces those with a longer soft TTL weigh more. Keys that were purged by a lock or the end
/// of a lease while in use count, since they are to be loaded again; keys of no heat do not.
///
/// Each step costs the slots it looks at, and the logarithm of `keys_max` for each key entered. The
/// shard goes on between steps: a key that was forgotten and loaded again meanwhile may be missed,
/// or be there twice.
#[derive(Debug)]
pub struct Hottest {
    keyspace: Option<KeyspaceId>,
    keys_max: usize,
    /// The coldest on top.
    kept: BinaryHeap<Reverse<Heat>>,
    pub(crate) next_slot: u32,
}

/// More uses are hotter; of equal ones the first by name.
type Heat = (u32, Reverse<(KeyspaceId, KeyId)>);

impl Hottest {
    /// Collects at most `keys_max` keys, of all keyspaces.
    #[must_use]
    pub fn new(keys_max: usize) -> Self {
        Self {
            keyspace: None,
            keys_max,
            kept: BinaryHeap::new(),
            next_slot: 0,
        }
    }

    /// Collects at most `keys_max` keys of one keyspace.
    #[must_use]
    pub fn of(keyspace: KeyspaceId, keys_max: usize) -> Self {
        Self {
            keyspace: Some(keyspace),
            ..Self::new(keys_max)
        }
    }

    /// What was collected, hottest first.
    #[must_use]
    pub fn into_keys(self) -> Vec<(KeyspaceId, KeyId)> {
        let kept = self.kept.into_sorted_vec().into_iter();
        kept.map(|Reverse((_, Reverse(name)))| name).collect()
    }

    pub(crate) fn enter(&mut self, uses: u32, keyspace: KeyspaceId, key_id: &KeyId) {
        let wanted = self.keyspace.is_none_or(|only| only == keyspace);
        if uses == 0 || !wanted || self.is_colder_than_all(uses) {
            return;
        }
        let name = (keyspace, KeyId::clone(key_id));
        self.kept.push(Reverse((uses, Reverse(name))));
        if self.kept.len() > self.keys_max {
            self.kept.pop();
        }
    }

    /// Whether there is no place for a key of so many uses: most keys of a big shard end here.
    fn is_colder_than_all(&self, uses: u32) -> bool {
        let coldest = self.kept.peek().map_or(0, |Reverse((uses, _))| *uses);
        self.kept.len() >= self.keys_max && uses < coldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: KeyspaceId = KeyspaceId(1);
    const TWO: KeyspaceId = KeyspaceId(2);

    fn entered(mut hottest: Hottest, keys: &[(u32, KeyspaceId, &str)]) -> Vec<(u32, Vec<u8>)> {
        for (uses, keyspace, key) in keys {
            hottest.enter(*uses, *keyspace, &KeyId::from(key.as_bytes()));
        }
        let keys = hottest.into_keys().into_iter();
        keys.map(|(keyspace, key)| (keyspace.0, key.to_vec()))
            .collect()
    }

    const KEYS: [(u32, KeyspaceId, &str); 6] = [
        (5, ONE, "five"),
        (9, TWO, "nine"),
        (7, ONE, "seven"),
        (0, ONE, "unused"),
        (5, ONE, "also five"),
        (1, TWO, "one"),
    ];

    #[test]
    fn the_hottest_come_first_and_the_unused_not_at_all() {
        let keys = entered(Hottest::new(10), &KEYS);
        let expected = [
            (2, "nine"),
            (1, "seven"),
            (1, "also five"),
            (1, "five"),
            (2, "one"),
        ];
        let expected = expected.map(|(keyspace, key)| (keyspace, key.as_bytes().to_vec()));
        assert_eq!(keys, expected);
    }

    #[test]
    fn no_more_are_kept_than_wanted_whatever_the_order() {
        for turn in 0..KEYS.len() {
            let mut keys = KEYS;
            keys.rotate_left(turn);
            let kept = entered(Hottest::new(3), &keys);
            let expected = [(2, "nine"), (1, "seven"), (1, "also five")];
            let expected = expected.map(|(keyspace, key)| (keyspace, key.as_bytes().to_vec()));
            assert_eq!(kept, expected, "turned by {turn}");
        }
        assert!(entered(Hottest::new(0), &KEYS).is_empty());
    }

    #[test]
    fn one_keyspace_can_be_looked_at_alone() {
        let keys = entered(Hottest::of(TWO, 10), &KEYS);
        assert_eq!(keys, [(2, b"nine".to_vec()), (2, b"one".to_vec())]);
    }
}
