//! One shard's log: its state, and the calls that read.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;

use crate::commit::{Pending, Staged};
use crate::compact::Victim;
use crate::error::{OpenError, ReadError};
use crate::index::{Applied, Entry, Index, KeyHash, KeyState};
use crate::limits::{
    PENDING_BYTES_MAX, READ_ATTEMPTS_MAX, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
};
use crate::notify::Notify;
use crate::record::{self, HEAD_LEN, Kind};
use crate::seam::{File, Files};
use crate::segment::{self, HEADER_LEN};

/// Where a log lies and how it is kept. `Send`, so that it can be handed to a shard's thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The directory of its segments, which exists.
    pub dir: PathBuf,
    /// The cluster that the log belongs to; a segment of another is refused.
    pub cluster_id: [u8; 16],
    /// The directory generation, one more at each reshard.
    pub generation: u32,
    /// This shard, below `shard_count`.
    pub shard_index: u16,
    /// How many shards the keys are spread over.
    pub shard_count: u16,
    /// A segment that would grow beyond this many bytes is sealed. 4 KiB to 1 GiB; 64 MiB unless
    /// set.
    pub segment_bytes: u32,
    /// A sealed segment is compacted once this share of it is dead. 1 to 100; 50 unless set, so
    /// that a compaction writes at most as many bytes as it frees.
    pub compact_dead_pct: u8,
    /// Puts waiting to become durable, in bytes; 16 MiB unless set.
    pub pending_bytes_max: usize,
    /// Key of the in-memory hash. Random in a server, so that nobody can choose collisions; fixed
    /// in a simulation.
    pub index_seed: [u8; 16],
}

impl LogOptions {
    /// Options with the defaults, and an index seed of zeros, which is for tests and simulations:
    /// [`crate::DataDir::log_options`] draws one.
    pub fn new(
        dir: PathBuf,
        cluster_id: [u8; 16],
        generation: u32,
        shard_index: u16,
        shard_count: u16,
    ) -> Self {
        Self {
            dir,
            cluster_id,
            generation,
            shard_index,
            shard_count,
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            compact_dead_pct: 50,
            pending_bytes_max: PENDING_BYTES_MAX,
            index_seed: [0; 16],
        }
    }

    pub(crate) fn validate(&self) -> Result<(), OpenError> {
        let refuse = |why: String| Err(OpenError::Options(why));
        if self.shard_index >= self.shard_count {
            return refuse(format!(
                "shard index {} must be below the shard count {}",
                self.shard_index, self.shard_count
            ));
        }
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            return refuse(format!(
                "segment size {} must be from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX} bytes",
                self.segment_bytes
            ));
        }
        if !(1..=100).contains(&self.compact_dead_pct) {
            return refuse(format!(
                "the dead share that starts a compaction is {} %, must be from 1 to 100",
                self.compact_dead_pct
            ));
        }
        Ok(())
    }
}

/// One shard's blob log. Clones are handles to the same log; it stays on one thread.
///
/// Futures of the calls that write must be polled to their end: see [`BlobLog::put_blob`].
pub struct BlobLog<F: Files> {
    pub(crate) shared: Rc<Shared<F>>,
}

impl<F: Files> Clone for BlobLog<F> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

/// What all handles share. No borrow of the state is ever held across an await.
pub(crate) struct Shared<F: Files> {
    pub files: F,
    pub options: LogOptions,
    pub state: RefCell<State<F::File>>,
    /// Wakes those who wait for durability.
    pub commits: Notify,
}

/// Whether the log takes writes.
#[derive(Clone, Debug)]
pub(crate) enum Health {
    Writable,
    /// A write or sync failed; what the disk holds beyond the last sync is unknown.
    Poisoned(Rc<str>),
    Closed,
}

pub(crate) struct State<L> {
    pub index: Index,
    /// Never empty; the last one is the active segment, all others are sealed.
    pub segments: BTreeMap<u32, Segment<L>>,
    pub next_revision: u64,
    pub health: Health,
    /// Records that are not yet being written, in the order of their tickets.
    pub queue: VecDeque<Staged>,
    /// Bytes queued or being written.
    pub pending_bytes: usize,
    /// For each key with puts that are not yet durable, the newest of them.
    pub pending: BTreeMap<KeyHash, Pending>,
    pub next_ticket: u64,
    /// All tickets up to this one are durable and in the index.
    pub durable_ticket: u64,
    /// A put is writing for everybody.
    pub leading: bool,
    pub compacting: bool,
    pub victim: Option<Victim>,
    pub commits: u64,
    pub committed_records: u64,
}

/// A segment file.
pub(crate) struct Segment<L> {
    pub file: Rc<L>,
    /// Durable bytes, header included.
    pub len: u32,
    /// Bytes of the records that the index points to.
    pub live_bytes: u64,
    /// Damage was found here: it is kept for whoever mends it, never compacted.
    pub damaged: bool,
}

impl<L> Segment<L> {
    pub fn dead_bytes(&self) -> u64 {
        u64::from(self.len).saturating_sub(HEADER_LEN as u64 + self.live_bytes)
    }
}

impl<L> State<L> {
    /// The number of the segment that is appended to.
    pub fn active(&self) -> u32 {
        *self
            .segments
            .last_key_value()
            .expect("a log always has a segment to append to")
            .0
    }

    /// Offers a durable record to the index and keeps the live bytes of the segments.
    pub fn apply(&mut self, hash: KeyHash, entry: Entry) {
        let applied = self.index.apply(hash, entry);
        if let Applied::Replaced(old) = applied {
            // The segment may have gone: a record that a reader found damaged outlives nothing.
            if let Some(segment) = self.segments.get_mut(&old.segment) {
                segment.live_bytes -= u64::from(old.record_len);
            }
        }
        if applied != Applied::Superseded {
            let segment = self.segments.get_mut(&entry.segment);
            segment
                .expect("records are applied while their segment is open")
                .live_bytes += u64::from(entry.record_len);
        }
    }
}

/// The state that a whole record gives its key.
pub(crate) fn state_of(kind: Kind) -> Option<KeyState> {
    match kind {
        Kind::Blob => Some(KeyState::Live),
        Kind::Revoked => Some(KeyState::Revoked),
        Kind::Lost => Some(KeyState::Damaged),
        Kind::Mark => None,
    }
}

/// What `get` found.
#[derive(Debug)]
pub enum Lookup {
    /// No such key was ever put.
    Missing,
    /// The key was revoked.
    Revoked {
        /// The version it had.
        version: u32,
        /// Revision of the revocation.
        revision: u64,
    },
    /// The key's blob.
    Blob(Blob),
}

/// A blob as it was put, checked against its checksum and its key.
#[derive(Debug)]
pub struct Blob {
    /// The newest key version that the blob holds.
    pub version: u32,
    /// Orders all writes of the log.
    pub revision: u64,
    /// The whole record.
    record: Vec<u8>,
    blob_offset: usize,
}

impl Blob {
    /// The bytes that were put.
    pub fn bytes(&self) -> &[u8] {
        &self.record[self.blob_offset..]
    }
}

/// What the index knows of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The newest key version.
    pub version: u32,
    /// Revision of the newest record.
    pub revision: u64,
    /// Whether it can be used.
    pub state: KeyState,
}

/// Figures of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys that the index holds: live, revoked and damaged ones.
    pub live_records: usize,
    /// Bytes of their records.
    pub live_bytes: u64,
    /// Bytes of superseded records, which a compaction can free.
    pub dead_bytes: u64,
    /// Bytes of all segment files.
    pub disk_bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Bytes of memory that the index takes.
    pub index_bytes: usize,
    /// Keys that exist and cannot be read.
    pub damaged_records: usize,
    /// Bytes that wait to become durable.
    pub pending_bytes: usize,
    /// Writes with their sync since the log was opened.
    pub commits: u64,
    /// Records that they made durable: divided by `commits`, the records per sync.
    pub committed_records: u64,
    /// A write failed: the log takes no more.
    pub poisoned: bool,
}

impl<F: Files> BlobLog<F> {
    /// The newest durable record of a key. One read of the disk for a live key, none otherwise.
    ///
    /// # Errors
    /// `Damaged` if what was read is not what was written; never `Missing` for such a key.
    pub async fn get(&self, keyspace: u32, key_id: &[u8]) -> Result<Lookup, ReadError> {
        let mut attempt = 1;
        loop {
            let Some((entry, file)) = self.locate(keyspace, key_id) else {
                return Ok(Lookup::Missing);
            };
            let Entry {
                version,
                revision,
                segment,
                offset,
                ..
            } = entry;
            let damaged = |what| ReadError::Damaged {
                segment,
                offset,
                what,
            };
            match entry.state {
                KeyState::Revoked => return Ok(Lookup::Revoked { version, revision }),
                KeyState::Damaged => return Err(damaged("found at an earlier check")),
                KeyState::Live => {}
            }
            let file = file.ok_or(damaged("its segment is not there"))?;
            let read = file
                .read_at(u64::from(offset), entry.record_len as usize)
                .await;
            let result = match read {
                Ok(record) => self
                    .check(&entry, keyspace, key_id, record)
                    .map_err(damaged),
                Err(source) => Err(ReadError::Io { segment, source }),
            };
            let Err(error) = result else {
                return result.map(Lookup::Blob);
            };
            // A compaction may have removed the segment under the read: then the key lies
            // elsewhere now, and is looked up again.
            let moved = self.locate(keyspace, key_id).map(|(entry, _)| entry) != Some(entry);
            if !moved || attempt == READ_ATTEMPTS_MAX {
                return Err(error);
            }
            attempt += 1;
        }
    }

    /// What the index knows of a key; no I/O.
    pub fn version_of(&self, keyspace: u32, key_id: &[u8]) -> Option<Known> {
        let state = self.shared.state.borrow();
        let entry = state.index.find(state.index.hash(keyspace, key_id))?;
        Some(Known {
            version: entry.version,
            revision: entry.revision,
            state: entry.state,
        })
    }

    /// Whether a key was put, be it revoked or damaged since; no I/O.
    pub fn contains(&self, keyspace: u32, key_id: &[u8]) -> bool {
        self.version_of(keyspace, key_id).is_some()
    }

    /// Figures of the log; costs a look at each segment's, no I/O.
    pub fn stats(&self) -> Stats {
        let state = self.shared.state.borrow();
        let sum = |of: fn(&Segment<F::File>) -> u64| state.segments.values().map(of).sum();
        Stats {
            live_records: state.index.len(),
            live_bytes: sum(|segment| segment.live_bytes),
            dead_bytes: sum(Segment::dead_bytes),
            disk_bytes: sum(|segment| u64::from(segment.len)),
            segments: state.segments.len(),
            index_bytes: state.index.memory_bytes(),
            damaged_records: state.index.damaged(),
            pending_bytes: state.pending_bytes,
            commits: state.commits,
            committed_records: state.committed_records,
            poisoned: matches!(state.health, Health::Poisoned(_)),
        }
    }

    fn locate(&self, keyspace: u32, key_id: &[u8]) -> Option<(Entry, Option<Rc<F::File>>)> {
        let state = self.shared.state.borrow();
        let entry = state.index.find(state.index.hash(keyspace, key_id))?;
        let file = state
            .segments
            .get(&entry.segment)
            .map(|segment| segment.file.clone());
        Some((entry, file))
    }

    /// Compares what was read with what was asked for.
    fn check(
        &self,
        entry: &Entry,
        keyspace: u32,
        key_id: &[u8],
        record: Vec<u8>,
    ) -> Result<Blob, &'static str> {
        if record.len() != entry.record_len as usize {
            return Err("the file ends within it");
        }
        let place = segment::place(&self.shared.options, entry.segment);
        let head = record::parse_head(&record, place, entry.offset)
            .map_err(|_| "its head does not match its checksum")?;
        let blob_offset = HEAD_LEN + usize::from(head.key_id_len);
        if head.kind != Kind::Blob || head.record_len() != entry.record_len {
            return Err("another record lies there");
        }
        if !record::body_is_whole(&record, place, entry.offset) {
            return Err("its blob does not match its checksum");
        }
        if head.keyspace != keyspace || record[HEAD_LEN..blob_offset] != *key_id {
            return Err("another key's record lies there");
        }
        // The checksums are no secret: whoever can write the file can put back an older record of
        // the same length. The index is what knows better.
        if head.version != entry.version || head.revision != entry.revision {
            return Err("another version's record lies there");
        }
        Ok(Blob {
            version: head.version,
            revision: head.revision,
            record,
            blob_offset,
        })
    }
}
