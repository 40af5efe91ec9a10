//! What waits to be written, and the batches that it is written in.

use std::collections::VecDeque;
use std::rc::Rc;

use crate::error::PutError;
use crate::index::{Entry, KeyHash};
use crate::limits::BATCH_BYTES_MAX;
use crate::log::State;
use crate::receipt::Receipt;
use crate::record::{self, HEAD_LEN, Head, Kind};

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
}

impl Staged {
    pub fn record_len(&self) -> usize {
        HEAD_LEN + self.key_id.len() + self.blob.len()
    }

    /// Under which name it is found among the pending ones.
    pub fn pending_name(&self) -> PendingName {
        match self.kind {
            Kind::VersionRevoked => (self.hash, self.version),
            _ => (self.hash, 0),
        }
    }
}

/// A key, and the version of it that is being revoked alone; 0 for a put of the key itself.
pub(crate) type PendingName = (KeyHash, u32);

/// The newest put of a key that is not yet durable.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub version: u32,
    pub kind: Kind,
    pub revision: u64,
    pub receipt: Rc<Receipt>,
}

/// Which queue a record waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Ordinary,
    Revocations,
}

/// A queue of staged records.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    records: VecDeque<(Staged, Rc<Receipt>)>,
    /// Bytes queued or being written.
    pub bytes: usize,
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The length of the record that is next, in bytes; 0 if there is none.
    pub fn next_len(&self) -> usize {
        let first = self.records.front();
        first.map_or(0, |(staged, _)| staged.record_len())
    }

    fn push(&mut self, staged: Staged, receipt: Rc<Receipt>) {
        receipt.add();
        self.bytes += staged.record_len();
        self.records.push_back((staged, receipt));
    }
}

impl<L> State<L> {
    pub fn stage(&mut self, lane: Lane, staged: Staged, receipt: &Rc<Receipt>) {
        let queue = match lane {
            Lane::Ordinary => &mut self.queue,
            Lane::Revocations => &mut self.revocations,
        };
        queue.push(staged, Rc::clone(receipt));
    }

    pub fn newest_revocation(&self) -> Option<Rc<Receipt>> {
        let newest = self.revocations.records.back();
        newest.map(|(_, receipt)| Rc::clone(receipt))
    }

    /// Takes from a queue what one write can hold, with its bytes as they will lie at `offset`.
    pub fn take_batch(
        &mut self,
        lane: Lane,
        place: record::Place,
        segment: u32,
        offset: u32,
        room: usize,
    ) -> Batch {
        let mut batch = Batch {
            lane,
            segment,
            offset,
            bytes: Vec::new(),
            records: Vec::new(),
            taken_bytes: 0,
        };
        loop {
            let queue = match lane {
                Lane::Ordinary => &mut self.queue,
                Lane::Revocations => &mut self.revocations,
            };
            let Some((first, _)) = queue.records.front() else {
                break;
            };
            let len = first.record_len();
            let fits = batch.bytes.len() + len <= BATCH_BYTES_MAX.min(room);
            if !batch.records.is_empty() && !fits {
                break;
            }
            let Some((staged, receipt)) = queue.records.pop_front() else {
                break;
            };
            if self.is_stale_copy(&staged) {
                self.queue.bytes -= len;
                receipt.settle();
                continue;
            }
            batch.taken_bytes += len;
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
            batch.records.push(Taken {
                at,
                staged,
                receipt,
            });
        }
        batch
    }

    /// Whether this is a compaction's copy of a record that does not count any more.
    fn is_stale_copy(&self, staged: &Staged) -> bool {
        staged.copy_of.is_some_and(|(segment, offset)| {
            let newest = self.find(staged.kind, staged.hash, staged.version);
            !newest.is_some_and(|entry| entry.lies_at(segment, offset))
        })
    }

    pub fn finish_batch(&mut self, batch: Batch, len: u32) {
        self.segments
            .get_mut(&batch.segment)
            .expect("the active segment is never removed")
            .len = len;
        self.committed.batches += u64::from(!batch.records.is_empty());
        self.committed.records += batch.records.len() as u64;
        self.give_back_bytes(&batch);
        for Taken {
            at,
            staged,
            receipt,
        } in batch.records
        {
            if let Some(state) = staged.kind.state()
                && !self.is_stale_copy(&staged)
            {
                let held = self
                    .beside
                    .versions
                    .held(state, staged.version, &staged.blob);
                let entry = Entry {
                    revision: staged.revision,
                    segment: batch.segment,
                    offset: at,
                    record_len: staged.record_len() as u32,
                    keyspace: staged.keyspace,
                    version: staged.version,
                    oldest: held.oldest,
                    state,
                };
                self.apply(staged.kind, staged.hash, entry, held.without);
            }
            self.forget_pending(staged.pending_name(), &receipt);
            receipt.settle();
        }
        self.disk.failing = None;
    }

    /// Records that nothing of a batch was made durable. Revocations return to their queue, in their order.
    pub fn fail_batch(&mut self, batch: Batch, error: &PutError) {
        self.disk.failing = Some(error.to_string().into());
        self.give_back_bytes(&batch);
        match batch.lane {
            Lane::Ordinary => {
                for taken in batch.records {
                    self.forget_pending(taken.staged.pending_name(), &taken.receipt);
                    taken.receipt.fail(error);
                }
            }
            Lane::Revocations => {
                for Taken {
                    staged, receipt, ..
                } in batch.records.into_iter().rev()
                {
                    let next = Receipt::new();
                    next.add();
                    if let Some(pending) = self.pending.get_mut(&staged.pending_name())
                        && Rc::ptr_eq(&pending.receipt, &receipt)
                    {
                        pending.receipt = Rc::clone(&next);
                    }
                    receipt.fail(&PutError::NotPersisted(error.to_string().into()));
                    self.revocations.bytes += staged.record_len();
                    self.revocations.records.push_front((staged, next));
                }
            }
        }
    }

    /// The log cannot be written at all now: all that is queued is answered.
    pub fn fail_queued(&mut self, why: &Rc<str>) {
        for lane in [Lane::Ordinary, Lane::Revocations] {
            let queue = match lane {
                Lane::Ordinary => &mut self.queue,
                Lane::Revocations => &mut self.revocations,
            };
            let records = std::mem::take(&mut queue.records);
            let taken_bytes = records.iter().map(|(staged, _)| staged.record_len()).sum();
            let records = records.into_iter();
            let batch = Batch {
                lane,
                segment: 0,
                offset: 0,
                bytes: Vec::new(),
                records: records
                    .map(|(staged, receipt)| Taken {
                        at: 0,
                        staged,
                        receipt,
                    })
                    .collect(),
                taken_bytes,
            };
            self.fail_batch(batch, &PutError::Failed(Rc::clone(why)));
        }
    }

    fn give_back_bytes(&mut self, batch: &Batch) {
        match batch.lane {
            Lane::Ordinary => self.queue.bytes -= batch.taken_bytes,
            Lane::Revocations => self.revocations.bytes -= batch.taken_bytes,
        }
    }

    fn forget_pending(&mut self, name: PendingName, receipt: &Rc<Receipt>) {
        if let Some(pending) = self.pending.get(&name)
            && Rc::ptr_eq(&pending.receipt, receipt)
        {
            self.pending.remove(&name);
        }
    }
}

/// Records that are written together.
pub(crate) struct Batch {
    lane: Lane,
    pub segment: u32,
    /// Where it begins.
    pub offset: u32,
    /// As they will lie there.
    pub bytes: Vec<u8>,
    records: Vec<Taken>,
    taken_bytes: usize,
}

struct Taken {
    at: u32,
    staged: Staged,
    receipt: Rc<Receipt>,
}
