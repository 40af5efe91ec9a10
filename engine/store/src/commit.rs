//! Group commit, and what a failed write does.
//!
//! There is no task for it. A put queues its record; the first that finds nobody writing becomes
//! the leader, writes what is queued in one write with one fdatasync, puts it into the index, and
//! wakes the rest. What was queued meanwhile is the next leader's batch. So a lone put costs one
//! sync, and a thousand at once cost two.

use std::rc::Rc;

use crate::error::PutError;
use crate::index::{Entry, KeyHash};
use crate::limits::BATCH_BYTES_MAX;
use crate::log::{BlobLog, Health, Segment, Shared, State, state_of};
use crate::record::{self, HEAD_LEN, Head, Kind};
use crate::seam::{File, Files};
use crate::segment::{self, HEADER_LEN};

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
    pub version: u32,
    pub revoked: bool,
    pub revision: u64,
    pub ticket: u64,
}

impl<F: Files> BlobLog<F> {
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

impl<L> State<L> {
    pub fn stage(&mut self, mut staged: Staged) -> u64 {
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
