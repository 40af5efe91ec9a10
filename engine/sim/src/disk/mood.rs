//! How a virtual disk behaves, call by call.

use crate::dice::Dice;
use keyway_store::virtual_files::{Call, Fate, Fault, Takes};

/// How a disk behaves. Of each `..._one_in`, 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskMood {
    /// A call takes up to this, µs.
    pub takes_us: u64,
    /// Calls that change the disk and fail.
    pub fails_one_in: u64,
    /// Calls that change the disk, do it, and are reported as failed.
    pub reports_wrongly_one_in: u64,
    /// Reads that fail.
    pub reads_fail_one_in: u64,
    /// Calls that hang until another mood comes.
    pub hangs_one_in: u64,
    /// Nothing can become longer.
    pub is_full: bool,
}

/// Decides about calls.
pub(super) struct Decider {
    pub(super) mood: DiskMood,
    /// All calls succeed, when polled again: for what takes no virtual time.
    pub(super) is_instant: bool,
    dice: Dice,
}

impl Decider {
    pub(super) fn new(dice: Dice) -> Self {
        Self {
            mood: DiskMood::default(),
            is_instant: true,
            dice,
        }
    }

    pub(super) fn decide(&mut self, call: Call) -> Fate {
        if self.is_instant {
            return Fate::default();
        }
        let (mood, dice) = (self.mood, &mut self.dice);
        let mut hits = |one_in: u64| one_in > 0 && dice.one_in(one_in);
        let fault = match call.changes_disk() {
            true if hits(mood.fails_one_in) => Some(Fault::Error),
            true if hits(mood.reports_wrongly_one_in) => Some(Fault::Done),
            false if hits(mood.reads_fail_one_in) => Some(Fault::Error),
            _ => None,
        };
        let hangs = hits(mood.hangs_one_in);
        let takes = match hangs {
            true => Takes::Forever,
            false => Takes::Us(1 + dice.below(mood.takes_us.max(1))),
        };
        Fate { takes, fault }
    }
}
