//! What the core wants done, and the loads that it asks for.

use std::collections::VecDeque;
use std::rc::Rc;

use keyway_core::{
    Action, FlightId, Instant, KeyId, KeyspaceId, LeaseEvent, Redeem, Token, Urgency,
};
use keyway_protocol::{Request, ResponseHead};

use super::Shard;
use super::request::{Asked, Waiting, Wish};
use super::turn::Turn;
use crate::clock;
use crate::control::messages::ControlRequest;
use crate::rehydrator::{PREFETCH_READS_MAX, READS_MAX, ReadSlot};
use crate::runtime::tasks;

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
                Action::Ready {
                    token,
                    keyspace,
                    key_id,
                    redeem,
                } => {
                    self.ready(turn, token, keyspace, &key_id, redeem);
                }
                Action::Refreshed { token, version } => {
                    if let Some(waiting) = self.take(token) {
                        self.refreshed(waiting, version);
                    }
                }
                Action::Refuse { token, refusal } => {
                    if let Some(waiting) = self.take(token) {
                        self.refuse_as(waiting.responder, refusal);
                    }
                }
                Action::Report(event) => self.report(now, &event),
            }
        }
        self.start_loads();
    }

    fn take(&self, token: Token) -> Option<Waiting> {
        self.waiting.take(token.0)
    }

    /// The wait of a request is over: carry it out, if the right to it is still there.
    fn ready(
        &self,
        turn: &Turn,
        token: Token,
        keyspace: KeyspaceId,
        key_id: &KeyId,
        redeem: Redeem,
    ) {
        let Some(Waiting {
            responder,
            permit,
            wish: Wish::Operation { held, deadline },
        }) = self.take(token)
        else {
            return;
        };
        let allowed = match self.allow(turn, permit) {
            Ok(allowed) => allowed,
            Err((status, explanation)) => return self.refuse(responder, status, explanation),
        };
        let asked = Asked {
            responder,
            allowed,
            deadline,
        };
        let mut core = self.core.borrow_mut();
        match core.redeem(turn.next_unit(), keyspace, key_id, redeem) {
            Ok(grant) => {
                let Some(frame) = held.frame() else { return };
                // It was decoded when it came.
                if let Ok(request) = Request::decode(&frame) {
                    self.carry_out(turn, asked, &frame, &request, &grant);
                }
            }
            Err(refusal) => {
                drop(core);
                self.refuse_as(asked.responder, refusal);
            }
        }
    }

    fn refreshed(&self, waiting: Waiting, version: u32) {
        if let Err((status, explanation)) = self.recheck(waiting.permit) {
            return self.refuse(waiting.responder, status, explanation);
        }
        self.answer(waiting.responder, |_| {
            Ok(ResponseHead {
                key_version: version,
                ..ResponseHead::OK
            })
        });
    }

    fn ask_for_dek(&self, now: Instant, keyspace: KeyspaceId) {
        let request = ControlRequest::Unwrap {
            keyspace: keyspace.0,
        };
        if self.control.try_send(request).is_err() {
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
        let loaded = self
            .rehydrator
            .load(load.keyspace.0, &load.key_id, clock::now())
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
