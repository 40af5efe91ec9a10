//! Requests: served from memory, waiting, or refused.

use super::{Shard, WaitTimer};
use crate::action::{Refusal, Request, Token, Verdict};
use crate::entry::{CorruptRetry, Key, REFERENCED, State, USED};
use crate::flight::{Flight, Origin, Place, Stage, WaiterKind};
use crate::grant::Grant;
use crate::keyspace::{Gate, Keyspace};
use crate::settings::OnSoftExpiry;
use crate::slots::At;
use crate::time::{Instant, TICK_US};

/// How long before the request's deadline a wait ends if a stale key is available, in µs: two ticks, so that the answer
/// is still in time.
const DEADLINE_MARGIN_US: u64 = 2 * TICK_US;
/// The hint returned with OVERLOADED, in µs.
pub(super) const OVERLOADED_AFTER_US: u64 = 5_000;

/// A verdict that does not borrow the key yet.
enum Decision {
    Serve { at: At<Key> },
    Wait,
    Refuse(Refusal),
}

impl<V> Shard<V> {
    /// Handles an operation that needs a key. A fresh key costs one hash lookup: no allocation, no timer.
    #[inline]
    pub fn handle_request(&mut self, now: Instant, request: Request<'_>) -> Verdict<'_, V> {
        match self.decide(now, &request) {
            Decision::Serve { at } => {
                let entry = &self.entries[at];
                let terms = &self.keyspaces[entry.keyspace_at].terms;
                let grant = entry.live().and_then(|live| Grant::check(live, terms, now));
                Verdict::Serve(grant.expect("decided by the same check at the same time"))
            }
            Decision::Wait => Verdict::Wait,
            Decision::Refuse(refusal) => Verdict::Refuse(refusal),
        }
    }

    #[inline]
    fn decide(&mut self, now: Instant, request: &Request<'_>) -> Decision {
        let Some(at) = self.find(request.keyspace, request.key_id) else {
            return self.decide_miss(now, request);
        };
        let entry = &mut self.entries[at];
        let keyspace = &mut self.keyspaces[entry.keyspace_at];
        keyspace.counters.requests_total += 1;
        if is_overdue(now, request) {
            return self.refuse(self.entries[at].keyspace_at, Refusal::DeadlineExceeded);
        }
        if let State::Live(live) = &entry.state
            && let Some(grant) = Grant::check(live, &keyspace.terms, now)
        {
            let (stale, age_us) = (grant.stale, grant.age_us);
            entry.touched = USED | REFERENCED;
            entry.uses = entry.uses.saturating_add(1);
            if stale {
                return self.decide_stale(now, at, age_us, request);
            }
            keyspace.served(age_us);
            keyspace.counters.hits_total += 1;
            keyspace.counters.hits_fresh_total += 1;
            return Decision::Serve { at };
        }
        let keyspace_at = entry.keyspace_at;
        if entry.live().is_some() {
            self.expire(at);
        }
        match self.wait_for_key(now, keyspace_at, Some(at), request) {
            Ok(()) => Decision::Wait,
            Err(refusal) => {
                if matches!(self.entries[at].state, State::Empty) {
                    self.update_schedule(now, at);
                }
                self.refuse(keyspace_at, refusal)
            }
        }
    }

    #[cold]
    fn decide_miss(&mut self, now: Instant, request: &Request<'_>) -> Decision {
        let Some(keyspace_at) = self.keyspace_at(request.keyspace) else {
            self.totals.no_keyspace_total += 1;
            return Decision::Refuse(Refusal::NoKeyspace);
        };
        self.keyspaces[keyspace_at].counters.requests_total += 1;
        if is_overdue(now, request) {
            return self.refuse(keyspace_at, Refusal::DeadlineExceeded);
        }
        match self.wait_for_key(now, keyspace_at, None, request) {
            Ok(()) => Decision::Wait,
            Err(refusal) => self.refuse(keyspace_at, refusal),
        }
    }

    fn refuse(&mut self, keyspace_at: At<Keyspace>, refusal: Refusal) -> Decision {
        let counters = &mut self.keyspaces[keyspace_at].counters;
        counters.misses_total += 1;
        counters.refused.count(refusal);
        Decision::Refuse(refusal)
    }

    /// Decides on a stale key: waits for a newer one if the policy requires it and waiting can help.
    fn decide_stale(
        &mut self,
        now: Instant,
        at: At<Key>,
        age_us: u64,
        request: &Request<'_>,
    ) -> Decision {
        let flight = self.refresh_stale(now, at);
        let keyspace = &mut self.keyspaces[self.entries[at].keyspace_at];
        let budget_us = keyspace.settings.sign_wait_budget_us;
        let budget_ends_at = now.plus_us(budget_us);
        let deadline = request.deadline.unwrap_or(Instant::MAX);
        let until = budget_ends_at.min(deadline.minus_us(DEADLINE_MARGIN_US));
        if let Some(flight) = flight
            && keyspace.settings.on_soft_expiry == OnSoftExpiry::Wait
            && until > now
            && self.group.waiters.len() < self.limits.waiters_max
            && (self.group.flights[flight].stage != Stage::AwaitingDek
                || keyspace.lease.can_unwrap_within(now, budget_us))
        {
            self.join(flight, request, budget_ends_at, until);
            return Decision::Wait;
        }
        keyspace.served(age_us);
        keyspace.counters.hits_total += 1;
        keyspace.counters.hits_stale_total += 1;
        Decision::Serve { at }
    }

    /// Returns the flight that refreshes a stale key, starting it if necessary, or `None` in backoff, or if there is no
    /// capacity.
    fn refresh_stale(&mut self, now: Instant, at: At<Key>) -> Option<At<Flight>> {
        let entry = &self.entries[at];
        if entry.flight.is_some() {
            return entry.flight;
        }
        let may_start = entry.backoff.left_us(now).is_none() && self.has_room_for_flight();
        may_start.then(|| self.start_flight(now, at, Origin::Demand))
    }

    /// Joins the flight that will load the key, or returns the refusal, since no key can be served.
    fn wait_for_key(
        &mut self,
        now: Instant,
        keyspace_at: At<Keyspace>,
        at: Option<At<Key>>,
        request: &Request<'_>,
    ) -> Result<(), Refusal> {
        self.known_answer(now, keyspace_at, at)?;
        let deadline = request.deadline.unwrap_or(Instant::MAX);
        let budget_us = self.keyspaces[keyspace_at].settings.sign_wait_budget_us;
        let budget_ends_at = now.plus_us(budget_us);
        let until = budget_ends_at.min(deadline);
        self.ensure_dek(now, keyspace_at, until.saturating_since(now))?;
        let flight = at.and_then(|at| self.entries[at].flight);
        if let (Some(at), None) = (at, flight)
            && let Some(after_us) = self.entries[at].backoff.left_us(now)
        {
            return Err(Refusal::Retry { after_us });
        }
        let overloaded = Refusal::Overloaded {
            after_us: OVERLOADED_AFTER_US,
        };
        if !self.has_room_for_waiter() {
            return Err(overloaded);
        }
        let flight = match flight {
            Some(flight) => flight,
            None if !self.has_room_for_flight() => return Err(overloaded),
            None => {
                let at = self
                    .find_or_create(now, keyspace_at, request.key_id)
                    .ok_or(overloaded)?;
                self.start_flight(now, at, Origin::Demand)
            }
        };
        if until <= now {
            return Err(Refusal::Retry {
                after_us: self.load_hint_us(keyspace_at),
            });
        }
        self.join(flight, request, budget_ends_at, until);
        Ok(())
    }

    /// Returns the answer, if it is known without a load.
    fn known_answer(
        &mut self,
        now: Instant,
        keyspace_at: At<Keyspace>,
        at: Option<At<Key>>,
    ) -> Result<(), Refusal> {
        let state = at.map(|at| &self.entries[at].state);
        if matches!(state, Some(State::Revoked)) {
            return Err(Refusal::Revoked);
        }
        let keyspace = &self.keyspaces[keyspace_at];
        if keyspace.gate != Gate::Open {
            return Err(self.needs_unlock(keyspace_at));
        }
        match (at, state) {
            (_, Some(State::Negative { until })) if now < *until => Err(Refusal::NotFound),
            (Some(at), Some(State::Negative { .. })) => {
                self.become_empty(at);
                Ok(())
            }
            (Some(at), Some(State::Invalid { reread, .. })) => {
                if *reread == CorruptRetry::Due {
                    self.read_again(now, at);
                }
                Err(Refusal::Invalid)
            }
            _ => Ok(()),
        }
    }

    fn join(
        &mut self,
        flight: At<Flight>,
        request: &Request<'_>,
        budget_ends_at: Instant,
        until: Instant,
    ) {
        let kind = WaiterKind::Request { budget_ends_at };
        let (token, deadline) = (request.token, request.deadline);
        self.wait(Place::Present(flight), token, kind, deadline, until);
        let keyspace_at = self.group.flights[flight].keyspace_at;
        let counters = &mut self.keyspaces[keyspace_at].counters;
        counters.misses_total += 1;
        counters.singleflight_waiters += 1;
    }

    pub(super) fn wait(
        &mut self,
        place: Place,
        token: Token,
        kind: WaiterKind,
        deadline: Option<Instant>,
        until: Instant,
    ) {
        let waits = &mut self.waits;
        let timer = |waiter| waits.arm(until, WaitTimer::Waiter(waiter));
        self.group.join(place, token, kind, deadline, timer);
    }
}

fn is_overdue(now: Instant, request: &Request<'_>) -> bool {
    request.deadline.is_some_and(|deadline| deadline <= now)
}
