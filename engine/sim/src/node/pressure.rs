//! What there is little of: places in the ordinary lanes, connections and descriptors.

use super::World;
use super::plan::Way;
use super::process::OPERATOR;
use super::site::Input;
use crate::oracle::{Checked, ensure};
use keyway_core::Instant;
use keyway_core::slots::Handle;
use keyway_node::connection::{CONTROL_RESERVED, Connection};
use keyway_node::messages::{Lane, ToControl};
use keyway_node::policy::Principal;
use keyway_node::shard::{Arrival, ControlRoom};
use std::collections::BTreeMap;

/// Descriptors that the process has, as long as they do not matter.
const DESCRIPTORS: u64 = 1_000;
/// User ids of strangers begin here.
const STRANGER: u32 = 9_000;

/// Ordinary lanes in which messages wait.
#[derive(Default)]
pub(super) struct Pressure {
    /// What is sent until then arrives after it.
    until: BTreeMap<Way, u64>,
    /// Messages that control's ordinary lane still takes.
    places: usize,
    /// Those that each shard saw before its last turn, less what it has sent since.
    seen: BTreeMap<u16, usize>,
    /// Descriptors of the process, once strangers have come.
    descriptors: Option<u64>,
}

impl Pressure {
    pub(super) fn begin(&mut self, way: Way, until: u64, places: usize) {
        self.until.insert(way, until);
        if way == Way::ToControl {
            self.places = places;
        }
    }

    pub(super) fn end(&mut self) {
        self.until.clear();
    }

    /// When a message that is sent at `at` may arrive.
    pub(super) fn passes_at(&self, way: Way, lane: Lane, at: u64) -> u64 {
        let until = self.until.get(&way).filter(|_| lane == Lane::Ordinary);
        until.map_or(at, |until| at.max(*until))
    }

    /// Whether there may have been no place for a client that is not the operator.
    pub(super) fn had_strangers(&self) -> bool {
        self.descriptors.is_some()
    }

    fn is_on(&self, at: u64) -> bool {
        let until = self.until.get(&Way::ToControl);
        until.is_some_and(|until| at < *until)
    }
}

impl World<'_> {
    /// A shard looks at how many messages control takes.
    pub(super) fn show_room(&mut self, number: u16) {
        let ordinary = match self.pressure.is_on(self.now) {
            true => self.pressure.places,
            false => usize::MAX,
        };
        self.pressure.seen.insert(number, ordinary);
        let site = &mut self.sites[usize::from(number)];
        site.shard.handle_control_room(ControlRoom {
            emergency: usize::MAX,
            ordinary,
        });
    }

    /// Takes a message into control's lane. Gives it back if there is no room.
    pub(super) fn take_told(
        &mut self,
        number: u16,
        at: u64,
        lane: Lane,
        message: ToControl,
    ) -> Checked<Option<ToControl>> {
        if lane == Lane::Emergency {
            return Ok(Some(message));
        }
        let seen = self.pressure.seen.entry(number).or_insert(usize::MAX);
        if let ToControl::Request(request) = &message {
            let is_operator = request.who == Principal::Uid(OPERATOR);
            ensure!(
                36,
                is_operator || *seen > CONTROL_RESERVED,
                "shard {number}: of {seen} places in control's lane {:?} takes one",
                request.who
            );
            *seen = seen.saturating_sub(1);
        }
        if !self.pressure.is_on(at) {
            return Ok(Some(message));
        }
        if self.pressure.places == 0 {
            let site = &mut self.sites[usize::from(number)];
            site.shard.handle_untold(lane, message);
            self.wake_by(number, at + 1);
            return Ok(None);
        }
        self.pressure.places -= 1;
        Ok(Some(message))
    }

    pub(super) fn strangers_come(&mut self, shard: u16, count: u32, descriptors: u64) {
        if usize::from(shard) < self.sites.len() {
            self.pressure.descriptors = Some(descriptors);
            self.arrive(shard, Input::Strangers(count));
        }
    }

    /// Descriptors that the process could still open.
    pub(super) fn descriptors_left(&self) -> u64 {
        let all = self.pressure.descriptors.unwrap_or(DESCRIPTORS);
        let open = self.sites.iter();
        let open = open.map(|site| site.handles.len() + site.strangers.len());
        all.saturating_sub(open.sum::<usize>() as u64)
    }

    pub(super) fn accept_strangers(&mut self, number: u16, count: u32) {
        for stranger in 0..count {
            let arrival = Arrival {
                who: match stranger % 2 {
                    0 => Principal::Anonymous,
                    _ => Principal::Uid(STRANGER + stranger),
                },
                descriptors_left: self.descriptors_left(),
            };
            if arrival.descriptors_left == 0 {
                return;
            }
            let now = Instant::from_micros(self.now);
            let site = &mut self.sites[usize::from(number)];
            if let Ok(handle) = site.shard.handle_accepted(now, arrival) {
                site.strangers.insert(handle);
            }
        }
    }

    /// A client's connection was not taken: the operator's always is.
    pub(super) fn note_refused(&self, number: u16, arrival: Arrival) {
        let is_operator = arrival.who == Principal::Uid(OPERATOR);
        if is_operator || !self.pressure.had_strangers() {
            let port = self.sites[usize::from(number)].shard.port();
            port.broken(36, format!("shard {number}: {arrival:?} finds no place"));
        }
    }

    pub(super) fn close_stranger(&mut self, number: u16, handle: Handle<Connection>) {
        let site = &mut self.sites[usize::from(number)];
        if site.strangers.remove(&handle) {
            site.shard.handle_closed(handle);
        }
    }

    /// Those that say nothing have gone.
    pub(super) fn check_strangers(&self) -> Checked {
        for (number, site) in self.sites.iter().enumerate() {
            let left = site.strangers.len();
            ensure!(
                17,
                left == 0,
                "shard {number}: at rest {left} strangers are connected, who have asked for nothing"
            );
        }
        Ok(())
    }
}
