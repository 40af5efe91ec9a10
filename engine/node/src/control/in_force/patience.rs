//! Changes of the catalogue that wait for the disk, and how long their commands do.

use keyway_core::Instant;

use crate::catalogue::Edit;
use crate::ids::WorkId;
use crate::limits::{verdict_us, write_us};

/// Time between two checks of a change that waits longer than its patience, because writes make progress, µs.
const CHECK_US: u64 = 1_000_000;

/// How long a work waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::control) struct Patience {
    /// If its change only grants something, which giving up undoes, µs.
    grants_us: u64,
    /// If its change takes something away, which is in force meanwhile, µs.
    takes_us: u64,
}

impl Patience {
    /// Returns the patience of a command with this deadline.
    pub(in crate::control) fn until(now: Instant, deadline: Option<Instant>) -> Self {
        Patience {
            grants_us: write_us(now, deadline),
            takes_us: verdict_us(now, deadline),
        }
    }

    /// Returns the same patience for either kind of change.
    pub(in crate::control) fn both(us: u64) -> Self {
        Patience {
            grants_us: us,
            takes_us: us,
        }
    }

    /// Returns how long a write that only grants something may take, µs.
    pub(super) fn write_us(self) -> u64 {
        self.grants_us
    }

    fn of(self, takes_away: bool) -> u64 {
        match takes_away {
            true => self.takes_us,
            false => self.grants_us,
        }
    }
}

/// A change that is not written yet.
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) edit: Edit,
    pub(super) takes_away: bool,
    pub(super) waiting: Vec<Waiting>,
}

impl Pending {
    /// Returns how long the first work whose time is over has waited, µs.
    pub(super) fn overdue_us(&self, now: Instant) -> Option<u64> {
        let mut waiting = self.waiting.iter();
        let overdue = waiting.find(|work| now >= work.ends_at(self.takes_away));
        overdue.map(|work| now.saturating_since(work.since))
    }

    /// Returns how long a write may take, µs.
    pub(super) fn write_us(&self) -> u64 {
        let patience = self.waiting.iter().map(|work| work.patience.write_us());
        patience.min().unwrap_or(u64::MAX)
    }

    /// Returns when the waits of its works are over.
    pub(super) fn ends(&self) -> impl Iterator<Item = Instant> {
        let waiting = self.waiting.iter();
        waiting.map(|work| work.ends_at(self.takes_away))
    }
}

/// A work that waits until a change is written.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) work: WorkId,
    pub(super) since: Instant,
    pub(super) patience: Patience,
}

impl Waiting {
    /// Returns when its wait is over.
    pub(super) fn ends_at(&self, takes_away: bool) -> Instant {
        self.since.plus_us(self.patience.of(takes_away))
    }
}

/// When the waits must be checked next.
#[derive(Default)]
pub(super) struct NextCheck(Option<Instant>);

impl NextCheck {
    pub(super) fn at(&self) -> Option<Instant> {
        self.0
    }

    /// Returns whether it is due. The waits that are left are then to be added again.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        self.0.take_if(|at| now >= *at).is_some()
    }

    /// A wait ends at this time.
    pub(super) fn add(&mut self, ends_at: Instant) {
        self.0 = Some(self.0.map_or(ends_at, |before| before.min(ends_at)));
    }

    /// The same after a check, which one whose time is over has outlasted.
    pub(super) fn add_again(&mut self, now: Instant, ends_at: Instant) {
        self.add(match ends_at > now {
            true => ends_at,
            false => now.plus_us(CHECK_US),
        });
    }
}

/// Returns why a change counts as not written, although no write has failed.
pub(super) fn no_answer(for_us: u64) -> String {
    match for_us {
        0..1_000_000 => format!("no answer for {} ms", for_us / 1_000),
        _ => format!("no answer for {} s", for_us / 1_000_000),
    }
}
