//! Shards as control sees them: the state that they apply, the DEKs and keys they hold, and their writes in flight.
//! Control's contract with them is in `keyway_node::messages`.

use super::kms::Dek;
use keyway_node::ids::Epoch;
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::messages::{ResealError, ResealPage, ResealWork, UnlockProgress};
use std::collections::BTreeMap;

/// Blobs that one page looks at.
const PAGE_ROWS: usize = 3;

/// One shard.
#[derive(Debug, Default)]
pub(super) struct SimShard {
    pub(super) keyspaces: BTreeMap<u32, Known>,
    pub(super) stalled_until: u64,
    pub(super) pages_fail: bool,
}

/// A keyspace at a shard.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) change: KeyspaceChange,
    pub(super) deks: BTreeMap<u32, Dek>,
    /// Until then what is in memory may be used; 0: no lease.
    pub(super) lease_end: u64,
    /// Plaintext of its keys is in memory.
    pub(super) has_keys: bool,
    pub(super) ticket: u64,
    pub(super) keys_reloaded: u64,
    /// What is sealed and not in the log yet, by number.
    pub(super) seals: BTreeMap<u64, Dek>,
    /// A floor that is to be confirmed.
    pub(super) confirming: Option<u32>,
    /// A lock that is to be acknowledged once nothing is left.
    pub(super) wiping: Option<Epoch>,
}

impl Known {
    pub(super) fn new(change: KeyspaceChange) -> Self {
        Self {
            ticket: change.ticket,
            change,
            deks: BTreeMap::new(),
            lease_end: 0,
            has_keys: false,
            keys_reloaded: 0,
            seals: BTreeMap::new(),
            confirming: None,
            wiping: None,
        }
    }

    pub(super) fn is_open(&self, now: u64) -> bool {
        !self.change.guard.locked && self.lease_end > now
    }

    /// The DEK that a write is sealed under: the newest, if it is no older than the floor.
    pub(super) fn sealer(&self, now: u64) -> Option<Dek> {
        let (generation, dek) = self.deks.last_key_value()?;
        (self.is_open(now) && *generation >= self.change.seal_floor).then_some(*dek)
    }

    pub(super) fn drop_deks(&mut self) {
        self.deks.clear();
        self.lease_end = 0;
    }

    /// Returns the floor that can be confirmed now: no older write is in flight.
    pub(super) fn take_confirmed(&mut self) -> Option<u32> {
        let floor = self.confirming?;
        let is_older = |dek: &Dek| dek.generation < floor;
        if self.seals.values().any(is_older) {
            return None;
        }
        self.confirming.take()
    }

    pub(super) fn progress(&self, now: u64) -> UnlockProgress {
        UnlockProgress {
            ticket: self.ticket,
            is_open: self.is_open(now),
            is_reloaded: true,
            keys_reloaded: self.keys_reloaded,
        }
    }

    /// Works through one page of a log.
    pub(super) fn page(
        &self,
        now: u64,
        log: &mut [Dek],
        generation: u32,
        work: ResealWork,
        cursor: &[u8],
    ) -> Result<ResealPage, ResealError> {
        let begin = cursor.first().map_or(0, |at| usize::from(*at));
        let mut page = ResealPage {
            floor: self.change.seal_floor,
            ..ResealPage::default()
        };
        let end = log.len().min(begin + PAGE_ROWS);
        for blob in &mut log[begin.min(end)..end] {
            if blob.keyspace != self.change.id || blob.generation >= generation {
                continue;
            }
            page.found += 1;
            if work == ResealWork::Count {
                continue;
            }
            let sealer = self.deks.get(&generation);
            let (Some(sealer), true) = (sealer, self.is_open(now)) else {
                return Err(ResealError::DekMissing);
            };
            match self.deks.get(&blob.generation) {
                Some(opener) if opener == blob => {
                    *blob = *sealer;
                    page.resealed += 1;
                }
                Some(_) | None => return Err(ResealError::DekMissing),
            }
        }
        if end < log.len() {
            page.cursor = vec![end as u8];
        }
        Ok(page)
    }
}
