//! A blob store that fails: what is durable, what was written and not yet synced, and the behaviour of its reads.

use crate::dice::Dice;
use crate::plan::{Name, StoreMood};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

/// A stored key, as far as the core can distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) version: u32,
    pub(crate) dek_generation: u32,
    pub(crate) not_after: Option<u64>,
    pub(crate) corrupt: bool,
    pub(crate) revoked: bool,
}

/// A write that is not durable yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) request: u64,
    pub(crate) name: Name,
    pub(crate) blob: Blob,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    durable: BTreeMap<Name, Blob>,
    /// By shard, in the order of the log.
    pending: BTreeMap<u16, VecDeque<Write>>,
    pub(crate) mood: StoreMood,
}

impl Store {
    pub(crate) fn durable(&self, name: Name) -> Option<Blob> {
        self.durable.get(&name).copied()
    }

    pub(crate) fn names(&self) -> Vec<Name> {
        self.durable.keys().copied().collect()
    }

    /// Returns the state of the key once everything written is durable.
    pub(crate) fn newest(&self, shard: u16, name: Name) -> Option<Blob> {
        let pending = self.pending.get(&shard);
        let newest = pending.and_then(|writes| writes.iter().rev().find(|w| w.name == name));
        newest.map(|write| write.blob).or(self.durable(name))
    }

    pub(crate) fn write(&mut self, shard: u16, write: Write) {
        self.pending.entry(shard).or_default().push_back(write);
    }

    /// Completes the sync that this request waited for, and with it everything written before.
    pub(crate) fn sync(&mut self, shard: u16, request: u64) -> Vec<Write> {
        let Some(pending) = self.pending.get_mut(&shard) else {
            return Vec::new();
        };
        let Some(last) = pending.iter().position(|write| write.request == request) else {
            return Vec::new();
        };
        let synced: Vec<Write> = pending.drain(..=last).collect();
        for write in &synced {
            self.durable.insert(write.name, write.blob);
        }
        synced
    }

    pub(crate) fn insert(&mut self, name: Name, blob: Blob) {
        self.durable.insert(name, blob);
    }

    pub(crate) fn corrupt(&mut self, name: Name) {
        if let Some(blob) = self.durable.get_mut(&name) {
            blob.corrupt = true;
        }
    }

    /// Removes the blob, unless it records that the key is revoked.
    pub(crate) fn lose(&mut self, name: Name) -> bool {
        let lost = self.durable(name).is_some_and(|blob| !blob.revoked);
        if lost {
            self.durable.remove(&name);
        }
        lost
    }

    /// Handles the death of the process: of what was not synced, a prefix of complete records remains, and the torn rest
    /// is truncated.
    pub(crate) fn crash(&mut self, dice: &mut Dice) {
        for (_, mut pending) in std::mem::take(&mut self.pending) {
            let kept = dice.below(pending.len() as u64 + 1) as usize;
            for write in pending.drain(..kept) {
                self.durable.insert(write.name, write.blob);
            }
        }
    }
}

/// The outcome of one load.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fate {
    pub(crate) takes_us: u64,
    pub(crate) fails: bool,
    pub(crate) times_out: bool,
    pub(crate) panics: bool,
    pub(crate) loses_dek: bool,
    pub(crate) stale: bool,
    pub(crate) repeats: bool,
    /// The blob is read when the load begins, not when it ends.
    pub(crate) reads_first: bool,
}

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "takes {} us", self.takes_us)?;
        for (is, what) in [
            (self.fails, "fails"),
            (self.times_out, "times out"),
            (self.panics, "panics"),
            (self.loses_dek, "lacks the DEK"),
            (self.stale, "may be one version back"),
            (self.repeats, "answers twice"),
        ] {
            if is {
                write!(f, ", {what}")?;
            }
        }
        Ok(())
    }
}

impl StoreMood {
    pub(crate) fn fate(&self, dice: &mut Dice, time_limit_us: u64) -> Fate {
        let takes_us = dice.below(self.load_us.max(1)) + 1;
        let mut hits = |one_in: u64| one_in > 0 && dice.one_in(one_in);
        let (fails, times_out) = (hits(self.fails_one_in), hits(self.fails_one_in * 3));
        let slow = hits(self.slow_one_in);
        Fate {
            fails,
            times_out,
            panics: hits(self.panics_one_in),
            loses_dek: hits(self.loses_dek_one_in),
            stale: hits(self.stale_one_in),
            repeats: hits(self.repeats_one_in),
            reads_first: hits(2),
            takes_us: if slow {
                dice.below(time_limit_us * 3)
            } else {
                takes_us
            },
        }
    }
}
