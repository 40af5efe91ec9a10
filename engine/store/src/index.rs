//! Where each key's newest record lies, in memory.
//!
//! A linear-hashing table: it grows by one small bucket at a time. One big table of power-of-two
//! size would take up to 94 bytes per key just after it doubled, and would stop the shard for as
//! long as moving every entry takes; this one stays near 50 and moves at most a bucket per insert.
//!
//! A key is identified here by its 128-bit keyed hash alone. Two keys with the same hash are not
//! expected before 2^64 keys; a read still compares the key id itself.

use siphasher::sip128::SipHasher24;

use crate::limits::LIST_ENTRIES_MAX;

/// A key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHash(u64, u64);

/// Where a key stands in listings: its hash with the bits of the first half turned round, so that
/// the keys of a bucket, whose low bits are alike, stand together however far the table has grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position(pub u64, pub u64);

impl KeyHash {
    pub fn position(self) -> Position {
        Position(self.0.reverse_bits(), self.1)
    }
}

/// A stretch of a walk through the table.
#[derive(Debug)]
pub(crate) struct Walk {
    pub found: Vec<(KeyHash, Entry)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Position>,
}

/// What is known of a key without reading its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its blob can be read, as far as is known.
    Live = 0,
    /// It was revoked permanently.
    Revoked = 1,
    /// Its newest record is damaged: it exists and cannot be read.
    Damaged = 2,
    /// It was revoked, and deleted since: its id may be used again, from the next version on.
    Deleted = 3,
}

/// A key's newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub revision: u64,
    pub segment: u32,
    pub offset: u32,
    /// Bytes of the record, below 2^24.
    pub record_len: u32,
    pub keyspace: u32,
    pub version: u32,
    /// No blob of the key has a version below this one.
    pub oldest: u32,
    pub state: KeyState,
}

impl Entry {
    pub fn lies_at(&self, segment: u32, offset: u32) -> bool {
        self.segment == segment && self.offset == offset
    }

    /// Whether the key can have this version's secret in a blob that is or becomes readable.
    pub fn may_hold(&self, version: u32) -> bool {
        match self.state {
            KeyState::Live | KeyState::Damaged => version >= self.oldest,
            KeyState::Revoked | KeyState::Deleted => version > self.version,
        }
    }

    /// Whether a log that holds both records means this one: the greater version, since versions
    /// never go down; of one version a deletion, then a revocation, then the greater revision, then
    /// a whole copy before a damaged one, then the later copy.
    pub fn supersedes(&self, other: &Self) -> bool {
        let rank = |entry: &Self| {
            let ending = match entry.state {
                KeyState::Live | KeyState::Damaged => 0,
                KeyState::Revoked => 1,
                KeyState::Deleted => 2,
            };
            let whole = entry.state != KeyState::Damaged;
            (
                (entry.version, ending, entry.revision),
                (whole, entry.segment, entry.offset),
            )
        };
        rank(self) > rank(other)
    }
}

/// The outcome of offering an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The key is new.
    Inserted,
    /// It replaced this one.
    Replaced(Entry),
    /// The one that was there stands.
    Superseded,
}

/// Keys in a bucket, on average, when the next bucket is added. Buckets not yet split in this
/// round hold up to twice as many as split ones, so a look-up compares 16 hashes or so.
const KEYS_PER_BUCKET: usize = 16;

/// Buckets at the start.
const BUCKETS_MIN: usize = 8;

/// A bucket that is full grows by this share of its size (and by one at least): small enough to
/// waste little, large enough not to move the bucket at each insert.
const BUCKET_GROWTH_DIVISOR: usize = 4;

/// What the allocator keeps per block, for the memory count.
const ALLOCATION_OVERHEAD_BYTES: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: KeyHash,
    revision: u64,
    segment: u32,
    offset: u32,
    /// Record length in the low 24 bits, state above.
    len_and_state: u32,
    version: u32,
    oldest: u32,
    /// Here so that a listing of one keyspace reads no others' records.
    keyspace: u32,
}

const _: () = assert!(size_of::<Slot>() == 48);

impl Slot {
    fn new(hash: KeyHash, entry: Entry) -> Self {
        assert!(entry.record_len < 1 << 24);
        Self {
            hash,
            revision: entry.revision,
            segment: entry.segment,
            offset: entry.offset,
            len_and_state: entry.record_len | (entry.state as u32) << 24,
            version: entry.version,
            oldest: entry.oldest,
            keyspace: entry.keyspace,
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            revision: self.revision,
            segment: self.segment,
            offset: self.offset,
            record_len: self.len_and_state & 0x00ff_ffff,
            keyspace: self.keyspace,
            version: self.version,
            oldest: self.oldest,
            state: match self.len_and_state >> 24 {
                0 => KeyState::Live,
                1 => KeyState::Revoked,
                3 => KeyState::Deleted,
                _ => KeyState::Damaged,
            },
        }
    }
}

/// The table.
#[derive(Debug)]
pub(crate) struct Index {
    hasher: SipHasher24,
    /// `BUCKETS_MIN <= buckets.len()`; bucket i holds the hashes that `bucket_of` sends there.
    buckets: Vec<Vec<Slot>>,
    len: usize,
    /// Slots that the buckets have room for.
    slots: usize,
    damaged: usize,
}

impl Index {
    /// An empty table. The seed keeps those who choose key ids from choosing collisions.
    pub fn new(seed: &[u8; 16]) -> Self {
        Self {
            hasher: SipHasher24::new_with_key(seed),
            buckets: vec![Vec::new(); BUCKETS_MIN],
            len: 0,
            slots: 0,
            damaged: 0,
        }
    }

    /// The hash of a key.
    pub fn hash(&self, keyspace: u32, key_id: &[u8]) -> KeyHash {
        use std::hash::Hasher;
        let mut hasher = self.hasher;
        hasher.write(&keyspace.to_le_bytes());
        hasher.write(key_id);
        let hash = siphasher::sip128::Hasher128::finish128(&hasher);
        KeyHash(hash.h1, hash.h2)
    }

    /// A key's newest record.
    pub fn find(&self, hash: KeyHash) -> Option<Entry> {
        let bucket = &self.buckets[self.bucket_of(hash)];
        bucket
            .iter()
            .find(|slot| slot.hash == hash)
            .map(Slot::entry)
    }

    /// Offers a record; the rule of the log decides whether it stands.
    pub fn apply(&mut self, hash: KeyHash, entry: Entry) -> Applied {
        let at = self.bucket_of(hash);
        let bucket = &mut self.buckets[at];
        if let Some(slot) = bucket.iter_mut().find(|slot| slot.hash == hash) {
            let old = slot.entry();
            if !entry.supersedes(&old) {
                return Applied::Superseded;
            }
            *slot = Slot::new(hash, entry);
            self.damaged -= usize::from(old.state == KeyState::Damaged);
            self.damaged += usize::from(entry.state == KeyState::Damaged);
            return Applied::Replaced(old);
        }
        if bucket.len() == bucket.capacity() {
            let room = bucket.capacity();
            bucket.reserve_exact(1.max(bucket.len() / BUCKET_GROWTH_DIVISOR));
            self.slots += bucket.capacity() - room;
        }
        bucket.push(Slot::new(hash, entry));
        self.len += 1;
        self.damaged += usize::from(entry.state == KeyState::Damaged);
        if self.len > self.buckets.len() * KEYS_PER_BUCKET {
            self.split_one();
        }
        Applied::Inserted
    }

    /// Marks a key as damaged if its newest record still is the one at this place.
    pub fn mark_damaged(&mut self, hash: KeyHash, segment: u32, offset: u32) {
        let at = self.bucket_of(hash);
        if let Some(slot) = self.buckets[at].iter_mut().find(|slot| slot.hash == hash) {
            let mut entry = slot.entry();
            if entry.lies_at(segment, offset) && entry.state == KeyState::Live {
                entry.state = KeyState::Damaged;
                *slot = Slot::new(hash, entry);
                self.damaged += 1;
            }
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Number of keys in state `Damaged`.
    pub fn damaged(&self) -> usize {
        self.damaged
    }

    /// Bytes of heap, with what the allocator is taken to add.
    pub fn memory_bytes(&self) -> usize {
        self.slots * size_of::<Slot>()
            + self.buckets.capacity() * size_of::<Vec<Slot>>()
            + (self.buckets.len() + 1) * ALLOCATION_OVERHEAD_BYTES
    }

    /// Up to `limit` entries, of one keyspace or of all, that come after `after` in the order of
    /// [`Position`]. Looks at [`LIST_ENTRIES_MAX`] entries and a bucket at most.
    ///
    /// A key's position never changes, so whatever is inserted, replaced or split between two
    /// calls, a key that is there from the first to the last is found exactly once.
    pub fn after(&self, after: Position, limit: usize, keyspace: Option<u32>) -> Walk {
        let mut walk = Walk {
            found: Vec::new(),
            next: Some(after),
        };
        let (mut from, mut looked_at) = (after, 0);
        while walk.found.len() < limit && looked_at < LIST_ENTRIES_MAX {
            let bucket_at = self.bucket_of(KeyHash(from.0.reverse_bits(), 0));
            let bucket = &self.buckets[bucket_at];
            looked_at += bucket.len() + 1;
            let wanted = |slot: &&Slot| {
                slot.hash.position() > after && keyspace.is_none_or(|only| only == slot.keyspace)
            };
            let wanted = bucket.iter().filter(wanted);
            let mut here: Vec<_> = wanted.map(|slot| (slot.hash, slot.entry())).collect();
            here.sort_unstable_by_key(|(hash, _)| hash.position());
            let room = limit - walk.found.len();
            if here.len() > room {
                here.truncate(room);
                walk.next = here.last().map(|(hash, _)| hash.position());
                walk.found.append(&mut here);
                return walk;
            }
            walk.found.append(&mut here);
            let Some(end) = self.end_of(bucket_at) else {
                walk.next = None;
                return walk;
            };
            walk.next = Some(Position(end - 1, u64::MAX));
            from = Position(end, 0);
        }
        walk
    }

    /// Where a bucket's stretch of positions ends; `None`: it is the last. A bucket holds the
    /// hashes with certain low bits, and these are the high bits of their positions.
    fn end_of(&self, bucket: usize) -> Option<u64> {
        let low = 1_usize << self.buckets.len().ilog2();
        let is_split = bucket >= low || bucket + low < self.buckets.len();
        let bits = low.ilog2() + u32::from(is_split);
        (bucket as u64)
            .reverse_bits()
            .checked_add(1 << (u64::BITS - bits))
    }

    /// Linear hashing: with `2^k <= buckets < 2^(k+1)`, a hash goes by its low k+1 bits if that
    /// bucket is there already, else by its low k.
    fn bucket_of(&self, hash: KeyHash) -> usize {
        let low = 1_usize << self.buckets.len().ilog2();
        let wide = hash.0 as usize & (2 * low - 1);
        if wide < self.buckets.len() {
            wide
        } else {
            wide & (low - 1)
        }
    }

    /// Adds one bucket, and moves to it its share of the bucket that had its keys.
    fn split_one(&mut self) {
        let new_at = self.buckets.len();
        let low = 1_usize << new_at.ilog2();
        let old_at = new_at - low;
        let old = std::mem::take(&mut self.buckets[old_at]);
        self.slots -= old.capacity();
        let goes = |slot: &&Slot| slot.hash.0 as usize & (2 * low - 1) == new_at;
        let goes_count = old.iter().filter(goes).count();
        let mut new = Vec::with_capacity(goes_count);
        let mut stays = Vec::with_capacity(old.len() - goes_count);
        for slot in &old {
            if goes(&slot) {
                new.push(*slot);
            } else {
                stays.push(*slot);
            }
        }
        self.slots += new.capacity() + stays.capacity();
        self.buckets[old_at] = stays;
        self.buckets.push(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(revision: u64) -> Entry {
        Entry {
            revision,
            segment: 1,
            offset: revision as u32,
            record_len: 300,
            keyspace: 1,
            version: 1,
            oldest: 1,
            state: KeyState::Live,
        }
    }

    #[test]
    fn a_million_keys_take_at_most_64_bytes_each_and_are_all_found() {
        let mut index = Index::new(&[3; 16]);
        let mut bytes_per_key_max = 0.0_f64;
        for key in 0..1_000_000_u64 {
            let hash = index.hash(1, &key.to_le_bytes());
            assert_eq!(index.apply(hash, entry(key)), Applied::Inserted);
            if key >= 1000 && key % 1000 == 0 {
                let per_key = index.memory_bytes() as f64 / index.len() as f64;
                bytes_per_key_max = bytes_per_key_max.max(per_key);
            }
        }
        let per_key = index.memory_bytes() as f64 / index.len() as f64;
        println!("{per_key:.1} bytes per key at 1,000,000, {bytes_per_key_max:.1} at worst before");
        assert!(bytes_per_key_max <= 64.0, "{bytes_per_key_max}");
        for key in 0..1_000_000_u64 {
            let hash = index.hash(1, &key.to_le_bytes());
            assert_eq!(index.find(hash), Some(entry(key)));
        }
        let longest = index.buckets.iter().map(Vec::len).max();
        assert!(longest < Some(KEYS_PER_BUCKET * 8), "{longest:?}");
    }

    #[test]
    fn the_memory_count_is_what_the_buckets_hold() {
        let mut index = Index::new(&[3; 16]);
        for key in 0..5000_u64 {
            let hash = index.hash(1, &key.to_le_bytes());
            index.apply(hash, entry(key));
        }
        assert_eq!(
            index.slots,
            index.buckets.iter().map(Vec::capacity).sum::<usize>()
        );
        assert_eq!(index.len, index.buckets.iter().map(Vec::len).sum::<usize>());
    }

    #[test]
    fn the_keyspace_and_the_seed_are_part_of_the_hash() {
        let index = Index::new(&[3; 16]);
        assert_ne!(index.hash(1, b"a"), index.hash(2, b"a"));
        assert_ne!(index.hash(1, b"a"), Index::new(&[4; 16]).hash(1, b"a"));
    }

    #[test]
    fn the_greater_revision_stands_whatever_the_order() {
        for (first, second) in [(1, 2), (2, 1)] {
            let mut index = Index::new(&[0; 16]);
            let hash = index.hash(1, b"a");
            index.apply(hash, entry(first));
            index.apply(hash, entry(second));
            assert_eq!(index.find(hash), Some(entry(2)));
            assert_eq!(index.len(), 1);
        }
    }

    #[test]
    fn no_blob_supersedes_a_revocation() {
        let revoked = Entry {
            state: KeyState::Revoked,
            ..entry(1)
        };
        for offers in [[revoked, entry(5)], [entry(5), revoked]] {
            let mut index = Index::new(&[0; 16]);
            let hash = index.hash(1, b"a");
            for offer in offers {
                index.apply(hash, offer);
            }
            assert_eq!(index.find(hash), Some(revoked));
        }
    }

    #[test]
    fn a_whole_copy_stands_before_a_damaged_one_of_the_same_revision() {
        let damaged = Entry {
            state: KeyState::Damaged,
            offset: 900,
            ..entry(3)
        };
        let mut index = Index::new(&[0; 16]);
        let hash = index.hash(1, b"a");
        index.apply(hash, entry(3));
        assert_eq!(index.apply(hash, damaged), Applied::Superseded);
        index.mark_damaged(hash, 1, 3);
        assert_eq!(index.damaged(), 1);
        assert_eq!(
            index.find(hash).map(|entry| entry.state),
            Some(KeyState::Damaged)
        );
        let copy = Entry {
            segment: 2,
            ..entry(3)
        };
        assert!(matches!(index.apply(hash, copy), Applied::Replaced(_)));
        assert_eq!(index.damaged(), 0);
    }

    /// A listing between whose pages keys are added must show all that were there before.
    #[test]
    fn a_walk_finds_every_key_once_while_the_table_grows() {
        for seed in 0..20_u8 {
            let mut index = Index::new(&[seed; 16]);
            let mut next = 0_u64;
            let mut add = |index: &mut Index, count: u64| {
                for key in next..next + count {
                    let keyspace = 1 + (key % 3) as u32;
                    let hash = index.hash(keyspace, &key.to_le_bytes());
                    let entry = Entry {
                        keyspace,
                        ..entry(key)
                    };
                    index.apply(hash, entry);
                }
                next += count;
            };
            let first = u64::from(seed) * 53;
            add(&mut index, first);
            for (keyspace, expected) in [(None, first), (Some(1), first.div_ceil(3))] {
                let (mut seen, mut at) = (Vec::new(), Some(Position(0, 0)));
                while let Some(after) = at {
                    let walk = index.after(after, 1 + usize::from(seed) % 7, keyspace);
                    assert!(walk.next.is_none_or(|next| next > after));
                    seen.extend(walk.found.iter().map(|(_, entry)| entry.revision));
                    at = walk.next;
                    add(&mut index, 5);
                }
                let there_before = seen.iter().filter(|key| **key < first).count() as u64;
                assert_eq!(there_before, expected, "seed {seed}");
                seen.sort_unstable();
                assert!(seen.windows(2).all(|two| two[0] < two[1]), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_later_version_supersedes_a_deletion_and_only_that() {
        let with = |revision, version, state| Entry {
            version,
            state,
            ..entry(revision)
        };
        let live = with(1, 3, KeyState::Live);
        let revoked = with(2, 3, KeyState::Revoked);
        let deleted = with(3, 3, KeyState::Deleted);
        let again = with(4, 4, KeyState::Live);
        let history = [live, revoked, deleted, again];
        for (at, older) in history.iter().enumerate() {
            for newer in &history[at + 1..] {
                assert!(newer.supersedes(older) && !older.supersedes(newer));
            }
        }
        let late = with(9, 3, KeyState::Live);
        assert!(!late.supersedes(&deleted) && !late.supersedes(&revoked));
    }
}
