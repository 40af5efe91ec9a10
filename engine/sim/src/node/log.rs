//! The logs of a simulated node: the blob logs that serve, over one virtual disk. How they behave is drawn by steps.

use super::label::Label;
use super::{Event, World};
use crate::disk::{DiskMood, SimLog};
use keyway_node::shard::TaskId;
use std::cell::RefCell;
use std::rc::Rc;

/// One shard's log, which the shard's port uses as well.
pub(super) type ShardLog = Rc<RefCell<SimLog<TaskId>>>;

/// How the disk of the logs behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogMood {
    Good,
    /// Nothing can become longer.
    Full,
    /// Writes fail, some of them after they were done.
    FailsLate,
    /// Reads fail.
    ReadsFail,
}

impl LogMood {
    pub(super) fn disk(self, takes_us: u64) -> DiskMood {
        let good = DiskMood {
            // A put takes four calls.
            takes_us: 1 + takes_us / 4,
            ..DiskMood::default()
        };
        match self {
            LogMood::Good => good,
            LogMood::Full => DiskMood {
                is_full: true,
                ..good
            },
            LogMood::FailsLate => DiskMood {
                fails_one_in: 3,
                reports_wrongly_one_in: 3,
                hangs_one_in: 200,
                ..good
            },
            LogMood::ReadsFail => DiskMood {
                reads_fail_one_in: 1,
                ..good
            },
        }
    }
}

/// Returns a generation below `floor` that a blob of the keyspace in flight to the log is sealed under.
pub(super) fn pending_under_older(log: &SimLog<TaskId>, keyspace: u32, floor: u32) -> Option<u32> {
    let puts = log.in_flight_puts();
    let deks = puts.iter().filter_map(|blob| Label::read(blob));
    let deks = deks.map(|(label, _)| label.dek);
    let mut older = deks.filter(|dek| dek.keyspace == keyspace && dek.generation < floor);
    older.next().map(|dek| dek.generation)
}

impl World<'_> {
    /// Changes how the disk behaves. Calls that hang end.
    pub(super) fn set_log_mood(&mut self, mood: LogMood, takes_us: u64) {
        self.platter.set_mood(mood.disk(takes_us));
        for shard in 0..self.logs.len() as u16 {
            self.watch_log(shard);
        }
    }

    /// Looks when there is something to take from a shard's log, or to do in it.
    pub(super) fn watch_log(&mut self, shard: u16) {
        let number = usize::from(shard);
        let next_at = self.logs[number].borrow().next_at();
        let Some(at) = next_at.map(|at| at.max(self.now)) else {
            return;
        };
        let watched = &mut self.log_watches[number];
        if watched.is_none_or(|watched| at < watched || watched < self.now) {
            *watched = Some(at);
            self.schedule(at, Event::Log(shard));
        }
    }
}
