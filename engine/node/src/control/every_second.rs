//! What is done once a second, whatever happens.

use keyway_core::Instant;

use super::Control;
use super::effect::ControlEffect;
use crate::catalogue::Edit;

const PERIOD_US: u64 = 1_000_000;

/// How often retired DEKs are destroyed of which the time is over, at most, µs: a disk that takes nothing is not asked
/// each second.
const DEKS_PERIOD_US: u64 = 600_000_000;

/// When it was last done.
#[derive(Default)]
pub(super) struct EverySecond {
    last: Option<Instant>,
    deks_looked_at: Option<Instant>,
    /// What has been changed without a seal can be sealed now.
    pub is_seal_due: bool,
    /// Unlocks of which shards are being asked whether they have loaded their keys.
    pub watched: usize,
}

impl EverySecond {
    /// When it is due again.
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
        self.look_at_saves();
        self.look_at_all_opened();
        if self.beside.every_second.are_deks_due(self.now.instant) {
            self.destroy_due_deks();
        }
        if std::mem::take(&mut self.beside.every_second.is_seal_due) {
            // No work waits for it: the next change seals everything, too.
            let work = self.works.begin();
            let _ = self.want(work, Edit::Seal);
        }
        if let Some(text) = self.beside.hot_keys.next_write() {
            self.effects.push_back(ControlEffect::SaveHotKeys { text });
        }
    }
}
