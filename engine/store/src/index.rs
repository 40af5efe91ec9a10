//! Where each key's newest record lies, in memory.
//!
//! A linear-hashing table: it grows by one small bucket at a time. One big table of power-of-two
//! size would take up to 94 bytes per key just after it doubled, and would stop the shard for as
//! long as moving every entry takes; this one stays near 50 and moves at most a bucket per insert.
//!
//! A key is known here by its 128-bit keyed hash alone. Two keys with one hash are not to be
//! expected before 2^64 keys; a read compares the key id itself all the same.

use siphasher::sip128::SipHasher24;

/// A key's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyHash(u64, u64);

/// What is known of a key without reading its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its blob can be read, as far as is known.
    Live = 0,
    /// It was revoked, for ever.
    Revoked = 1,
    /// Its newest record is damaged: it exists and cannot be read.
    Damaged = 2,
}

/// A key's newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub revision: u64,
    pub segment: u32,
    pub offset: u32,
    /// Bytes of the record, below 2^24.
    pub record_len: u32,
    pub version: u32,
    pub state: KeyState,
}

impl Entry {
    pub fn lies_at(&self, segment: u32, offset: u32) -> bool {
        self.segment == segment && self.offset == offset
    }

    /// Whether a log that holds both records means this one: nothing supersedes a revocation, then
    /// the greater revision, then a whole copy before a damaged one, then the later copy.
    fn supersedes(&self, other: &Self) -> bool {
        let rank = |entry: &Self| {
            let revoked = entry.state == KeyState::Revoked;
            let whole = entry.state != KeyState::Damaged;
            (revoked, entry.revision, whole, entry.segment, entry.offset)
        };
        rank(self) > rank(other)
    }
}

/// What became of an entry that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The key is new.
    Inserted,
    /// It took the place of this one.
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
}

const _: () = assert!(size_of::<Slot>() == 40);

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
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            revision: self.revision,
            segment: self.segment,
            offset: self.offset,
            record_len: self.len_and_state & 0x00ff_ffff,
            version: self.version,
            state: match self.len_and_state >> 24 {
                0 => KeyState::Live,
                1 => KeyState::Revoked,
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
            version: 1,
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
}
