//! What was promised of one key, by whichever process.

use super::super::plan::Asks;
use super::Taken;
use keyway_protocol::Status;
use std::collections::{BTreeMap, BTreeSet};

/// A key.
#[derive(Debug, Default)]
pub(crate) struct KeyBook {
    /// Versions that were acknowledged or served, each with when: both rise.
    known: Vec<(u64, u32)>,
    /// Writes that make a version and have no answer, or of which it is not known whether they were done.
    maybe: u32,
    /// What was made by requests without an answer.
    open: u32,
    /// The newest version that a revocation or a deletion was answered with. It is used up, also if the write that made it
    /// failed afterwards.
    taken: u32,
    pub(crate) generates_sent: u32,
    pub(crate) revokes_sent: u32,
    pub(crate) deletes_sent: u32,
    pub(crate) revoked: Option<Revoked>,
    /// The highest versions below which all were to be trimmed.
    trims_sent: u32,
    /// The one of which that was answered.
    pub(crate) trimmed: Option<Trimmed>,
    /// Versions that were to be revoked alone.
    pub(crate) versions_sent: BTreeSet<u32>,
    /// Those of which that was answered.
    pub(crate) versions_revoked: BTreeMap<u32, Taken>,
}

/// A revocation that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Revoked {
    pub(crate) at: u64,
    /// Versions up to this one are gone.
    pub(crate) through: u32,
    pub(crate) is_written: bool,
}

/// A trim that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trimmed {
    pub(crate) at: u64,
    /// Versions below this one are gone.
    pub(crate) below: u32,
}

impl KeyBook {
    /// The newest version that was known at that time, 0 if none was.
    pub(crate) fn least(&self, at: u64) -> u32 {
        let known = self.known.iter().rev().find(|(since, _)| *since < at);
        known.map_or(0, |(_, version)| *version)
    }

    pub(crate) fn newest(&self) -> u32 {
        self.known.last().map_or(0, |(_, version)| *version)
    }

    /// The newest version that there can be.
    pub(crate) fn most(&self) -> u32 {
        self.newest().max(self.taken) + self.maybe + self.open
    }

    pub(crate) fn learn(&mut self, at: u64, version: u32) {
        if version > self.newest() {
            self.known.push((at, version));
        }
    }

    pub(crate) fn note_taken(&mut self, version: u32) {
        self.taken = self.taken.max(version);
    }

    /// Whether the key is there and nothing was begun that takes it away.
    pub(crate) fn is_certain(&self) -> bool {
        self.newest() > 0 && self.revokes_sent == 0
    }

    pub(crate) fn may_be_revoked(&self) -> bool {
        self.revokes_sent > 0 || !self.versions_sent.is_empty()
    }

    /// Whether a version may be gone because of a trim.
    pub(crate) fn may_be_trimmed(&self, version: u32) -> bool {
        version < self.trims_sent
    }

    pub(crate) fn note_trimmed(&mut self, at: u64, below: u32) {
        if self.trimmed.is_none_or(|known| known.below < below) {
            self.trimmed = Some(Trimmed { at, below });
        }
    }

    /// The revocation of one version was answered OK, or "in force".
    pub(crate) fn note_version_revoked(&mut self, version: u32, taken: Taken) {
        let known = self.versions_revoked.entry(version).or_insert(taken);
        known.is_written |= taken.is_written;
    }

    pub(crate) fn note_sent(&mut self, asks: Asks) {
        match asks {
            Asks::Generate(_) | Asks::Import(_) => {
                self.generates_sent += 1;
                // What is made after this is another key.
                let newest = self.newest();
                if let Some(revoked) = &mut self.revoked {
                    revoked.through = revoked.through.min(newest);
                }
            }
            Asks::Revoke(_) => self.revokes_sent += 1,
            Asks::RevokeVersion { version, .. } => {
                self.versions_sent.insert(version);
            }
            Asks::Trim { below, .. } => self.trims_sent = self.trims_sent.max(below),
            Asks::Delete(_) => self.deletes_sent += 1,
            _ => {}
        }
        self.open += u32::from(asks.makes_version());
    }

    pub(crate) fn note_unknown(&mut self, asks: Asks) {
        if asks.makes_version() {
            self.open -= 1;
            self.maybe += 1;
        }
    }

    /// A write that makes a version has its answer.
    pub(crate) fn note_answered(&mut self, asks: Asks, status: Status) {
        if !asks.makes_version() {
            return;
        }
        self.open -= 1;
        // Of these it is not said whether it was done.
        let is_unknown = matches!(status, Status::Internal | Status::DeadlineExceeded);
        self.maybe += u32::from(is_unknown);
    }

    pub(crate) fn forget_process(&mut self) {
        self.revoked = self.revoked.filter(|revoked| revoked.is_written);
        self.versions_revoked.retain(|_, taken| taken.is_written);
    }
}
