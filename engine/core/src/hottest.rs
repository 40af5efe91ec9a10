//! The ids of a shard's hottest keys, which it saves for its next start.

use crate::action::{KeyId, KeyspaceId};
use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// The hottest keys, collected by [`Shard::collect_hottest`](crate::Shard::survey) in bounded steps.
///
/// A key's heat is the number of requests that found it live, halved each time it was loaded: the uses during about one
/// soft TTL, while it is refreshed. So keys of one keyspace compare well; between keyspaces, those with a longer soft TTL
/// weigh more. Keys that were purged by a lock or the end of a lease while in use count, since they will be reloaded;
/// keys without heat do not.
///
/// Each step costs the slots it inspects, and the logarithm of `keys_max` for each key added. The shard continues to run
/// between steps, so a key that was discarded and reloaded in the meantime may be missed, or appear twice.
#[derive(Debug)]
pub struct Hottest {
    keyspace: Option<KeyspaceId>,
    keys_max: usize,
    /// Minimum on top.
    kept: BinaryHeap<Reverse<Heat>>,
    pub(crate) next_slot: u32,
}

/// More uses are hotter; ties are ordered by id.
type Heat = (u32, Reverse<(KeyspaceId, KeyId)>);

impl Hottest {
    /// Collects at most `keys_max` keys of all keyspaces.
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

    /// Returns the collected keys, hottest first.
    #[must_use]
    pub fn into_keys(self) -> Vec<(KeyspaceId, KeyId)> {
        let kept = self.kept.into_sorted_vec().into_iter();
        kept.map(|Reverse((_, Reverse(name)))| name).collect()
    }

    pub(crate) fn enter(&mut self, uses: u32, keyspace: KeyspaceId, key_id: &KeyId) {
        let wanted = self.keyspace.is_none_or(|only| only == keyspace);
        if uses == 0 || !wanted || self.is_below_minimum(uses) {
            return;
        }
        let name = (keyspace, KeyId::clone(key_id));
        self.kept.push(Reverse((uses, Reverse(name))));
        if self.kept.len() > self.keys_max {
            self.kept.pop();
        }
    }

    /// Returns `true` if a key with this many uses would not be kept. Most keys of a large shard end here.
    fn is_below_minimum(&self, uses: u32) -> bool {
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
    fn hottest_keys_come_first_and_unused_keys_are_excluded() {
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
    fn at_most_keys_max_are_kept_in_any_order() {
        for turn in 0..KEYS.len() {
            let mut keys = KEYS;
            keys.rotate_left(turn);
            let kept = entered(Hottest::new(3), &keys);
            let expected = [(2, "nine"), (1, "seven"), (1, "also five")];
            let expected = expected.map(|(keyspace, key)| (keyspace, key.as_bytes().to_vec()));
            assert_eq!(kept, expected, "rotated by {turn}");
        }
        assert!(entered(Hottest::new(0), &KEYS).is_empty());
    }

    #[test]
    fn one_keyspace_can_be_collected_alone() {
        let keys = entered(Hottest::of(TWO, 10), &KEYS);
        assert_eq!(keys, [(2, b"nine".to_vec()), (2, b"one".to_vec())]);
    }
}
