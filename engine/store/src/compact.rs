//! Freeing the room of superseded records.
//!
//! A sealed segment's live records are copied to the end of the log, with their revisions, through
//! the same group commit as puts; once they are durable and nothing points to the segment any
//! more, it is removed. A crash in between leaves both copies, and either is right.

use std::rc::Rc;

use crate::batch::Staged;
use crate::error::{CompactError, PutError};
use crate::limits::COMPACT_STEP_BYTES_MAX;
use crate::log::{BlobLog, Health, Shared};
use crate::receipt::Receipt;
use crate::record::Head;
use crate::scan::{Item, Scanner};
use crate::seam::Files;
use crate::segment::{self, HEADER_LEN};

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// Nothing is to be done now.
    Idle,
    /// A segment is being emptied: call again.
    Progress {
        /// Its number.
        segment: u32,
        /// Bytes read in this step.
        scanned_bytes: u64,
        /// Bytes of live records copied in this step.
        copied_bytes: u64,
    },
    /// A segment is gone; there may be another.
    Removed {
        /// Its number.
        segment: u32,
        /// Its length in bytes.
        freed_bytes: u64,
    },
    /// A segment turned out to be damaged and is kept as it is; there may be another.
    Damaged {
        /// Its number.
        segment: u32,
        /// Where the damage begins, in bytes.
        offset: u32,
    },
}

/// The segment that is being emptied, and how far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Victim {
    segment: u32,
    position: u32,
}

impl<F: Files> BlobLog<F> {
    /// One bounded step of a compaction: reads at most `budget_bytes` (and a record; 4 MiB at
    /// most) of the sealed segment with the most dead bytes, if its dead share is at least
    /// `compact_dead_pct`, and copies what is live there. Idle while another step runs.
    ///
    /// The future must be polled to its end, as `put_blob`'s.
    ///
    /// # Errors
    /// The disk fails or the log takes no writes. Nothing is lost; the next step tries again.
    pub async fn compact_step(&self, budget_bytes: usize) -> Result<Compaction, CompactError> {
        let Some((_running, victim)) = self.begin_compaction()? else {
            return Ok(Compaction::Idle);
        };
        let Victim {
            segment,
            position: start,
        } = victim;
        let (file, len) = {
            let state = self.shared.state.borrow();
            let victim = &state.segments[&segment];
            (victim.file.clone(), victim.len)
        };
        let place = segment::place(&self.shared.options, segment);
        let mut scanner = Scanner::new(file, place, start, len);
        let budget = budget_bytes.clamp(1, COMPACT_STEP_BYTES_MAX) as u32;
        let (mut copied_bytes, mut at_end) = (0, false);
        let receipt = Receipt::new();
        while scanner.position() - start < budget {
            let io = |source| CompactError::Io { segment, source };
            match scanner.next().await.map_err(io)? {
                None => {
                    at_end = true;
                    break;
                }
                Some(Item::Damage { offset, head, .. }) => {
                    self.keep_damaged(segment, offset, head);
                    return Ok(Compaction::Damaged { segment, offset });
                }
                Some(Item::Record {
                    offset,
                    head,
                    key_id,
                    blob,
                }) => {
                    let hash = {
                        let state = self.shared.state.borrow();
                        let hash = state.index.hash(head.keyspace, key_id);
                        state
                            .find(head.kind, hash, head.version)
                            .is_some_and(|e| e.lies_at(segment, offset))
                            .then_some(hash)
                    };
                    let Some(hash) = hash else { continue };
                    copied_bytes += u64::from(head.record_len());
                    let staged = Staged {
                        hash,
                        kind: head.kind,
                        revision: head.revision,
                        keyspace: head.keyspace,
                        version: head.version,
                        key_id: key_id.to_vec(),
                        blob: blob.to_vec(),
                        copy_of: Some((segment, offset)),
                    };
                    self.stage_moved(staged, &receipt);
                }
            }
        }
        let position = scanner.position();
        self.durable(&receipt).await?;
        if at_end {
            return self.remove_segment(segment, len).await;
        }
        self.shared.state.borrow_mut().compaction.victim = Some(Victim { segment, position });
        let scanned_bytes = u64::from(position - start);
        Ok(Compaction::Progress {
            segment,
            scanned_bytes,
            copied_bytes,
        })
    }

    fn begin_compaction(&self) -> Result<Option<(Running<F>, Victim)>, PutError> {
        let mut state = self.shared.state.borrow_mut();
        match &state.health {
            Health::Closed => return Err(PutError::Closed),
            Health::Writable => {}
        }
        if state.compaction.is_running {
            return Ok(None);
        }
        if state.compaction.victim.is_none() {
            let active = state.active();
            let dead_pct = u64::from(self.shared.options.compact_dead_pct);
            let worst = state
                .segments
                .range(..active)
                .filter(|(_, segment)| !segment.damaged)
                .filter(|(_, segment)| {
                    let records_bytes = u64::from(segment.len) - HEADER_LEN as u64;
                    segment.dead_bytes() * 100 >= records_bytes * dead_pct
                })
                .max_by_key(|(number, segment)| (segment.dead_bytes(), u32::MAX - **number));
            state.compaction.victim = worst.map(|(number, _)| Victim {
                segment: *number,
                position: HEADER_LEN as u32,
            });
        }
        let Some(victim) = state.compaction.victim else {
            return Ok(None);
        };
        state.compaction.is_running = true;
        Ok(Some((Running(self.shared.clone()), victim)))
    }

    /// Keeps a damaged segment as it is, so that the operator can repair it. Its live keys stay where
    /// they are, and a key whose record is the damaged one is marked as damaged.
    fn keep_damaged(&self, segment: u32, offset: u32, key: Option<(Head, &[u8])>) {
        let mut state = self.shared.state.borrow_mut();
        if let Some((head, key_id)) = key {
            let hash = state.index.hash(head.keyspace, key_id);
            state.mark_damaged(head.kind, hash, (segment, offset));
        }
        state.compaction.victim = None;
        if let Some(kept) = state.segments.get_mut(&segment) {
            kept.damaged = true;
        }
    }

    async fn remove_segment(&self, segment: u32, len: u32) -> Result<Compaction, CompactError> {
        let shared = &self.shared;
        let options = &shared.options;
        let io = |source| CompactError::Io { segment, source };
        {
            // Every record of it was copied or was dead: if something still points here, the
            // index and the segment disagree, and removing would lose it.
            let state = shared.state.borrow();
            assert_eq!(
                state.segments[&segment].live_bytes, 0,
                "segment {segment} is still in use"
            );
        }
        let path = options.dir.join(segment::file_name(segment));
        match shared.files.remove(&path).await {
            // An earlier step removed it, and that was reported as failed.
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io(source)),
            _ => {}
        }
        {
            let mut state = shared.state.borrow_mut();
            state.segments.remove(&segment);
            state.compaction.victim = None;
        }
        shared.files.sync_dir(&options.dir).await.map_err(io)?;
        Ok(Compaction::Removed {
            segment,
            freed_bytes: u64::from(len),
        })
    }
}

/// One step at a time, however the step ends.
struct Running<F: Files>(Rc<Shared<F>>);

impl<F: Files> Drop for Running<F> {
    fn drop(&mut self) {
        self.0.state.borrow_mut().compaction.is_running = false;
    }
}
