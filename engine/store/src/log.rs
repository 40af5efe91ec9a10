//! One shard's log: its state, and the calls that read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use crate::batch::{Pending, PendingName, Queue};
use crate::compact::Victim;
use crate::error::{OpenError, ReadError};
use crate::index::{Applied, Entry, Index, KeyHash, KeyState};
use crate::limits::{
    PENDING_BYTES_MAX, READ_ATTEMPTS_MAX, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
};
use crate::notify::Notify;
use crate::receipt::Receipt;
use crate::record::{self, HEAD_LEN, Kind, NUMBER_LEN};
use crate::revoked::{RevokedVersions, VersionsOf};
use crate::seam::{File, Files};
use crate::segment::{self, HEADER_LEN};

/// Where a log lies and how it is kept. `Send`, so that it can be handed to a shard's thread.
#[derive(Clone, Debug)]
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
    /// Tells from a blob, which the log itself cannot read, whose versions' secrets are in it. So the log drops the
    /// revocation of a version that is gone. Unless set, it takes every blob to hold all it may hold.
    pub versions_of: VersionsOf,
    /// Key of the in-memory hash. Random in a server, so that a client cannot choose collisions; fixed
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
            versions_of: |_| None,
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
    Closed,
}

pub(crate) struct State<L> {
    /// Where each key's newest record lies.
    pub index: Index,
    /// The same for records that a key has in addition.
    pub beside: Beside,
    /// Never empty; the last one is the active segment, all others are sealed.
    pub segments: BTreeMap<u32, Segment<L>>,
    pub next_revision: u64,
    pub health: Health,
    /// Records that are not yet being written.
    pub queue: Queue,
    /// Revocations that are not yet being written, or could not be written so far.
    pub revocations: Queue,
    /// For each key with puts that are not yet durable, the newest of them.
    pub pending: BTreeMap<PendingName, Pending>,
    /// A put is writing for all.
    pub leading: bool,
    pub disk: DiskState,
    pub compaction: Compaction,
    pub committed: Committed,
}

/// Where records lie that are not a key's state.
pub(crate) struct Beside {
    /// Use counts.
    pub uses: Index,
    /// Revocations of one version.
    pub versions: RevokedVersions,
}

/// What is known of the disk, from the writes that failed.
#[derive(Default)]
pub(crate) struct DiskState {
    /// Why the last write failed, until one succeeds.
    pub failing: Option<Rc<str>>,
    /// What the disk holds behind the last good sync is not known: to be cut off first.
    pub is_broken: bool,
    /// A segment that could not be made and may be there: to be removed first.
    pub debris: Option<u32>,
    /// A probe is checking whether the log can be written again.
    pub probing: bool,
    /// What the probe waits for.
    pub probe: Option<Rc<Receipt>>,
    /// The file system reserves no room.
    pub cannot_reserve: bool,
}

#[derive(Default)]
pub(crate) struct Compaction {
    pub is_running: bool,
    /// The segment that is being emptied, and how far.
    pub victim: Option<Victim>,
}

/// What was made durable since the start.
#[derive(Default)]
pub(crate) struct Committed {
    pub batches: u64,
    pub records: u64,
}

/// A segment file.
pub(crate) struct Segment<L> {
    pub file: Rc<L>,
    /// Durable bytes, header included.
    pub len: u32,
    /// Up to here the disk has room for it, as far as is known.
    pub reserved_to: u64,
    /// Bytes of the records that the index points to.
    pub live_bytes: u64,
    /// Damage was found here: it is kept for a repair, never compacted.
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

    /// The record that counts, of a key itself or of what it has in addition.
    pub fn find(&self, kind: Kind, hash: KeyHash, version: u32) -> Option<Entry> {
        match kind {
            Kind::Uses => self.beside.uses.find(hash),
            Kind::VersionRevoked => self.beside.versions.find(hash, version),
            Kind::Blob | Kind::Revoked | Kind::Lost | Kind::Mark | Kind::Deleted => {
                self.index.find(hash)
            }
        }
    }

    /// Marks a key or its use count as damaged if its record still is the one at this place.
    pub fn mark_damaged(&mut self, kind: Kind, hash: KeyHash, (segment, offset): (u32, u32)) {
        match kind {
            Kind::Uses => self.beside.uses.mark_damaged(hash, segment, offset),
            // What matters of it is in its head.
            Kind::VersionRevoked => {}
            Kind::Blob | Kind::Revoked | Kind::Lost | Kind::Mark | Kind::Deleted => {
                self.index.mark_damaged(hash, segment, offset);
            }
        }
    }

    /// Offers a durable record to its table and keeps the live bytes of the segments. `without` are the versions that a
    /// blob leaves out: see [`Versions`](crate::Versions).
    pub fn apply(&mut self, kind: Kind, hash: KeyHash, entry: Entry, without: u128) -> Applied {
        let applied = match kind {
            Kind::Uses => self.beside.uses.apply(hash, entry),
            Kind::VersionRevoked => {
                let newest = self.index.find(hash);
                match newest.is_none_or(|newest| newest.may_hold(entry.version)) {
                    true => self.beside.versions.apply(hash, entry),
                    false => Applied::Superseded,
                }
            }
            Kind::Blob | Kind::Revoked | Kind::Lost | Kind::Mark | Kind::Deleted => {
                self.index.apply(hash, entry)
            }
        };
        if let Applied::Replaced(old) = applied {
            self.forget_live(&old);
        }
        if applied != Applied::Superseded {
            let segment = self.segments.get_mut(&entry.segment);
            segment
                .expect("records are applied while their segment is open")
                .live_bytes += u64::from(entry.record_len);
            if kind.is_of_key() {
                self.drop_versions(hash, without);
            }
        }
        applied
    }

    pub fn forget_live(&mut self, entry: &Entry) {
        // The segment may have gone: a record that a reader found damaged outlives nothing.
        if let Some(segment) = self.segments.get_mut(&entry.segment) {
            segment.live_bytes -= u64::from(entry.record_len);
        }
    }

    /// Drops the revocations of a key's versions whose secrets its newest record does not hold any more.
    pub fn drop_versions(&mut self, hash: KeyHash, without: u128) {
        let Some(newest) = self.index.find(hash) else {
            return;
        };
        for entry in self.beside.versions.take_unneeded(hash, newest, without) {
            self.forget_live(&entry);
        }
    }
}

/// What `get` found.
#[derive(Debug)]
pub enum Lookup {
    /// No such key was ever put, or it was deleted.
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

/// Statistics of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys that the index holds: live, revoked, deleted and damaged ones.
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
    /// The last write failed, and none has succeeded since.
    pub poisoned: bool,
    /// Bytes of revocations that are in force and could not be written yet, or are being written.
    pub revocations_bytes: usize,
}

impl<F: Files> BlobLog<F> {
    /// The newest durable record of a key, or its revocation, which holds before it is durable. One
    /// read of the disk for a live key, none otherwise.
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
                KeyState::Deleted => return Ok(Lookup::Missing),
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
        let (entry, _) = self.locate(keyspace, key_id)?;
        Some(Known {
            version: entry.version,
            revision: entry.revision,
            state: entry.state,
        })
    }

    /// When a key was revoked, in ms since 1970. `None`: it is not, or it is not known when.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn revoked_at(&self, keyspace: u32, key_id: &[u8]) -> Result<Option<u64>, ReadError> {
        let entry = {
            let state = self.shared.state.borrow();
            state.index.find(state.index.hash(keyspace, key_id))
        };
        match entry {
            Some(entry) if entry.state == KeyState::Revoked => self.number(&entry).await,
            _ => Ok(None),
        }
    }

    /// The count that was put last for a key, and the version it is for. A count that cannot be
    /// read is `u64::MAX`.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn uses(
        &self,
        keyspace: u32,
        key_id: &[u8],
    ) -> Result<Option<(u32, u64)>, ReadError> {
        let entry = {
            let state = self.shared.state.borrow();
            state.beside.uses.find(state.index.hash(keyspace, key_id))
        };
        let Some(entry) = entry else { return Ok(None) };
        let count = match entry.state {
            KeyState::Live => self.number(&entry).await?,
            _ => None,
        };
        Ok(Some((entry.version, count.unwrap_or(u64::MAX))))
    }

    /// The number in a record that has one; `None` if it has none, or is damaged.
    async fn number(&self, entry: &Entry) -> Result<Option<u64>, ReadError> {
        let segment = entry.segment;
        let file = {
            let state = self.shared.state.borrow();
            state.segments.get(&segment).map(|found| found.file.clone())
        };
        let Some(file) = file else { return Ok(None) };
        let read = file.read_at(u64::from(entry.offset), entry.record_len as usize);
        let record = read
            .await
            .map_err(|source| ReadError::Io { segment, source })?;
        let place = segment::place(&self.shared.options, segment);
        let Ok(head) = record::parse_head(&record, place, entry.offset) else {
            return Ok(None);
        };
        let is_whole = head.record_len() as usize == record.len()
            && head.blob_len as usize == NUMBER_LEN
            && record::is_body_intact(&record, place, entry.offset);
        let number = record.last_chunk::<NUMBER_LEN>();
        Ok(number
            .filter(|_| is_whole)
            .map(|bytes| u64::from_le_bytes(*bytes)))
    }

    /// Whether a key was put, be it revoked, deleted or damaged since; no I/O.
    pub fn contains(&self, keyspace: u32, key_id: &[u8]) -> bool {
        self.version_of(keyspace, key_id).is_some()
    }

    /// Returns the statistics of the log. Reads those of each segment, without I/O.
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
            pending_bytes: state.queue.bytes,
            commits: state.committed.batches,
            committed_records: state.committed.records,
            poisoned: state.disk.failing.is_some(),
            revocations_bytes: state.revocations.bytes,
        }
    }

    fn locate(&self, keyspace: u32, key_id: &[u8]) -> Option<(Entry, Option<Rc<F::File>>)> {
        let state = self.shared.state.borrow();
        self.locate_hash(&state, state.index.hash(keyspace, key_id))
    }

    pub(crate) fn locate_hash(
        &self,
        state: &State<F::File>,
        hash: KeyHash,
    ) -> Option<(Entry, Option<Rc<F::File>>)> {
        let mut entry = state.index.find(hash)?;
        // A revocation holds as soon as it was let in.
        if let Some(put) = state.pending.get(&(hash, 0))
            && put.kind == Kind::Revoked
        {
            entry.state = KeyState::Revoked;
            entry.revision = put.revision;
            entry.version = put.version;
        }
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
        if !record::is_body_intact(&record, place, entry.offset) {
            return Err("its blob does not match its checksum");
        }
        if head.keyspace != keyspace || record[HEAD_LEN..blob_offset] != *key_id {
            return Err("another key's record lies there");
        }
        // The checksums are not secret: an attacker who can write the file can restore an older record
        // of the same length. The index detects that.
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
