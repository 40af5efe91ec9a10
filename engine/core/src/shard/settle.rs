//! The end of a wait: for those whose flight ended, whose time is up, or who left.

use super::Shard;
use super::flights::Ending;
use crate::action::{Action, Redeem, Refusal, Token};
use crate::entry::{REFERENCED, USED};
use crate::event::Event;
use crate::flight::{Waiter, WaiterKind};
use crate::grant::Grant;
use crate::time::Instant;

impl<V> Shard<V> {
    /// The caller of a request or force-refresh is gone. The flight goes on without it. Without
    /// effect on a token that does not wait.
    pub fn handle_waiter_gone(&mut self, _now: Instant, token: Token) {
        let Some(waiter_at) = self.group.find_waiter(token) else {
            return;
        };
        let waiter = self.group.leave(waiter_at);
        self.clocks.cancel(waiter.timer);
        let counters = &mut self.keyspaces[waiter.keyspace_at as usize].counters;
        match waiter.kind {
            WaiterKind::Request { .. } => {
                counters.singleflight_waiters -= 1;
                counters.abandoned_total += 1;
            }
            WaiterKind::Force => {
                counters.force_waiters -= 1;
                counters.force_abandoned_total += 1;
            }
        }
    }

    /// A waiter's timer went off: its budget is used up, or its deadline is (nearly) here.
    pub(super) fn handle_waited(&mut self, now: Instant, waiter_at: u32) {
        let flight_at = self.group.waiters[waiter_at].flight;
        let at = self.group.flights[flight_at].entry;
        let keyspace_at = self.group.flights[flight_at].keyspace_at;
        if let WaiterKind::Request { budget_ends_at } = self.group.waiters[waiter_at].kind
            && now >= budget_ends_at
        {
            self.count_timeout(flight_at);
        }
        let waiter = self.group.leave(waiter_at);
        let after_us = self.load_hint_us(keyspace_at);
        self.settle(now, at, waiter, Ending::Failed(Refusal::Retry { after_us }));
    }

    fn count_timeout(&mut self, flight_at: u32) {
        let flight = &mut self.group.flights[flight_at];
        let waiters = flight.waiters.len();
        let reported = core::mem::replace(&mut flight.timeout_reported, true);
        let (at, keyspace_at) = (flight.entry, flight.keyspace_at);
        self.keyspaces[keyspace_at as usize]
            .counters
            .singleflight_wait_timeout_total += 1;
        if !reported {
            let entry = &self.entries[at];
            let (keyspace, key_id) = (entry.keyspace, entry.key_id.clone());
            self.report(Event::WaitTimeout {
                keyspace,
                key_id,
                waiters,
            });
        }
    }

    /// Answers one who has left its flight, and whose timer is gone.
    pub(super) fn settle(&mut self, now: Instant, at: u32, waiter: Waiter, ending: Ending) {
        match waiter.kind {
            WaiterKind::Request { .. } => self.settle_request(now, at, &waiter, ending),
            WaiterKind::Force => self.settle_force(now, at, &waiter, ending),
        }
    }

    fn settle_request(&mut self, now: Instant, at: u32, waiter: &Waiter, ending: Ending) {
        let token = waiter.token;
        let entry = &mut self.entries[at];
        let keyspace = &mut self.keyspaces[waiter.keyspace_at as usize];
        let counters = &mut keyspace.counters;
        counters.singleflight_waiters -= 1;
        let overdue = waiter.deadline.is_some_and(|deadline| deadline <= now);
        let stale = entry
            .live()
            .and_then(|live| Grant::check(live, &keyspace.terms, now))
            .map(|grant| grant.stale);
        let action = match (overdue, stale, ending) {
            (false, Some(stale), _) => {
                match stale {
                    false => counters.ready_fresh_total += 1,
                    true => counters.ready_stale_total += 1,
                }
                entry.touched = USED | REFERENCED;
                let redeem = Redeem {
                    deadline: waiter.deadline,
                };
                let key_id = entry.key_id.clone();
                Action::Ready {
                    token,
                    keyspace: entry.keyspace,
                    key_id,
                    redeem,
                }
            }
            (overdue, _, ending) => {
                let refusal = match ending {
                    _ if overdue => Refusal::DeadlineExceeded,
                    Ending::Failed(refusal) => refusal,
                    Ending::Landed { .. } => {
                        unreachable!("what has just landed passed the same check")
                    }
                };
                counters.refused.count(refusal);
                Action::Refuse { token, refusal }
            }
        };
        self.actions.push_back(action);
    }

    fn settle_force(&mut self, now: Instant, at: u32, waiter: &Waiter, ending: Ending) {
        let token = waiter.token;
        let counters = &mut self.keyspace_of(at).counters;
        counters.force_waiters -= 1;
        let action = match ending {
            Ending::Landed { version } => {
                counters.force_refreshed_total += 1;
                Action::Refreshed { token, version }
            }
            Ending::Failed(refusal) => {
                counters.force_refused_total += 1;
                let overdue = waiter.deadline.is_some_and(|deadline| deadline <= now);
                let refusal = if overdue {
                    Refusal::DeadlineExceeded
                } else {
                    refusal
                };
                Action::Refuse { token, refusal }
            }
        };
        self.actions.push_back(action);
    }
}
