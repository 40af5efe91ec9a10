//! Writes that need a DEK: they request it and wait for it here.
//!
//! One unwrap request serves all waiters, requests and writes alike. An outage of the KMS does not end a write's wait:
//! the request is repeated after its backoff. Only the DEK, a lock, a denial or the write's own time limit ends it.

use super::Shard;
use super::request::OVERLOADED_AFTER_US;
use crate::action::{DekRequest, DekVerdict, Outcome, Refusal};
use crate::flight::{Place, Settled, Waiter, WaiterKind};
use crate::keyspace::{Gate, Keyspace};
use crate::slots::At;
use crate::time::Instant;

/// The hint for a write that timed out before the DEK arrived, in µs.
const NO_DEK_AFTER_US: u64 = 1_000_000;

impl<V> Shard<V> {
    /// Handles a write that needs the keyspace's DEK. Requests an unwrap if it is not available. The write continues at
    /// [`DekVerdict::Ready`], or when [`poll_ready`](Shard::poll_ready) has returned its token with [`Outcome::Dek`].
    pub fn handle_wanted(&mut self, now: Instant, request: DekRequest) -> DekVerdict {
        let Some(at) = self.keyspace_at(request.keyspace) else {
            self.totals.no_keyspace_total += 1;
            return DekVerdict::Refuse(Refusal::NoKeyspace);
        };
        let keyspace = &mut self.keyspaces[at];
        keyspace.counters.dek_requests_total += 1;
        keyspace.seal_generation = keyspace.seal_generation.max(request.generation);
        let deadline = request.deadline.unwrap_or(Instant::MAX);
        if deadline <= now {
            return DekVerdict::Refuse(Refusal::DeadlineExceeded);
        }
        if keyspace.gate != Gate::Open {
            return DekVerdict::Refuse(self.needs_unlock(at));
        }
        if keyspace.can_seal(now) {
            return DekVerdict::Ready;
        }
        if !self.has_room_for_waiter() {
            return DekVerdict::Refuse(Refusal::Overloaded {
                after_us: OVERLOADED_AFTER_US,
            });
        }
        let until = now.plus_us(request.wait_us).min(deadline);
        let kind = WaiterKind::Dek;
        self.wait(Place::Dek(at), request.token, kind, request.deadline, until);
        self.keyspaces[at].counters.dek_waiters += 1;
        self.ask_for_waiting(now, at);
        self.arm_alarm(now, at);
        DekVerdict::Wait
    }

    /// Requests an unwrap for waiters whose DEK is not available, unless that has to be delayed.
    pub(super) fn ask_for_waiting(&mut self, now: Instant, at: At<Keyspace>) {
        let keyspace = &self.keyspaces[at];
        let is_missing = self.group.is_dek_wanted(at) && !keyspace.can_seal(now);
        if is_missing && keyspace.lease.may_ask_for_waiting(now) {
            self.request_unwrap(now, at);
        }
    }

    /// Returns the next waiter for a DEK that has arrived, or will not.
    pub(super) fn next_wanting(&mut self, now: Instant) -> Option<Settled> {
        while let Some(at) = self.group.first_answered() {
            let keyspace = &self.keyspaces[at];
            if keyspace.gate == Gate::Open && !keyspace.can_seal(now) {
                // It expired again, or has an older generation: the next tick determines whether to repeat the request.
                self.group.wait_on(at);
                self.arm_alarm(now, at);
                continue;
            }
            return self.group.next_wanting(at);
        }
        None
    }

    pub(super) fn settle_wanting(&mut self, now: Instant, waiter: &Waiter) -> Outcome<'_, V> {
        let at = waiter.keyspace_at;
        let keyspace = &mut self.keyspaces[at];
        keyspace.counters.dek_waiters -= 1;
        if waiter.deadline.is_some_and(|deadline| deadline <= now) {
            return Outcome::Refuse(Refusal::DeadlineExceeded);
        }
        if keyspace.gate != Gate::Open {
            return Outcome::Refuse(self.needs_unlock(at));
        }
        match keyspace.can_seal(now) {
            true => Outcome::Dek,
            false => Outcome::Refuse(Refusal::Unavailable {
                after_us: NO_DEK_AFTER_US,
            }),
        }
    }
}
