//! Group commit, and what a failed write does.
//!
//! There is no task for it. A put queues its record. The first put that finds no write in progress
//! becomes the leader: it writes what is queued in one write with one fdatasync, updates the index,
//! and wakes the others. What was queued in the meantime is the next leader's batch. So a single put
//! costs one sync, and a thousand concurrent ones cost two.
//!
//! There are two queues. Revocations have one of their own, which goes first, takes no part in the
//! bound of the other, and is written into room that was reserved for it. A revocation whose write
//! fails stays queued until it is durable; any other record is dropped and its put refused.
//!
//! ```text
//!  ordinary: take ─ reserve room ─ write ─ sync ─▶ index        revocations: write ─ sync ─▶ index
//!                       │ fails        └────┬──────┘ fails                     │ fails
//!                       ▼                   ▼                                  ▼
//!                   refused          cut the file back ─ fails ─▶ broken    kept, tried again
//! ```

use std::rc::Rc;

use crate::batch::{Batch, Lane, Staged};
use crate::error::PutError;
use crate::limits::{RESERVE_BYTES, RESERVE_STEP_BYTES};
use crate::log::{BlobLog, Health, Segment, Shared};
use crate::receipt::Receipt;
use crate::record::Kind;
use crate::seam::{File, Files, is_full, is_unsupported};
use crate::segment::{self, HEADER_LEN};

impl<F: Files> BlobLog<F> {
    /// Makes what is queued durable, writes a mark that tells the next start so, and takes no more
    /// writes; reads go on. Closing twice is no error.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// Something that was queued could not be written.
    pub async fn close(&self) -> Result<(), PutError> {
        let receipt = Receipt::new();
        let revocations_left = {
            let mut state = self.shared.state.borrow_mut();
            if !matches!(state.health, Health::Closed) {
                let hash = state.index.hash(0, b"");
                let revision = state.take_revision();
                let mark = Staged {
                    hash,
                    kind: Kind::Mark,
                    revision,
                    keyspace: 0,
                    version: 0,
                    key_id: Vec::new(),
                    blob: Vec::new(),
                    copy_of: None,
                };
                state.stage(Lane::Ordinary, mark, &receipt);
                state.health = Health::Closed;
            }
            !state.revocations.is_empty()
        };
        if revocations_left {
            self.retry_revocations().await?;
        }
        self.durable(&receipt).await
    }

    /// Writes the revocations that could not be written yet, if there are any, and finds out
    /// whether the log takes writes again. For a caller that comes again and again.
    ///
    /// # Errors
    /// They still cannot be written.
    pub async fn retry_revocations(&self) -> Result<(), PutError> {
        let receipt = {
            let mut state = self.shared.state.borrow_mut();
            if state.revocations.is_empty() && state.disk.failing.is_none() {
                return Ok(());
            }
            state.disk.probing |= state.disk.failing.is_some();
            state.newest_revocation()
        };
        match receipt {
            Some(receipt) => self.durable(&receipt).await,
            None => {
                let receipt = Receipt::new();
                receipt.add();
                self.shared.state.borrow_mut().disk.probe = Some(Rc::clone(&receipt));
                self.durable(&receipt).await
            }
        }
    }

    /// Queues a record as it stands in another place: a compaction's copy, or a reshard's.
    pub(crate) fn stage_moved(&self, staged: Staged, receipt: &Rc<Receipt>) {
        let mut state = self.shared.state.borrow_mut();
        state.next_revision = state.next_revision.max(staged.revision + 1);
        state.stage(Lane::Ordinary, staged, receipt);
    }

    /// Returns once all under this receipt are durable and in the index, or one of them has failed.
    /// Writes if no other put is writing.
    pub(crate) async fn durable(&self, receipt: &Receipt) -> Result<(), PutError> {
        let shared = &*self.shared;
        loop {
            let changed = {
                let mut state = shared.state.borrow_mut();
                if let Some(outcome) = receipt.outcome() {
                    return outcome;
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
                None => Lead::new(shared).commit().await,
            }
        }
    }
}

/// The right to write, held by one put at a time. However it ends, the others are woken.
struct Lead<'a, F: Files> {
    shared: &'a Shared<F>,
    /// What is being written.
    batch: Option<Batch>,
}

impl<F: Files> Drop for Lead<'_, F> {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        state.leading = false;
        if let Some(batch) = self.batch.take() {
            let why = "the future that wrote was dropped";
            state.disk.is_broken = true;
            state.fail_batch(batch, &PutError::Unknown(why.into()));
        }
        if let Some(probe) = state.disk.probe.take() {
            match state.disk.failing.clone() {
                None => probe.settle(),
                Some(why) => probe.fail(&PutError::Failed(why)),
            }
        }
        drop(state);
        self.shared.commits.wake_all();
    }
}

impl<'a, F: Files> Lead<'a, F> {
    fn new(shared: &'a Shared<F>) -> Self {
        let batch = None;
        Self { shared, batch }
    }

    /// Writes one batch of one lane.
    async fn commit(mut self) {
        if let Err(why) = self.repair().await {
            self.shared.state.borrow_mut().fail_queued(&why.into());
            return;
        }
        let lane = match self.shared.state.borrow().revocations.is_empty() {
            true => Lane::Ordinary,
            false => Lane::Revocations,
        };
        if lane == Lane::Ordinary
            && let Err(why) = self.make_room().await
        {
            self.shared.state.borrow_mut().fail_queued(&why.into());
            return;
        }
        let file = self.take(lane);
        let (offset, len) = match &self.batch {
            Some(batch) if !batch.bytes.is_empty() => (batch.offset, batch.bytes.len()),
            _ => return self.finish(),
        };
        if lane == Lane::Ordinary
            && let Err(why) = self.reserve(&file, u64::from(offset) + len as u64).await
        {
            return self.fail(&PutError::Failed(why.into()));
        }
        match self.write(&file).await {
            Ok(()) => self.finish(),
            Err(why) => {
                // Cut back, it is certain that nothing of it is there.
                self.shared.state.borrow_mut().disk.is_broken = true;
                let why = Rc::from(why);
                let error = match self.repair().await {
                    Ok(()) => PutError::Failed(Rc::clone(&why)),
                    Err(_) => PutError::Unknown(Rc::clone(&why)),
                };
                self.fail(&error);
                if lane == Lane::Revocations {
                    // They go first again: what waits after them would wait indefinitely.
                    self.shared.state.borrow_mut().fail_queued(&why);
                }
            }
        }
    }

    fn take(&mut self, lane: Lane) -> Rc<F::File> {
        let shared = self.shared;
        let mut state = shared.state.borrow_mut();
        let number = state.active();
        let segment = &state.segments[&number];
        let (file, offset) = (segment.file.clone(), segment.len);
        let room = match lane {
            Lane::Ordinary => {
                (shared.options.segment_bytes as usize).saturating_sub(offset as usize)
            }
            Lane::Revocations => usize::MAX,
        };
        let place = segment::place(&shared.options, number);
        self.batch = Some(state.take_batch(lane, place, number, offset, room));
        file
    }

    async fn write(&mut self, file: &F::File) -> Result<(), String> {
        let Some(batch) = &mut self.batch else {
            return Ok(());
        };
        let (segment, offset) = (batch.segment, batch.offset);
        let bytes = std::mem::take(&mut batch.bytes);
        let end = offset + bytes.len() as u32;
        let failed = |what, error| self.failed(what, segment, error);
        file.write_at(u64::from(offset), bytes)
            .await
            .map_err(|e| failed("writing", e))?;
        file.sync_data().await.map_err(|e| failed("syncing", e))?;
        if let Some(batch) = &mut self.batch {
            batch.offset = end;
        }
        Ok(())
    }

    fn finish(&mut self) {
        if let Some(batch) = self.batch.take() {
            let end = batch.offset;
            self.shared.state.borrow_mut().finish_batch(batch, end);
        }
    }

    fn fail(&mut self, error: &PutError) {
        if let Some(batch) = self.batch.take() {
            self.shared.state.borrow_mut().fail_batch(batch, error);
        }
    }

    /// Truncates the segment after a failed write. It is not known what follows the last good sync;
    /// after truncating and syncing, nothing does. What was durable before is not touched.
    async fn repair(&self) -> Result<(), String> {
        let shared = self.shared;
        let debris = shared.state.borrow().disk.debris;
        if let Some(number) = debris {
            self.clear_away(number).await?;
        }
        let (number, file, len) = {
            let state = shared.state.borrow();
            if !state.disk.is_broken {
                return Ok(());
            }
            let number = state.active();
            let segment = &state.segments[&number];
            (number, segment.file.clone(), segment.len)
        };
        file.truncate(u64::from(len))
            .await
            .map_err(|e| self.failed("cutting", number, e))?;
        file.sync_data()
            .await
            .map_err(|e| self.failed("syncing", number, e))?;
        {
            let mut state = shared.state.borrow_mut();
            state.disk.is_broken = false;
            // Cutting gave the reserved room back.
            if let Some(segment) = state.segments.get_mut(&number) {
                segment.reserved_to = 0;
            }
        }
        // The next put says it if there is none.
        let _ = self.reserve(&file, u64::from(len)).await;
        Ok(())
    }

    /// Seals the active segment and begins the next, if the next record does not fit.
    async fn make_room(&self) -> Result<(), String> {
        let shared = self.shared;
        let segment_bytes = shared.options.segment_bytes as usize;
        let (is_full, probing) = {
            let mut state = shared.state.borrow_mut();
            let len = state.segments[&state.active()].len as usize;
            let first = state.queue.next_len();
            let is_full = len > HEADER_LEN && first > 0 && len + first > segment_bytes;
            (is_full, std::mem::take(&mut state.disk.probing))
        };
        if is_full {
            self.roll().await?;
        }
        if probing {
            let (file, len) = {
                let state = shared.state.borrow();
                let segment = &state.segments[&state.active()];
                (segment.file.clone(), segment.len)
            };
            self.reserve(&file, u64::from(len)).await?;
            shared.state.borrow_mut().disk.failing = None;
        }
        Ok(())
    }

    async fn roll(&self) -> Result<(), String> {
        let shared = self.shared;
        let (active, revision_floor) = {
            let state = shared.state.borrow();
            (state.active(), state.next_revision)
        };
        let number = active
            .checked_add(1)
            .ok_or("the segment numbers are used up")?;
        let path = shared.options.dir.join(segment::file_name(number));
        let file = match shared.files.create(&path).await {
            Ok(file) => file,
            Err(error) => {
                let is_ours = error.kind() != std::io::ErrorKind::AlreadyExists;
                let why = self.failed("creating", number, error);
                if is_ours {
                    self.clear_if_there(number).await;
                }
                return Err(why);
            }
        };
        let started = start_segment(&shared.files, &shared.options, file, number, revision_floor);
        let segment = match started.await {
            Ok(segment) => segment,
            Err(error) => {
                let why = self.failed("creating", number, error);
                shared.state.borrow_mut().disk.debris = Some(number);
                // Otherwise it is cleared away before the next write.
                let _ = self.clear_away(number).await;
                return Err(why);
            }
        };
        let sealed = {
            let mut state = shared.state.borrow_mut();
            state.segments.insert(number, segment);
            let sealed = &state.segments[&active];
            (sealed.reserved_to > 0).then(|| (sealed.file.clone(), sealed.len))
        };
        if let Some((file, len)) = sealed {
            // Gives the reserved room back. Only room is lost if it fails.
            let _ = file.truncate(u64::from(len)).await;
        }
        Ok(())
    }

    /// Clears away a segment whose creation was reported as failed and has taken place. If there is none, that takes no
    /// descriptor: they may be what there is none of, and revocations must not wait for one.
    async fn clear_if_there(&self, number: u32) {
        let shared = self.shared;
        let path = shared.options.dir.join(segment::file_name(number));
        let removed = shared.files.remove(&path).await;
        if !removed.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            shared.state.borrow_mut().disk.debris = Some(number);
            // Otherwise it is cleared away before the next write.
            let _ = self.clear_away(number).await;
        }
    }

    /// A segment that could not be made must not be there at the next start: what is appended to
    /// the one before it would not be read as the end of the log.
    async fn clear_away(&self, number: u32) -> Result<(), String> {
        let shared = self.shared;
        let path = shared.options.dir.join(segment::file_name(number));
        match shared.files.remove(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(self.failed("removing", number, error));
            }
            _ => {}
        }
        shared
            .files
            .sync_dir(&shared.options.dir)
            .await
            .map_err(|e| self.failed("removing", number, e))?;
        shared.state.borrow_mut().disk.debris = None;
        Ok(())
    }

    /// Sees that the disk has room up to `end` and, behind it, for revocations.
    async fn reserve(&self, file: &F::File, end: u64) -> Result<(), String> {
        let (number, reserved_to) = {
            let state = self.shared.state.borrow();
            let number = state.active();
            if state.disk.cannot_reserve {
                return Ok(());
            }
            (number, state.segments[&number].reserved_to)
        };
        let needed = end + RESERVE_BYTES;
        if needed <= reserved_to {
            return Ok(());
        }
        let mut reserved = needed.next_multiple_of(RESERVE_STEP_BYTES);
        let mut outcome = file.reserve(reserved).await;
        if outcome.as_ref().is_err_and(is_full) {
            reserved = needed;
            outcome = file.reserve(reserved).await;
        }
        let mut state = self.shared.state.borrow_mut();
        match outcome {
            Ok(()) => {
                if let Some(segment) = state.segments.get_mut(&number) {
                    segment.reserved_to = reserved;
                }
                Ok(())
            }
            Err(error) if is_unsupported(&error) => {
                state.disk.cannot_reserve = true;
                Ok(())
            }
            Err(error) => Err(self.failed("reserving room in", number, error)),
        }
    }

    fn failed(&self, what: &str, segment: u32, error: std::io::Error) -> String {
        let shard = self.shared.options.shard_index;
        format!("{what} segment {segment} of shard {shard}: {error}")
    }
}

/// A new segment with a durable header and a durable name.
pub(crate) async fn create_segment<F: Files>(
    files: &F,
    options: &crate::LogOptions,
    number: u32,
    revision_floor: u64,
) -> std::io::Result<Segment<F::File>> {
    let path = options.dir.join(segment::file_name(number));
    let file = files.create(&path).await?;
    start_segment(files, options, file, number, revision_floor).await
}

async fn start_segment<F: Files>(
    files: &F,
    options: &crate::LogOptions,
    file: F::File,
    number: u32,
    revision_floor: u64,
) -> std::io::Result<Segment<F::File>> {
    let reserved_to = HEADER_LEN as u64 + RESERVE_BYTES;
    let reserved_to = match file.reserve(reserved_to).await {
        Ok(()) => reserved_to,
        Err(error) if is_unsupported(&error) => 0,
        Err(error) => return Err(error),
    };
    file.write_at(0, segment::encode_header(options, number, revision_floor))
        .await?;
    file.sync_data().await?;
    files.sync_dir(&options.dir).await?;
    let len = HEADER_LEN as u32;
    Ok(Segment {
        file: Rc::new(file),
        len,
        reserved_to,
        live_bytes: 0,
        damaged: false,
    })
}
