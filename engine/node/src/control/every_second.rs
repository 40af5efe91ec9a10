//! The periodic work of control, done once a second.

use keyway_core::Instant;

use super::Control;
use super::effect::ControlEffect;
use crate::catalogue::Edit;

const PERIOD_US: u64 = 1_000_000;

/// Shortest period between destructions of DEKs whose retention has ended, in µs, so that a failing disk is not written
/// to every second.
const DEKS_PERIOD_US: u64 = 600_000_000;

/// The state of the periodic work.
#[derive(Default)]
pub(super) struct EverySecond {
    last: Option<Instant>,
    deks_looked_at: Option<Instant>,
    /// Changes made without a seal can be sealed now.
    pub is_seal_due: bool,
    /// Unlocks whose shards have been asked whether the keys are loaded, and have not all answered.
    pub watched: usize,
}

impl EverySecond {
    /// Returns when it is next due.
    pub(super) fn next(&self) -> Instant {
        self.last
            .map_or(Instant::ZERO, |last| last.plus_us(PERIOD_US))
    }

    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = now >= self.next();
        if is_due {
            self.last = Some(now);
        }
        is_due
    }

    fn are_deks_due(&mut self, now: Instant) -> bool {
        let looked_at = self.deks_looked_at;
        let is_due = looked_at.is_none_or(|at| now.saturating_since(at) >= DEKS_PERIOD_US);
        if is_due {
            self.deks_looked_at = Some(now);
        }
        is_due
    }
}

impl Control {
    pub(super) fn do_every_second(&mut self) {
        self.revert_expired_overrides();
        self.check_saves();
        self.check_all_opened();
        for report in self.troubles.ended(self.now.instant) {
            self.report(report);
        }
        if self.beside.every_second.are_deks_due(self.now.instant) {
            self.destroy_due_deks();
        }
        if std::mem::take(&mut self.beside.every_second.is_seal_due) {
            // No work waits for it: the next change also seals everything.
            let work = self.works.begin();
            let _ = self.want(work, Edit::Seal);
        }
        if let Some(text) = self.beside.hot_keys.next_write() {
            self.effects.push_back(ControlEffect::SaveHotKeys { text });
        }
    }
}
