//! How often AEAD keys have encrypted.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::envelope::VERSIONS_MAX;

/// Encryptions that one version of an AEAD key may do. With random 96-bit nonces, 2^32 of them keep
/// the chance of a repeated nonce below 2^-32 (NIST SP 800-38D, section 8.3).
pub const ENCRYPTIONS_MAX: u64 = 1 << 32;

/// From this count on a key should be rotated: three quarters of [`ENCRYPTIONS_MAX`].
pub const ENCRYPTIONS_WARN: u64 = ENCRYPTIONS_MAX / 4 * 3;

/// Keys that one ledger remembers.
const LEDGER_ENTRIES_MAX: usize = 1 << 16;

const _: () = assert!(ENCRYPTIONS_WARN < ENCRYPTIONS_MAX && LEDGER_ENTRIES_MAX >= 2);

/// How often the newest version of an AEAD key has encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Encryptions counted so far.
    pub encryptions: u64,
    /// Time to rotate.
    pub warn_at: u64,
    /// No more encryptions from here on.
    pub limit: u64,
}

/// A counter shared by everything that was ever unlocked from one key version.
#[derive(Debug, Clone, Default)]
pub(crate) struct UseCount(Rc<Cell<u64>>);

impl UseCount {
    /// Counts one encryption; `false` if the limit is reached, and nothing may be encrypted.
    #[inline]
    pub(crate) fn count(&self) -> bool {
        let count = self.0.get();
        if count >= ENCRYPTIONS_MAX {
            return false;
        }
        self.0.set(count + 1);
        true
    }

    pub(crate) fn uses(&self) -> Uses {
        Uses {
            encryptions: self.0.get(),
            warn_at: ENCRYPTIONS_WARN,
            limit: ENCRYPTIONS_MAX,
        }
    }

    #[cfg(test)]
    pub(crate) fn set(&self, count: u64) {
        self.0.set(count);
    }
}

/// A shard's counts, which outlive the unlocked keys: a refresh makes a new unlocked key, and its
/// counting must go on where the old one's stopped. Cloning is cheap and shares the ledger.
///
/// It remembers the counts of 65,536 key versions. Beyond that the half with the fewest uses is
/// forgotten; a key near its limit is never among those. Counts do not survive a restart.
#[derive(Debug, Clone, Default)]
pub struct UseLedger(Rc<RefCell<HashMap<Entry, UseCount>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Entry {
    keyspace: u32,
    version: u32,
    key_id: Box<[u8]>,
}

impl Entry {
    /// Whether a newer version has been in use: this one encrypts no more.
    fn has_newer(&self, counts: &HashMap<Entry, UseCount>) -> bool {
        let mut newer = self.clone();
        (0..VERSIONS_MAX).any(|_| {
            newer.version = newer.version.saturating_add(1);
            counts.contains_key(&newer)
        })
    }
}

impl UseLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// The encryptions of the most used key of each keyspace, under its newest version, since the start. It looks at all
    /// that it remembers: some hundred µs when it is full.
    pub fn most_encryptions(&self) -> BTreeMap<u32, u64> {
        let counts = self.0.borrow();
        let mut most: BTreeMap<u32, u64> = BTreeMap::new();
        for (entry, count) in counts.iter() {
            let count = count.0.get();
            let known = most.get(&entry.keyspace).copied().unwrap_or(0);
            // Asked last, since it is slow: few are above all before them.
            if count > known && !entry.has_newer(&counts) {
                most.insert(entry.keyspace, count);
            }
        }
        most
    }

    pub(crate) fn counter(&self, keyspace: u32, key_id: &[u8], version: u32) -> UseCount {
        let mut counts = self.0.borrow_mut();
        let entry = Entry {
            keyspace,
            version,
            key_id: key_id.into(),
        };
        if !counts.contains_key(&entry) && counts.len() >= LEDGER_ENTRIES_MAX {
            let mut all: Vec<u64> = counts.values().map(|count| count.0.get()).collect();
            let (_, median, _) = all.select_nth_unstable(LEDGER_ENTRIES_MAX / 2);
            let median = *median;
            // Many may share the median: of those, as many stay as there is room for.
            let above = counts.values().filter(|c| c.0.get() > median).count();
            let mut room = (LEDGER_ENTRIES_MAX / 2).saturating_sub(above);
            counts.retain(|_, count| match count.0.get().cmp(&median) {
                Ordering::Greater => true,
                Ordering::Less => false,
                Ordering::Equal => {
                    let stays = room > 0;
                    room = room.saturating_sub(1);
                    stays
                }
            });
        }
        counts.entry(entry).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_stops_at_the_limit() {
        let count = UseCount::default();
        count.set(ENCRYPTIONS_MAX - 1);
        assert!(count.count());
        assert!(!count.count());
        assert_eq!(count.uses().encryptions, ENCRYPTIONS_MAX);
    }

    #[test]
    fn the_most_used_key_of_each_keyspace_is_known_and_old_versions_are_none() {
        let ledger = UseLedger::new();
        assert!(ledger.most_encryptions().is_empty());
        ledger.counter(1, b"alice", 1).set(70);
        ledger.counter(1, b"alice", 3).set(3);
        ledger.counter(1, b"bob", 1).set(5);
        ledger.counter(2, b"alice", 1).set(ENCRYPTIONS_MAX);
        let most: Vec<_> = ledger.most_encryptions().into_iter().collect();
        assert_eq!(most, [(1, 5), (2, ENCRYPTIONS_MAX)]);
    }

    #[test]
    fn the_same_key_version_gets_the_same_counter() {
        let ledger = UseLedger::new();
        ledger.counter(1, b"alice", 1).count();
        assert_eq!(ledger.counter(1, b"alice", 1).uses().encryptions, 1);
        for (keyspace, key_id, version) in [(2, "alice", 1), (1, "bob", 1), (1, "alice", 2)] {
            let other = ledger.counter(keyspace, key_id.as_bytes(), version);
            assert_eq!(other.uses().encryptions, 0);
        }
    }

    #[test]
    fn a_full_ledger_forgets_the_least_used() {
        let ledger = UseLedger::new();
        ledger.counter(1, b"busy", 1).set(1_000_000);
        for version in 0..LEDGER_ENTRIES_MAX as u32 + 10 {
            ledger.counter(2, b"idle", version);
        }
        assert!(ledger.0.borrow().len() <= LEDGER_ENTRIES_MAX);
        assert_eq!(ledger.counter(1, b"busy", 1).uses().encryptions, 1_000_000);
    }
}
