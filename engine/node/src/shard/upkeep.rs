//! What a shard keeps up from tick to tick.

use std::collections::BTreeMap;

use keyway_core::{Hottest, Instant};

use super::command::ControlRoom;
use super::figures::ShardTotals;
use super::inbox::Rota;
use super::warm::{SURVEY_PERIOD_US, WarmStart};
use crate::ids::Epoch;
use crate::messages::HotKey;

/// Keyspaces of which one tick looks whether anything is left to wipe.
const LOCKS_PER_TICK_MAX: usize = 256;

/// The parts of a shard that no request touches.
pub(crate) struct Upkeep {
    /// When the core's next tick is due.
    pub(crate) tick_at: Instant,
    /// When the warm start goes on.
    pub(crate) scan_at: Instant,
    /// When connections are looked at.
    pub(crate) look_at: Instant,
    pub(crate) survey_at: Instant,
    pub(crate) survey: Option<Hottest>,
    pub(crate) warm: WarmStart,
    pub(crate) locking: Locking,
    pub(crate) control_room: ControlRoom,
    pub(crate) rota: Rota,
    /// I/O was polled since the last slow operation.
    pub(crate) has_rested: bool,
    pub(crate) counts: ShardTotals,
}

/// Keyspaces that are being wiped.
#[derive(Default)]
pub(crate) struct Locking {
    /// For which lock.
    pub(crate) epochs: BTreeMap<u32, Epoch>,
    /// Where the next look begins.
    next: u32,
}

impl Locking {
    /// Returns the next keyspaces to look at, after the last ones the first again.
    pub(crate) fn next_page(&mut self) -> Vec<u32> {
        let page: Vec<u32> = self
            .epochs
            .range(self.next..)
            .map(|(id, _)| *id)
            .take(LOCKS_PER_TICK_MAX)
            .collect();
        self.next = match page.last() {
            Some(last) if page.len() == LOCKS_PER_TICK_MAX => last.saturating_add(1),
            _ => 0,
        };
        page
    }
}

impl Upkeep {
    pub(crate) fn new(now: Instant, hot_keys: Vec<HotKey>) -> Self {
        Upkeep {
            tick_at: Instant::ZERO,
            scan_at: now,
            look_at: now,
            survey_at: now.plus_us(SURVEY_PERIOD_US),
            survey: None,
            warm: WarmStart::new(now, hot_keys),
            locking: Locking::default(),
            control_room: ControlRoom::default(),
            rota: Rota::default(),
            has_rested: true,
            counts: ShardTotals::default(),
        }
    }
}
