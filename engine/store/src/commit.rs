//! Writes: admission, group commit, and what a failed write does.
//!
//! There is no task for it. A put queues its record; the first that finds nobody writing becomes
//! the leader, writes what is queued in one write with one fdatasync, puts it into the index, and
//! wakes the rest. What was queued meanwhile is the next leader's batch. So a lone put costs one
//! sync, and a thousand at once cost two.

use std::rc::Rc;

use crate::error::PutError;
use crate::index::{Entry, KeyHash, KeyState};
use crate::limits::{BATCH_BYTES_MAX, BLOB_LEN_MAX, KEY_ID_LEN_MAX};
use crate::log::{BlobLog, Health, Segment, Shared, State, state_of};
use crate::record::{self, HEAD_LEN, Head, Kind};
use crate::seam::{File, Files};
use crate::segment::{self, HEADER_LEN};

/// What a put expects to find; checked against durable and pending records alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No such key: of two who create it, one succeeds.
    Absent,
    /// The key has this version: of two who rotate it, one succeeds.
    Version(u32),
}

/// A durable write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Orders all writes of the log; greater is later.
    pub revision: u64,
    /// The key's version now.
    pub version: u32,
}

/// A record that waits to be written.
#[derive(Debug)]
pub(crate) struct Staged {
    pub hash: KeyHash,
    pub kind: Kind,
    pub revision: u64,
    pub keyspace: u32,
    pub version: u32,
    pub key_id: Vec<u8>,
    pub blob: Vec<u8>,
    /// A compaction's copy: written only if the key's newest record still lies here.
    pub copy_of: Option<(u32, u32)>,
    pub ticket: u64,
}

impl Staged {
    fn record_len(&self) -> usize {
        HEAD_LEN + self.key_id.len() + self.blob.len()
    }
}

/// The newest put of a key that is not yet durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    version: u32,
    revoked: bool,
    revision: u64,
    ticket: u64,
}

/// Why a put is refused, and what must be durable before it may be said: a refusal must not show
/// a pending put that a crash could still undo.
type Refusal = (PutError, Option<u64>);

impl<F: Files> BlobLog<F> {
    /// Puts a key's sealed versions, `version` being the newest. Durable on return, and read by
    /// every `get` that begins afterwards.
    ///
    /// `version` is from 1 and never below the one it replaces. The future must be polled to its
    /// end: it may be the one that writes for others, and the log is poisoned if it is dropped
    /// meanwhile.
    ///
    /// # Errors
    /// See [`PutError`].
    pub async fn put_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        blob: Vec<u8>,
        expect: Expect,
    ) -> Result<Stored, PutError> {
        let admitted = self.admit_blob(keyspace, key_id, version, blob, expect);
        self.settle(admitted).await
    }

    /// Marks a key as revoked, for ever. Durable on return. Revoking twice is no error.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// `NotFound` if there is no such key; else see [`PutError`].
    pub async fn put_revoked(&self, keyspace: u32, key_id: &[u8]) -> Result<Stored, PutError> {
        let admitted = self.admit_revoked(keyspace, key_id);
        self.settle(admitted).await
    }

    /// Makes what is queued durable, writes a mark that tells the next start so, and takes no more
    /// writes; reads go on. Closing twice is no error.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// `Poisoned` if a write failed, now or before.
    pub async fn close(&self) -> Result<(), PutError> {
        let ticket = {
            let mut state = self.shared.state.borrow_mut();
            match &state.health {
                Health::Poisoned(why) => return Err(PutError::Poisoned(why.clone())),
                Health::Closed => state.next_ticket - 1,
                Health::Writable => {
                    let hash = state.index.hash(0, b"");
                    let revision = state.take_revision();
                    let ticket = state.stage(Staged {
                        hash,
                        kind: Kind::Mark,
                        revision,
                        keyspace: 0,
                        version: 0,
                        key_id: Vec::new(),
                        blob: Vec::new(),
                        copy_of: None,
                        ticket: 0,
                    });
                    state.health = Health::Closed;
                    ticket
                }
            }
        };
        self.durable(ticket).await
    }

    fn admit_blob(
        &self,
        keyspace: u32,
        key_id: &[u8],
        version: u32,
        blob: Vec<u8>,
        expect: Expect,
    ) -> Result<(Stored, u64), Refusal> {
        let mut state = self.shared.state.borrow_mut();
        let len = HEAD_LEN + key_id.len() + blob.len();
        state.take_more(key_id, len, self.shared.options.pending_bytes_max)?;
        if blob.is_empty() || blob.len() > BLOB_LEN_MAX {
            return Err((PutError::BadRecord("a blob has from 1 byte to 1 MiB"), None));
        }
        if version == 0 {
            return Err((PutError::BadRecord("a key's version is at least 1"), None));
        }
        let hash = state.index.hash(keyspace, key_id);
        let (current, seen) = match state.newest(hash) {
            Newest::None => (None, None),
            Newest::Durable(entry) if entry.state == KeyState::Revoked => {
                return Err((PutError::Revoked, None));
            }
            Newest::Durable(entry) => (Some(entry.version), None),
            Newest::Pending(put) if put.revoked => {
                return Err((PutError::Revoked, Some(put.ticket)));
            }
            Newest::Pending(put) => (Some(put.version), Some(put.ticket)),
        };
        match (expect, current) {
            (Expect::Absent, Some(current)) => {
                return Err((PutError::Conflict { current }, seen));
            }
            (Expect::Version(_), None) => return Err((PutError::NotFound, None)),
            (Expect::Version(expected), Some(current)) if expected != current => {
                return Err((PutError::Conflict { current }, seen));
            }
            (Expect::Version(_), Some(current)) if version < current => {
                return Err((
                    PutError::VersionBehind {
                        current,
                        offered: version,
                    },
                    seen,
                ));
            }
            (Expect::Absent, None) | (Expect::Version(_), Some(_)) => {}
        }
        Ok(state.stage_new(hash, Kind::Blob, keyspace, version, key_id, blob))
    }

    fn admit_revoked(&self, keyspace: u32, key_id: &[u8]) -> Result<(Stored, u64), Refusal> {
        let mut state = self.shared.state.borrow_mut();
        let len = HEAD_LEN + key_id.len();
        state.take_more(key_id, len, self.shared.options.pending_bytes_max)?;
        let hash = state.index.hash(keyspace, key_id);
        let version = match state.newest(hash) {
            Newest::None => return Err((PutError::NotFound, None)),
            Newest::Durable(entry) if entry.state == KeyState::Revoked => {
                let stored = Stored {
                    revision: entry.revision,
                    version: entry.version,
                };
                return Ok((stored, state.durable_ticket));
            }
            Newest::Durable(entry) => entry.version,
            Newest::Pending(put) if put.revoked => {
                return Ok((
                    Stored {
                        revision: put.revision,
                        version: put.version,
                    },
                    put.ticket,
                ));
            }
            Newest::Pending(put) => put.version,
        };
        Ok(state.stage_new(hash, Kind::Revoked, keyspace, version, key_id, Vec::new()))
    }

    async fn settle(&self, admitted: Result<(Stored, u64), Refusal>) -> Result<Stored, PutError> {
        match admitted {
            Ok((stored, ticket)) => {
                self.durable(ticket).await?;
                Ok(stored)
            }
            Err((error, None)) => Err(error),
            Err((error, Some(ticket))) => {
                self.durable(ticket).await?;
                Err(error)
            }
        }
    }

    /// Queues a record as it stands in another place: a compaction's copy, or a reshard's.
    pub(crate) fn stage_moved(&self, staged: Staged) -> u64 {
        let mut state = self.shared.state.borrow_mut();
        state.next_revision = state.next_revision.max(staged.revision + 1);
        state.stage(staged)
    }

    /// Returns once all up to this ticket are durable and in the index, writing if nobody else is.
    pub(crate) async fn durable(&self, ticket: u64) -> Result<(), PutError> {
        let shared = &*self.shared;
        loop {
            let changed = {
                let mut state = shared.state.borrow_mut();
                if state.durable_ticket >= ticket {
                    return Ok(());
                }
                if let Health::Poisoned(why) = &state.health {
                    return Err(PutError::Poisoned(why.clone()));
                }
                if state.leading {
                    Some(shared.commits.changed())
                } else {
                    state.leading = true;
                    None
                }
            };
            match changed {
                Some(changed) => changed.await,
                None => {
                    let lead = Lead {
                        shared,
                        outcome: Err("its future was dropped".into()),
                    };
                    lead.commit_batch().await;
                }
            }
        }
    }
}

enum Newest {
    None,
    Durable(Entry),
    Pending(Pending),
}

impl<L> State<L> {
    /// Whether another record of `len` bytes may be queued.
    fn take_more(&self, key_id: &[u8], len: usize, pending_max: usize) -> Result<(), Refusal> {
        if key_id.is_empty() || key_id.len() > KEY_ID_LEN_MAX {
            return Err((
                PutError::BadRecord("a key id has from 1 to 128 bytes"),
                None,
            ));
        }
        match &self.health {
            Health::Poisoned(why) => Err((PutError::Poisoned(why.clone()), None)),
            Health::Closed => Err((PutError::Closed, None)),
            // One record is always let in, else a small bound would refuse it for ever.
            Health::Writable
                if self.pending_bytes > 0 && self.pending_bytes + len > pending_max =>
            {
                Err((PutError::Overloaded, None))
            }
            Health::Writable => Ok(()),
        }
    }

    fn newest(&self, hash: KeyHash) -> Newest {
        match (self.pending.get(&hash), self.index.find(hash)) {
            (Some(put), _) => Newest::Pending(*put),
            (None, Some(entry)) => Newest::Durable(entry),
            (None, None) => Newest::None,
        }
    }

    fn take_revision(&mut self) -> u64 {
        let revision = self.next_revision;
        self.next_revision += 1;
        revision
    }

    fn stage_new(
        &mut self,
        hash: KeyHash,
        kind: Kind,
        keyspace: u32,
        version: u32,
        key_id: &[u8],
        blob: Vec<u8>,
    ) -> (Stored, u64) {
        let revision = self.take_revision();
        let key_id = key_id.to_vec();
        let copy_of = None;
        let staged = Staged {
            hash,
            kind,
            revision,
            keyspace,
            version,
            key_id,
            blob,
            copy_of,
            ticket: 0,
        };
        let ticket = self.stage(staged);
        let revoked = kind == Kind::Revoked;
        self.pending.insert(
            hash,
            Pending {
                version,
                revoked,
                revision,
                ticket,
            },
        );
        (Stored { revision, version }, ticket)
    }

    fn stage(&mut self, mut staged: Staged) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        staged.ticket = ticket;
        self.pending_bytes += staged.record_len();
        self.queue.push_back(staged);
        ticket
    }

    /// Takes from the queue what one write can hold, with its bytes as they will lie at `offset`.
    fn take_batch(
        &mut self,
        place: record::Place,
        segment: u32,
        offset: u32,
        room: usize,
    ) -> Batch {
        let mut batch = Batch {
            bytes: Vec::new(),
            records: Vec::new(),
            last: 0,
            taken_bytes: 0,
        };
        while let Some(first) = self.queue.front() {
            let len = first.record_len();
            if !batch.records.is_empty() && batch.bytes.len() + len > BATCH_BYTES_MAX.min(room) {
                break;
            }
            let staged = self
                .queue
                .pop_front()
                .expect("its front was just looked at");
            batch.last = staged.ticket;
            batch.taken_bytes += len;
            if let Some((segment, offset)) = staged.copy_of {
                let newest = self.index.find(staged.hash);
                if !newest.is_some_and(|entry| entry.lies_at(segment, offset)) {
                    continue;
                }
            }
            let at = offset + batch.bytes.len() as u32;
            let head = Head {
                kind: staged.kind,
                revision: staged.revision,
                keyspace: staged.keyspace,
                version: staged.version,
                batch_offset: offset,
                key_id_len: staged.key_id.len() as u16,
                blob_len: staged.blob.len() as u32,
            };
            record::encode(
                &mut batch.bytes,
                place,
                at,
                &head,
                &staged.key_id,
                &staged.blob,
            );
            batch.records.push(Written {
                hash: staged.hash,
                ticket: staged.ticket,
                entry: state_of(staged.kind).map(|state| Entry {
                    revision: staged.revision,
                    segment,
                    offset: at,
                    record_len: len as u32,
                    version: staged.version,
                    state,
                }),
            });
        }
        batch
    }

    fn finish_batch(&mut self, batch: Batch, segment: u32, len: u32) {
        self.segments
            .get_mut(&segment)
            .expect("the active segment is never removed")
            .len = len;
        self.commits += u64::from(!batch.records.is_empty());
        self.committed_records += batch.records.len() as u64;
        for written in batch.records {
            if let Some(entry) = written.entry {
                self.apply(written.hash, entry);
            }
            if self
                .pending
                .get(&written.hash)
                .is_some_and(|put| put.ticket == written.ticket)
            {
                self.pending.remove(&written.hash);
            }
        }
        self.pending_bytes -= batch.taken_bytes;
        self.durable_ticket = batch.last;
    }
}

struct Batch {
    bytes: Vec<u8>,
    records: Vec<Written>,
    /// The last ticket that it settles.
    last: u64,
    taken_bytes: usize,
}

struct Written {
    hash: KeyHash,
    ticket: u64,
    /// None for a mark.
    entry: Option<Entry>,
}

/// The right to write, held by one put at a time. However it ends, the others are woken; unless it
/// ended well, they find the log poisoned.
struct Lead<'a, F: Files> {
    shared: &'a Shared<F>,
    outcome: Result<(), Rc<str>>,
}

impl<F: Files> Drop for Lead<'_, F> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.leading = false;
        if let Err(why) = &self.outcome {
            state.health = Health::Poisoned(why.clone());
        }
        drop(state);
        self.shared.commits.wake_all();
    }
}

impl<F: Files> Lead<'_, F> {
    async fn commit_batch(mut self) {
        self.outcome = self.write_batch().await.map_err(Rc::from);
    }

    async fn write_batch(&self) -> Result<(), String> {
        let shared = self.shared;
        let segment_bytes = shared.options.segment_bytes as usize;
        let roll = {
            let state = shared.state.borrow();
            let len = state.segments[&state.active()].len as usize;
            let first = state.queue.front().map_or(0, Staged::record_len);
            len > HEADER_LEN && len + first > segment_bytes
        };
        if roll {
            self.roll().await?;
        }
        let (batch, file, segment, offset) = {
            let mut state = shared.state.borrow_mut();
            let number = state.active();
            let Segment {
                file, len: offset, ..
            } = &state.segments[&number];
            let (file, offset) = (file.clone(), *offset);
            let place = segment::place(&shared.options, number);
            let room = segment_bytes.saturating_sub(offset as usize);
            (
                state.take_batch(place, number, offset, room),
                file,
                number,
                offset,
            )
        };
        let mut batch = batch;
        let end = offset + batch.bytes.len() as u32;
        if end > offset {
            let bytes = std::mem::take(&mut batch.bytes);
            let failed = |what: &str, error| {
                format!(
                    "{what} segment {segment} of shard {}: {error}",
                    shared.options.shard_index
                )
            };
            file.write_at(u64::from(offset), bytes)
                .await
                .map_err(|e| failed("writing", e))?;
            file.sync_data().await.map_err(|e| failed("syncing", e))?;
        }
        shared.state.borrow_mut().finish_batch(batch, segment, end);
        Ok(())
    }

    /// Seals the active segment and begins the next.
    async fn roll(&self) -> Result<(), String> {
        let shared = self.shared;
        let (number, revision_floor) = {
            let state = shared.state.borrow();
            (state.active().checked_add(1), state.next_revision)
        };
        let number = number.ok_or("the segment numbers are used up")?;
        let segment = create_segment(&shared.files, &shared.options, number, revision_floor)
            .await
            .map_err(|error| {
                format!(
                    "creating segment {number} of shard {}: {error}",
                    shared.options.shard_index
                )
            })?;
        shared.state.borrow_mut().segments.insert(number, segment);
        Ok(())
    }
}

/// A new segment with a durable header and a durable name.
pub(crate) async fn create_segment<F: Files>(
    files: &F,
    options: &crate::LogOptions,
    number: u32,
    revision_floor: u64,
) -> std::io::Result<Segment<F::File>> {
    let file = files
        .create(&options.dir.join(segment::file_name(number)))
        .await?;
    file.write_at(0, segment::encode_header(options, number, revision_floor))
        .await?;
    file.sync_data().await?;
    files.sync_dir(&options.dir).await?;
    let len = HEADER_LEN as u32;
    Ok(Segment {
        file: Rc::new(file),
        len,
        live_bytes: 0,
        damaged: false,
    })
}
