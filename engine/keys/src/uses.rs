//! How often AEAD keys have encrypted.
//!
//! A count outlives the process by reserving: before a key version encrypts, the number that it may
//! reach is written down, [`USES_BLOCK`] ahead. A process that ends without a word loses the rest
//! of a block at most, and never counts too few. Where it is written is the caller's business.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::error::OpError;

/// Encryptions that one version of an AEAD key may do. With random 96-bit nonces, 2^32 of them keep
/// the chance of a repeated nonce below 2^-32 (NIST SP 800-38D, section 8.3).
pub const ENCRYPTIONS_MAX: u64 = 1 << 32;

/// From this count on a key should be rotated: three quarters of [`ENCRYPTIONS_MAX`].
pub const ENCRYPTIONS_WARN: u64 = ENCRYPTIONS_MAX / 4 * 3;

/// Encryptions that are reserved at a time: 256 blocks in a key's life.
pub const USES_BLOCK: u64 = 1 << 24;

/// Keys that one ledger remembers, beside those that are unlocked.
pub const LEDGER_ENTRIES_MAX: usize = 1 << 16;

const _: () = assert!(ENCRYPTIONS_WARN < ENCRYPTIONS_MAX && LEDGER_ENTRIES_MAX >= 2);
const _: () = assert!(ENCRYPTIONS_MAX.is_multiple_of(USES_BLOCK));

/// How often the newest version of an AEAD key has encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uses {
    /// Encryptions counted so far.
    pub encryptions: u64,
    /// Time to rotate.
    pub warn_at: u64,
    /// The number of encryptions at which the counter stops.
    pub limit: u64,
}

/// A counter shared by everything that was ever unlocked from one key version.
#[derive(Debug, Clone)]
pub(crate) struct UseCount(Rc<Counter>);

#[derive(Debug)]
struct Counter {
    made: Cell<u64>,
    /// `made <= reserved`, or nothing is reserved yet.
    reserved: Cell<u64>,
    /// What is written down of it is being changed.
    busy: Cell<bool>,
}

impl UseCount {
    /// A count of its own, for a key that no ledger knows of.
    pub(crate) fn alone() -> Self {
        Self::with(ENCRYPTIONS_MAX)
    }

    fn with(reserved: u64) -> Self {
        Self(Rc::new(Counter {
            made: Cell::new(0),
            reserved: Cell::new(reserved),
            busy: Cell::new(false),
        }))
    }

    /// Counts one encryption, or says why nothing may be encrypted.
    #[inline]
    pub(crate) fn count(&self) -> Result<(), OpError> {
        let made = self.0.made.get();
        if made >= self.0.reserved.get() {
            return Err(match made >= ENCRYPTIONS_MAX {
                true => OpError::UseLimit,
                false => OpError::UsesNotReserved,
            });
        }
        self.0.made.set(made + 1);
        Ok(())
    }

    /// Whether the next encryption has to be reserved first.
    pub(crate) fn is_used_up(&self) -> bool {
        let made = self.0.made.get();
        made >= self.0.reserved.get() && made < ENCRYPTIONS_MAX
    }

    pub(crate) fn uses(&self) -> Uses {
        Uses {
            encryptions: self.0.made.get(),
            warn_at: ENCRYPTIONS_WARN,
            limit: ENCRYPTIONS_MAX,
        }
    }

    fn is_idle(&self) -> bool {
        // The ledger's own.
        Rc::strong_count(&self.0) == 1 && !self.0.busy.get()
    }
}

/// A shard's counts, which outlive the unlocked keys: a refresh makes a new unlocked key, and its
/// counting must go on where the old one's stopped. Cloning is cheap and shares the ledger.
///
/// It remembers [`LEDGER_ENTRIES_MAX`] keys beside the unlocked ones; see [`UseLedger::surplus`].
#[derive(Debug, Clone, Default)]
pub struct UseLedger(Rc<RefCell<HashMap<Name, Entry>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    keyspace: u32,
    key_id: Box<[u8]>,
}

#[derive(Debug)]
struct Entry {
    version: u32,
    count: UseCount,
}

/// A count as it is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsesRecord {
    /// The key's keyspace.
    pub keyspace: u32,
    /// The key's id.
    pub key_id: Box<[u8]>,
    /// The version that is counted.
    pub version: u32,
    /// Encryptions that it may have done.
    pub count: u64,
}

/// A block that is being reserved, or the rest of one that is being returned: no other task does
/// either for that key in the meantime.
#[derive(Debug)]
pub struct Reservation {
    record: UsesRecord,
    count: UseCount,
    made: u64,
}

/// What asking for a reservation comes to.
#[derive(Debug)]
pub enum Reserving {
    /// [`Reservation::take_block`] is next.
    Begun(Reservation),
    /// There is nothing to reserve: the key may encrypt, or may not any more.
    Needless,
    /// Another task is reserving.
    Busy,
    /// A newer version is counted: this one encrypts no more.
    Outdated,
}

impl Reservation {
    /// Takes the next block. `written` is what was written down for the key last, a version and a
    /// count, looked up after this began. `false`: there is no block left, and nothing to write.
    pub fn take_block(&mut self, written: Option<(u32, u64)>) -> bool {
        let counter = &self.count.0;
        // What an earlier process had reserved may all have been made.
        self.made = match (counter.reserved.get() > 0, written) {
            (true, _) => counter.made.get(),
            (false, Some((version, count))) if version == self.record.version => {
                count.min(ENCRYPTIONS_MAX)
            }
            // A newer version is counted elsewhere, or was: this one has had its time.
            (false, Some((version, _))) if version > self.record.version => ENCRYPTIONS_MAX,
            (false, _) => 0,
        };
        self.record.count = self.made.saturating_add(USES_BLOCK).min(ENCRYPTIONS_MAX);
        if self.made >= ENCRYPTIONS_MAX {
            counter.made.set(ENCRYPTIONS_MAX);
            return false;
        }
        true
    }

    /// What is to be written down.
    pub fn record(&self) -> &UsesRecord {
        &self.record
    }

    /// It was written down: so many may be made now.
    pub fn commit(self) {
        self.count.0.made.set(self.made);
        self.count.0.reserved.set(self.record.count);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.count.0.busy.set(false);
    }
}

impl UseLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// The encryptions of the most used key of each keyspace, under its newest version, of those
    /// that have encrypted since the start. It looks at all that it remembers: some hundred µs when
    /// it is full.
    pub fn most_encryptions(&self) -> BTreeMap<u32, u64> {
        let mut most: BTreeMap<u32, u64> = BTreeMap::new();
        for (name, entry) in self.0.borrow().iter() {
            let made = entry.count.0.made.get();
            if made > 0 {
                let known = most.entry(name.keyspace).or_default();
                *known = made.max(*known);
            }
        }
        most
    }

    /// Begins to reserve the next block for a key that has none left.
    pub fn reserve(&self, keyspace: u32, key_id: &[u8], version: u32) -> Reserving {
        let Some(count) = self.counter_of(keyspace, key_id, version) else {
            return Reserving::Outdated;
        };
        if count.0.busy.get() {
            return Reserving::Busy;
        }
        if !count.is_used_up() {
            return Reserving::Needless;
        }
        count.0.busy.set(true);
        let made = count.0.made.get();
        Reserving::Begun(Reservation {
            record: UsesRecord {
                keyspace,
                key_id: key_id.into(),
                version,
                count: made,
            },
            count,
            made,
        })
    }

    /// Returns the rests of blocks of all keys. The caller returns them by writing the true counts.
    /// An encryption after this must reserve again.
    pub fn rests(&self) -> Vec<Reservation> {
        self.rests_of(|entry| !entry.count.0.busy.get(), usize::MAX)
    }

    /// The rests of up to `limit` keys that are not unlocked, if there are more of those than are
    /// remembered. Once they are written down, [`UseLedger::forget_idle`] forgets the keys.
    pub fn surplus(&self, limit: usize) -> Vec<Reservation> {
        let idle = |entry: &Entry| entry.count.is_idle();
        let idle_count = self.0.borrow().values().filter(|at| idle(at)).count();
        match idle_count > LEDGER_ENTRIES_MAX {
            true => self.rests_of(idle, limit),
            false => Vec::new(),
        }
    }

    fn rests_of(&self, wanted: impl Fn(&Entry) -> bool, limit: usize) -> Vec<Reservation> {
        let entries = self.0.borrow();
        let with_rest = entries.iter().filter(|(_, entry)| {
            let counter = &entry.count.0;
            wanted(entry) && counter.made.get() < counter.reserved.get()
        });
        with_rest
            .take(limit)
            .map(|(name, entry)| {
                let counter = &entry.count.0;
                let made = counter.made.get();
                counter.busy.set(true);
                counter.reserved.set(made);
                Reservation {
                    record: UsesRecord {
                        keyspace: name.keyspace,
                        key_id: name.key_id.clone(),
                        version: entry.version,
                        count: made,
                    },
                    count: entry.count.clone(),
                    made,
                }
            })
            .collect()
    }

    /// Forgets keys that are not unlocked and have nothing reserved, if there are too many.
    pub fn forget_idle(&self) {
        let mut entries = self.0.borrow_mut();
        if entries.len() > LEDGER_ENTRIES_MAX {
            entries.retain(|_, entry| {
                let counter = &entry.count.0;
                !entry.count.is_idle() || counter.made.get() < counter.reserved.get()
            });
        }
    }

    /// The counter of a key version that was just unlocked.
    pub(crate) fn counter(&self, keyspace: u32, key_id: &[u8], version: u32) -> UseCount {
        // An older version no longer encrypts: nothing is reserved for it.
        self.counter_of(keyspace, key_id, version)
            .unwrap_or_else(|| UseCount::with(0))
    }

    /// `None`: a newer version is counted.
    fn counter_of(&self, keyspace: u32, key_id: &[u8], version: u32) -> Option<UseCount> {
        let name = Name {
            keyspace,
            key_id: key_id.into(),
        };
        let mut entries = self.0.borrow_mut();
        let entry = entries.entry(name).or_insert_with(|| Entry {
            version,
            count: UseCount::with(0),
        });
        if entry.version < version {
            *entry = Entry {
                version,
                count: UseCount::with(0),
            };
        }
        (entry.version == version).then(|| entry.count.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(reserving: Reserving) -> Reservation {
        match reserving {
            Reserving::Begun(reservation) => reservation,
            other => panic!("{other:?}"),
        }
    }

    fn reserve(ledger: &UseLedger, key_id: &[u8], version: u32, written: u64) -> Reservation {
        let mut reservation = begun(ledger.reserve(1, key_id, version));
        assert!(reservation.take_block(Some((version, written))));
        reservation
    }

    fn reserved(ledger: &UseLedger, key_id: &[u8], version: u32, written: u64) -> UseCount {
        let count = ledger.counter(1, key_id, version);
        reserve(ledger, key_id, version, written).commit();
        count
    }

    #[test]
    fn counting_stops_at_the_limit() {
        let ledger = UseLedger::new();
        let count = reserved(&ledger, b"alice", 1, ENCRYPTIONS_MAX - USES_BLOCK);
        count.0.made.set(ENCRYPTIONS_MAX - 1);
        assert_eq!(count.count(), Ok(()));
        assert_eq!(count.count(), Err(OpError::UseLimit));
        assert_eq!(count.uses().encryptions, ENCRYPTIONS_MAX);
        assert!(!count.is_used_up());
    }

    #[test]
    fn nothing_is_encrypted_before_it_is_reserved_and_blocks_of_earlier_processes_count() {
        let ledger = UseLedger::new();
        let count = ledger.counter(1, b"alice", 1);
        assert_eq!(count.count(), Err(OpError::UsesNotReserved));
        let reservation = reserve(&ledger, b"alice", 1, USES_BLOCK);
        assert_eq!(reservation.record().count, 2 * USES_BLOCK);
        assert!(matches!(ledger.reserve(1, b"alice", 1), Reserving::Busy));
        assert_eq!(count.count(), Err(OpError::UsesNotReserved));
        reservation.commit();
        assert_eq!(count.count(), Ok(()));
        assert_eq!(count.uses().encryptions, USES_BLOCK + 1);
        count.0.made.set(2 * USES_BLOCK);
        assert!(count.is_used_up());
        let next = reserve(&ledger, b"alice", 1, 2 * USES_BLOCK);
        assert_eq!(next.record().count, 3 * USES_BLOCK);
        drop(next);
        assert!(count.is_used_up(), "it was not written down");
    }

    #[test]
    fn a_key_whose_blocks_are_all_taken_encrypts_no_more() {
        let ledger = UseLedger::new();
        for written in [(3, ENCRYPTIONS_MAX), (3, u64::MAX), (4, 0)] {
            let key_id = [written.0 as u8, written.1 as u8];
            let count = ledger.counter(1, &key_id, 3);
            assert!(!begun(ledger.reserve(1, &key_id, 3)).take_block(Some(written)));
            assert_eq!(count.count(), Err(OpError::UseLimit));
        }
        // A new version starts from 0, and the old one never continues.
        let newer = ledger.counter(1, &[3, 0xff], 4);
        let mut reservation = begun(ledger.reserve(1, &[3, 0xff], 4));
        assert!(reservation.take_block(Some((3, u64::MAX))));
        reservation.commit();
        assert_eq!(newer.count(), Ok(()));
        assert!(matches!(
            ledger.reserve(1, &[3, 0xff], 3),
            Reserving::Outdated
        ));
    }

    #[test]
    fn what_is_given_back_is_counted_exactly() {
        let ledger = UseLedger::new();
        let count = reserved(&ledger, b"alice", 1, 0);
        (0..5).for_each(|_| count.count().unwrap());
        let rests = ledger.rests();
        assert_eq!(rests.len(), 1);
        assert_eq!(rests[0].record().count, 5);
        assert_eq!(count.count(), Err(OpError::UsesNotReserved));
        rests.into_iter().for_each(Reservation::commit);
        let next = reserve(&ledger, b"alice", 1, 5);
        assert_eq!(next.record().count, USES_BLOCK + 5);
        next.commit();
        assert_eq!(count.uses().encryptions, 5);
    }

    #[test]
    fn the_most_used_key_of_each_keyspace_is_known_and_old_versions_are_none() {
        let ledger = UseLedger::new();
        assert!(ledger.most_encryptions().is_empty());
        ledger.counter(1, b"alice", 1).0.made.set(70);
        ledger.counter(1, b"alice", 3).0.made.set(3);
        ledger.counter(1, b"bob", 1).0.made.set(5);
        ledger.counter(2, b"alice", 1).0.made.set(ENCRYPTIONS_MAX);
        let most: Vec<_> = ledger.most_encryptions().into_iter().collect();
        assert_eq!(most, [(1, 5), (2, ENCRYPTIONS_MAX)]);
    }

    #[test]
    fn the_same_key_version_gets_the_same_counter() {
        let ledger = UseLedger::new();
        reserved(&ledger, b"alice", 1, 0).count().unwrap();
        assert_eq!(ledger.counter(1, b"alice", 1).uses().encryptions, 1);
        for (keyspace, key_id, version) in [(2, "alice", 1), (1, "bob", 1), (1, "alice", 2)] {
            let other = ledger.counter(keyspace, key_id.as_bytes(), version);
            assert_eq!(other.uses().encryptions, 0);
        }
    }

    #[test]
    fn a_full_ledger_forgets_keys_that_are_not_unlocked_once_their_rests_are_given_back() {
        let ledger = UseLedger::new();
        let busy = reserved(&ledger, b"busy", 1, 7);
        for version in 0..LEDGER_ENTRIES_MAX as u32 + 10 {
            reserved(&ledger, &version.to_le_bytes(), 1, 0);
        }
        ledger.forget_idle();
        assert_eq!(ledger.0.borrow().len(), LEDGER_ENTRIES_MAX + 11);
        let rests = ledger.surplus(20);
        assert_eq!(rests.len(), 20);
        rests.into_iter().for_each(Reservation::commit);
        ledger.forget_idle();
        assert_eq!(ledger.0.borrow().len(), LEDGER_ENTRIES_MAX - 9);
        assert_eq!(ledger.counter(1, b"busy", 1).uses().encryptions, 7);
        drop(busy);
    }
}
