//! What the core wants done, and the loads that it asks for.

use std::collections::VecDeque;
use std::rc::Rc;

use keyway_core::{Action, FlightId, Instant, KeyId, KeyspaceId, LeaseEvent, Urgency};

use super::Shard;
use super::turn::Turn;
use crate::clock;
use crate::rehydrator::{PREFETCH_READS_MAX, READS_MAX, ReadSlot};
use crate::runtime::tasks;
use keyway_node::messages::{Lane, ToControl};

impl Shard {
    /// Carries out the core's actions.
    pub(super) fn pump(self: &Rc<Self>, turn: &Turn) {
        let now = turn.now();
        loop {
            let action = self.core.borrow_mut().poll_action();
            let Some(action) = action else { break };
            match action {
                Action::Load {
                    flight,
                    keyspace,
                    key_id,
                    urgency,
                } => {
                    let asked_at = quanta::Instant::now();
                    let load = QueuedLoad {
                        flight,
                        keyspace,
                        key_id,
                        asked_at,
                    };
                    self.loads.borrow_mut().push(urgency, load);
                }
                Action::Unwrap { keyspace } => self.ask_for_dek(now, keyspace),
                Action::DropDek { keyspace } => self.rehydrator.drop_deks(keyspace.0),
                Action::Report(event) => self.report(now, &event),
            }
        }
        self.start_loads();
    }

    fn ask_for_dek(&self, now: Instant, keyspace: KeyspaceId) {
        let request = ToControl::Unwrap {
            keyspace: keyspace.0,
        };
        if !self.control.offer(Lane::Ordinary, request) {
            let event = LeaseEvent::Unavailable {
                retry_after_us: 100_000,
            };
            self.core.borrow_mut().handle_lease(now, keyspace, event);
        }
    }

    /// Starts queued loads while there are read slots; those that somebody waits for go first.
    fn start_loads(self: &Rc<Self>) {
        while let Some(load) = self.loads.borrow_mut().pop(self.rehydrator.reads()) {
            // Counted here: the task itself begins later.
            let slot = self.rehydrator.take_read_slot();
            tasks::spawn(Rc::clone(self).load(load, slot));
        }
    }

    async fn load(self: Rc<Self>, load: QueuedLoad, slot: ReadSlot) {
        let began = quanta::Instant::now();
        let queued_ns = began.duration_since(load.asked_at).as_nanos() as u64;
        self.figures.load_wait.borrow_mut().record_ns(queued_ns);
        let began_at = clock::now();
        if !self.core.borrow_mut().begin_load(began_at, load.flight) {
            // Its flight is over: what the load would bring is not wanted any more. Its read slot is another's.
            drop(slot);
            return self.start_loads();
        }
        let loaded = self
            .rehydrator
            .load(load.keyspace.0, &load.key_id, began_at)
            .await;
        drop(slot);
        let turn = self.begin_turn();
        if let Some(known) = self.keyspaces.borrow_mut().of_mut(load.keyspace.0) {
            let took = began.elapsed();
            known.rehydrate_latency.record_ns(took.as_nanos() as u64);
            let took_us = took.as_micros() as u64;
            known.tally.load(turn.now(), &load.key_id, took_us.max(1));
        }
        self.core
            .borrow_mut()
            .handle_loaded(turn.now(), load.flight, loaded);
        self.end_turn(turn);
    }
}

/// A load that waits for a read slot.
pub struct QueuedLoad {
    flight: FlightId,
    keyspace: KeyspaceId,
    key_id: KeyId,
    asked_at: quanta::Instant,
}

/// Loads that wait for a read slot, by urgency. Bounded by the core's flights.
#[derive(Default)]
pub struct LoadQueue {
    on_demand: VecDeque<QueuedLoad>,
    urgent: VecDeque<QueuedLoad>,
    ahead: VecDeque<QueuedLoad>,
}

impl LoadQueue {
    /// Loads in the queue.
    pub fn len(&self) -> usize {
        self.on_demand.len() + self.urgent.len() + self.ahead.len()
    }

    /// Whether the load of a key waits for a read slot.
    pub fn holds(&self, keyspace: KeyspaceId, key_id: &[u8]) -> bool {
        let mut all = self.on_demand.iter().chain(&self.urgent).chain(&self.ahead);
        all.any(|load| load.keyspace == keyspace && *load.key_id == *key_id)
    }

    fn push(&mut self, urgency: Urgency, load: QueuedLoad) {
        match urgency {
            Urgency::OnDemand => self.on_demand.push_back(load),
            Urgency::Urgent => self.urgent.push_back(load),
            Urgency::Ahead => self.ahead.push_back(load),
        }
    }

    /// The next load that may start while `reads` are under way. Those that nobody waits for
    /// leave slots free for those that somebody does.
    fn pop(&mut self, reads: usize) -> Option<QueuedLoad> {
        if reads >= READS_MAX {
            return None;
        }
        if let Some(load) = self.on_demand.pop_front() {
            return Some(load);
        }
        if reads >= PREFETCH_READS_MAX {
            return None;
        }
        self.urgent.pop_front().or_else(|| self.ahead.pop_front())
    }
}
