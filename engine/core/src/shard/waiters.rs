//! The end of a wait: the flight ended, the wait timed out, or the caller left.

use super::Shard;
use crate::action::{Outcome, Refusal, Token};
use crate::entry::{Key, REFERENCED, State, USED};
use crate::event::Event;
use crate::flight::{Flight, FlightOutcome, Place, Settled, Stage, Waiter, WaiterKind};
use crate::grant::Grant;
use crate::keyspace::Gate;
use crate::slots::At;
use crate::time::{Instant, TICK_US};

/// The hint for a key that was lost between the end of a wait and its use, in µs.
const GONE_AFTER_US: u64 = TICK_US;

impl<V> Shard<V> {
    /// Withdraws a request or force-refresh whose caller is gone. The flight continues without it. Has no effect on a
    /// token that does not wait.
    pub fn handle_waiter_gone(&mut self, _now: Instant, token: Token) {
        let Some(waiter_at) = self.group.find_waiter(token) else {
            return;
        };
        let waiter = self.group.leave(waiter_at);
        self.waits.cancel(waiter.timer);
        let counters = &mut self.keyspaces[waiter.keyspace_at].counters;
        match waiter.kind {
            WaiterKind::Request { .. } => {
                counters.singleflight_waiters -= 1;
                counters.abandoned_total += 1;
            }
            WaiterKind::Force => {
                counters.force_waiters -= 1;
                counters.force_abandoned_total += 1;
            }
            WaiterKind::Dek => counters.dek_waiters -= 1,
        }
    }

    /// Handles a waiter's timer: its budget is exhausted, or its deadline is (nearly) reached.
    pub(super) fn handle_waiter_timer(&mut self, now: Instant, waiter_at: At<Waiter>) {
        let flight_at = match self.group.waiters[waiter_at].place {
            Place::Present(flight) | Place::Next(flight) => flight,
            Place::Dek(_) => return self.group.is_late(waiter_at, None),
            Place::Late => unreachable!("its one timer has gone off before"),
        };
        if self.group.flights[flight_at].stage == Stage::Over {
            // Its flight ended in time: it is about to be answered.
            return;
        }
        if let WaiterKind::Request { budget_ends_at } = self.group.waiters[waiter_at].kind
            && now >= budget_ends_at
        {
            self.count_timeout(flight_at);
        }
        let entry = &self.entries[self.group.flights[flight_at].entry];
        let key = (entry.keyspace, entry.key_id.clone());
        self.group.is_late(waiter_at, Some(key));
    }

    fn count_timeout(&mut self, flight_at: At<Flight>) {
        let flight = &mut self.group.flights[flight_at];
        let waiters = flight.waiters.len();
        let reported = core::mem::replace(&mut flight.timeout_reported, true);
        let (at, keyspace_at) = (flight.entry, flight.keyspace_at);
        self.keyspaces[keyspace_at]
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

    /// Returns `true` if [`poll_ready`](Shard::poll_ready) has a result.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.group.has_settled()
    }

    /// Returns the next request or force-refresh whose wait has ended, and its result. Everything is checked at `now`, so
    /// read the clock for each: even the last waiter gets the key only if it has not expired in the meantime. Returning
    /// one at a time also means that no input, for example a load or a lock, takes longer the more requests wait for it.
    pub fn poll_ready(&mut self, now: Instant) -> Option<(Token, Outcome<'_, V>)> {
        let settled = match self.next_wanting(now) {
            Some(settled) => settled,
            None => self.group.next_settled()?,
        };
        self.waits.cancel(settled.waiter.timer);
        let token = settled.waiter.token;
        let outcome = match settled.waiter.kind {
            WaiterKind::Request { .. } => self.settle_request(now, &settled),
            WaiterKind::Force => self.settle_force(now, &settled),
            WaiterKind::Dek => self.settle_wanting(now, &settled.waiter),
        };
        Some((token, outcome))
    }

    fn find_settled(&self, settled: &Settled) -> Option<At<Key>> {
        let (keyspace, key_id) = settled.key.as_ref()?;
        self.find(*keyspace, key_id)
    }

    fn settle_request(&mut self, now: Instant, settled: &Settled) -> Outcome<'_, V> {
        let waiter = &settled.waiter;
        let keyspace_at = waiter.keyspace_at;
        let at = self.find_settled(settled);
        let overdue = waiter.deadline.is_some_and(|deadline| deadline <= now);
        let keyspace = &mut self.keyspaces[keyspace_at];
        keyspace.counters.singleflight_waiters -= 1;
        let served = at.filter(|_| !overdue).and_then(|at| {
            let grant = Grant::check(self.entries[at].live()?, &keyspace.terms, now)?;
            Some((at, grant.stale, grant.age_us))
        });
        let Some((at, stale, age_us)) = served else {
            let refusal = self.refusal_after_wait(now, at, overdue, settled);
            let counters = &mut self.keyspaces[keyspace_at].counters;
            counters.refused.count(refusal);
            return Outcome::Refuse(refusal);
        };
        match stale {
            false => keyspace.counters.ready_fresh_total += 1,
            true => keyspace.counters.ready_stale_total += 1,
        }
        keyspace.served(age_us);
        self.entries[at].touched = USED | REFERENCED;
        let terms = &self.keyspaces[keyspace_at].terms;
        let live = self.entries[at].live();
        let grant = live.and_then(|live| Grant::check(live, terms, now));
        Outcome::Serve(grant.expect("the same check at the same time"))
    }

    fn settle_force(&mut self, now: Instant, settled: &Settled) -> Outcome<'_, V> {
        let waiter = &settled.waiter;
        let counters = &mut self.keyspaces[waiter.keyspace_at].counters;
        counters.force_waiters -= 1;
        if let Some(FlightOutcome::Landed { version }) = settled.ending {
            counters.force_refreshed_total += 1;
            return Outcome::Refreshed { version };
        }
        counters.force_refused_total += 1;
        let overdue = waiter.deadline.is_some_and(|deadline| deadline <= now);
        let at = self.find_settled(settled);
        Outcome::Refuse(self.refusal_after_wait(now, at, overdue, settled))
    }

    /// Returns why a waiter gets no key. The flight's own result is returned only if it still applies: a put, a
    /// revocation, a lock or an unlock may have happened since.
    fn refusal_after_wait(
        &mut self,
        now: Instant,
        at: Option<At<Key>>,
        overdue: bool,
        settled: &Settled,
    ) -> Refusal {
        let keyspace_at = settled.waiter.keyspace_at;
        let ending = match settled.ending {
            _ if overdue => return Refusal::DeadlineExceeded,
            None => Some(Refusal::Retry {
                after_us: self.load_hint_us(keyspace_at),
            }),
            Some(FlightOutcome::Failed(refusal)) => Some(refusal),
            Some(FlightOutcome::Landed { .. }) => None,
        };
        let state = at.map(|at| &self.entries[at].state);
        if ending == Some(Refusal::Revoked) || matches!(state, Some(State::Revoked)) {
            return Refusal::Revoked;
        }
        let keyspace = &self.keyspaces[keyspace_at];
        let (is_open, has_lease) = (keyspace.gate == Gate::Open, keyspace.has_lease(now));
        match (ending, state) {
            _ if !is_open => self.needs_unlock(keyspace_at),
            (_, Some(State::Invalid { .. })) => Refusal::Invalid,
            (_, Some(State::Negative { until })) if now < *until => Refusal::NotFound,
            (Some(Refusal::NeedsUnlock { .. }) | None, _) if !has_lease => {
                self.needs_unlock(keyspace_at)
            }
            (Some(refusal), _) if refusal.is_passing() => refusal,
            _ => Refusal::Retry {
                after_us: GONE_AFTER_US,
            },
        }
    }
}
