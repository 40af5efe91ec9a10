//! A turn: a bounded piece of work, between two polls of I/O.
//!
//! The tick comes first, if it is due, then emergencies. Only when all of them are in force, what is left of the turn is shared
//! out among the other classes of work: while some are left, turns do nothing else. What a turn has to leave stays where it
//! is, and I/O is polled before the next one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use keyway_core::{Action, Instant, KeyspaceId, LeaseEvent};

use super::Shard;
use super::effect::{Done, Effect, TaskId};
use super::inbox::{Class, Rota};
use super::loads::QueuedLoad;
use super::permit::TurnScope;
use super::port::Port;
use super::report::Report;
use super::responder::To;
use super::tasks::Task;
use crate::messages::{ToControl, ToPeer, ToShard};

/// What a turn left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to do: poll I/O, then take another one.
    More,
    /// There is nothing to do before that time, or an input.
    Idle {
        /// When the next tick is due.
        until: Instant,
    },
}

impl<P: Port> Shard<P> {
    /// Does what is to be done, as long as a turn lasts. Drain [`Shard::poll_effect`] afterwards.
    pub fn turn(&mut self) -> Turn {
        let scope = TurnScope::begin();
        self.timed.begin();
        self.out.effects.retry();
        self.tick_if_due();
        let more = match self.obey_emergencies() {
            true => {
                let more = self.share_out(&scope);
                self.unit(Self::pump);
                more
            }
            // Nothing is served by what one of the others may have ended.
            false => true,
        };
        for shard in self.out.forwarder.waiting().collect::<Vec<_>>() {
            self.out.push(Effect::Batch(shard));
        }
        match more && !self.core.is_broken() {
            true => Turn::More,
            false => Turn::Idle {
                until: self.upkeep.tick_at,
            },
        }
    }

    /// Does one unit of work. A panic ends that unit alone; one in the core ends the shard's work.
    pub(super) fn unit(&mut self, work: impl FnOnce(&mut Self)) {
        if self.core.is_broken() {
            return;
        }
        self.timed.next_unit();
        if catch_unwind(AssertUnwindSafe(|| work(self))).is_err() {
            self.out.panics_total += 1;
            let report = match self.core.is_broken() {
                true => Report::CorePanicked,
                false => Report::HandlerPanicked,
            };
            self.out.report(report);
        }
        self.out.answer_orphans();
        self.timed.end_unit();
    }

    /// Obeys emergencies as long as a turn lasts, one at least. Returns whether all are in force.
    fn obey_emergencies(&mut self) -> bool {
        while let Some(order) = self.inbox.emergencies.pop_front() {
            self.unit(|shard| shard.obey_whole(order));
            if self.timed.is_over() && !self.core.is_broken() {
                break;
            }
        }
        self.inbox.emergencies.is_empty()
    }

    /// Shares what is left of a turn out among the classes of work. Returns whether some work is left.
    fn share_out(&mut self, scope: &TurnScope) -> bool {
        let mut idle = 0;
        while idle < Rota::LEN && !self.core.is_broken() {
            if self.timed.is_over() {
                return true;
            }
            let (class, credit_us) = self.upkeep.rota.begin();
            let began_at = self.timed.now();
            let until = began_at.plus_us(u64::try_from(credit_us).unwrap_or(0));
            idle += 1;
            while self.has_work(class)
                && self.timed.now() < until
                && !self.timed.is_over()
                && !self.core.is_broken()
            {
                self.serve(class, scope, until);
                idle = 0;
            }
            let is_empty = !self.has_work(class);
            if !is_empty {
                idle = 0;
            }
            let worked_us = self.timed.now().saturating_since(began_at);
            self.upkeep.rota.end(class, worked_us, is_empty);
        }
        self.slow.len() > 0
    }

    fn has_work(&self, class: Class) -> bool {
        match class {
            Class::Overdue => self.jobs.may_have_due(),
            Class::Closed => !self.inbox.closed.is_empty(),
            Class::Untold => !self.inbox.untold.is_empty(),
            Class::Orders => !self.inbox.orders.is_empty(),
            Class::Done => !self.inbox.done.is_empty(),
            Class::Settled => !self.core.is_broken() && self.core.view().has_ready(),
            Class::Peers => self.inbox.has_peers(),
            Class::Connections => self.out.connections.has_ready(),
            Class::Slow => self.upkeep.has_rested && self.slow.len() > 0,
        }
    }

    fn serve(&mut self, class: Class, scope: &TurnScope, until: Instant) {
        match class {
            Class::Overdue => {
                if let Some(at) = self.jobs.next_due(self.timed.now()) {
                    self.unit(|shard| shard.end_overdue(at));
                }
            }
            Class::Closed => self.unit(Self::forget_next),
            Class::Untold => {
                if let Some((lane, message)) = self.inbox.untold.pop_front() {
                    self.unit(|shard| shard.take_back(lane, message));
                }
            }
            Class::Orders => {
                if let Some(order) = self.inbox.orders.pop_front() {
                    self.unit(|shard| shard.obey_whole(order));
                }
            }
            Class::Done => {
                if let Some((task, done)) = self.inbox.done.pop_front() {
                    self.unit(|shard| shard.take_done(scope, task, done));
                }
            }
            Class::Settled => self.unit(|shard| shard.serve_one_settled(scope)),
            Class::Peers => {
                if let Some((from, message)) = self.inbox.next_of_peers() {
                    self.unit(|shard| shard.take_of_peer(scope, from, message));
                }
            }
            Class::Connections => self.run_connection(scope, until),
            Class::Slow => {
                self.upkeep.has_rested = false;
                self.unit(|shard| shard.serve_one_slow(scope));
            }
        }
    }

    fn take_done(&mut self, scope: &TurnScope, task: TaskId, done: Done) {
        match self.tasks.end(task) {
            None => {}
            Some(Task::Load(load)) => {
                let found = match done {
                    Done::Read(found) => Some(found),
                    _ => None,
                };
                self.land(load, found);
            }
            Some(Task::Pass(pass)) => self.go_on_pass(pass, done),
            Some(Task::Job(job)) => match done {
                Done::Reserved(reserved) => self.go_on_reserved(scope, job, reserved),
                Done::Listed(page) => self.show_page(job, page),
                Done::Lost => self.lose_step(scope, job),
                done => self.go_on_writing(job, done),
            },
        }
        self.confirm_floors();
    }

    fn take_of_peer(&mut self, scope: &TurnScope, from: u16, message: ToPeer) {
        match message {
            ToPeer::Forward {
                token,
                who,
                deadline,
                lane: _,
                frame,
            } => {
                self.upkeep.counts.forwards_in_total += 1;
                let frame = zeroize::Zeroizing::new(frame);
                // It was decoded by the sender; the bytes are the same.
                let Ok(Some((frame, _))) = keyway_protocol::RequestFrame::decode(&frame) else {
                    return;
                };
                let responder = self.responder_of(To::Peer { shard: from, token }, &frame);
                self.handle_frame(scope, responder, who, &frame, deadline);
            }
            ToPeer::Reply {
                token,
                good_until,
                frame,
            } => self.relay_reply(token, good_until, frame),
        }
    }

    /// Takes back what control had no room for. What can be asked for again is not kept.
    fn take_back(&mut self, lane: crate::messages::Lane, message: ToControl) {
        let now = self.timed.now();
        match message {
            ToControl::Request(request) => self.refuse_command(request.token),
            ToControl::Unwrap { keyspace } => {
                let event = LeaseEvent::Unavailable {
                    retry_after_us: 100_000,
                };
                self.core
                    .call(|core| core.handle_lease(now, KeyspaceId(keyspace), event));
            }
            ToControl::Revive { .. } | ToControl::Hottest { .. } => {}
            message => self.out.effects.untold(lane, message),
        }
    }

    /// Carries out an order, and what the core does about it: what it wants dropped is dropped before the next order
    /// brings something new.
    fn obey_whole(&mut self, order: ToShard) {
        self.obey(order);
        self.carry_out_actions();
    }

    /// Carries out the core's actions, and starts loads.
    fn pump(&mut self) {
        self.carry_out_actions();
        self.start_loads();
        self.confirm_floors();
    }

    fn carry_out_actions(&mut self) {
        let now = self.timed.now();
        while let Some(action) = self.core.call(|core| core.poll_action()) {
            match action {
                Action::Load {
                    flight,
                    keyspace,
                    key_id,
                    urgency,
                } => {
                    let load = QueuedLoad {
                        flight,
                        keyspace,
                        key_id,
                        asked_at: now,
                    };
                    self.loads.push(urgency, load);
                }
                Action::Unwrap { keyspace } => {
                    let keyspace = keyspace.0;
                    self.out.tell_control(ToControl::Unwrap { keyspace });
                }
                Action::DropDek { keyspace } => self.shelf.drop_all(keyspace.0),
                Action::Report(event) => self.report_core(event),
            }
        }
    }

    fn report_core(&mut self, event: keyway_core::Event) {
        use keyway_core::Event;
        let cause = match &event {
            Event::WaitTimeout {
                keyspace, key_id, ..
            } => match (
                self.shelf.has_dek(keyspace.0),
                self.loads.holds(*keyspace, key_id),
            ) {
                (false, _) => "dek_missing",
                (true, true) => "read_queued",
                (true, false) => "read_slow",
            },
            Event::KeyInvalid { keyspace, .. } => match self.shelf.has_dek(keyspace.0) {
                true => "held",
                false => "missing",
            },
            Event::KeyspaceDenied {
                keyspace, ticket, ..
            } => {
                // What callers are given from now on.
                if let Some(at) = self.governed.find(keyspace.0) {
                    self.governed[at].needs_unlock(*ticket);
                }
                ""
            }
            _ => "",
        };
        self.out.report(Report::Core { event, cause });
    }
}
