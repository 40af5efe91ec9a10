//! ForceRefresh: a load that began after the call, whatever is in memory.
//!
//! There is also one flight per key here. A force-refresh joins a load that has not begun to read. One that finds a load
//! in flight which began before the call waits for the next one: the flight's result is accepted as usual (no client has
//! been told of newer data at that time), its waiters are served, and the next load starts immediately. So no two loads
//! of one key run at a time, a hung load delays the next until its time limit at most, and the older result is replaced
//! before [`Action::Refreshed`](crate::Action::Refreshed) reports the refresh.

use super::Shard;
use super::request::OVERLOADED_AFTER_US;
use crate::action::{Admission, KeyspaceId, Refusal, Token};
use crate::flight::{Origin, Place, Stage, WaiterKind};
use crate::keyspace::{Gate, Keyspace};
use crate::slots::At;
use crate::time::Instant;

/// Most flights that a force-refresh waits for: the one in flight, its own, and one more if a put supersedes it.
const FLIGHTS_PER_FORCE: u64 = 3;

impl<V> Shard<V> {
    /// Loads a key again, whether it is in memory or not. The value in memory is served until then. Waits until its own
    /// deadline, or for the time limit of three flights.
    pub fn handle_force_refresh(
        &mut self,
        now: Instant,
        token: Token,
        keyspace: KeyspaceId,
        key_id: &[u8],
        deadline: Option<Instant>,
    ) -> Admission {
        let Some(keyspace_at) = self.keyspace_at(keyspace) else {
            self.totals.no_keyspace_total += 1;
            return Admission::Refused(Refusal::NoKeyspace);
        };
        self.keyspaces[keyspace_at].counters.force_refresh_total += 1;
        let admitted = self.force(now, token, keyspace_at, key_id, deadline);
        let counters = &mut self.keyspaces[keyspace_at].counters;
        match admitted {
            Ok(()) => {
                counters.force_waiters += 1;
                Admission::Waiting
            }
            Err(refusal) => {
                counters.force_refused_total += 1;
                Admission::Refused(refusal)
            }
        }
    }

    fn force(
        &mut self,
        now: Instant,
        token: Token,
        keyspace_at: At<Keyspace>,
        key_id: &[u8],
        deadline: Option<Instant>,
    ) -> Result<(), Refusal> {
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Refusal::DeadlineExceeded);
        }
        let at = self.find(self.keyspaces[keyspace_at].id, key_id);
        if at.is_some_and(|at| self.entries[at].is_revoked()) {
            return Err(Refusal::Revoked);
        }
        if self.keyspaces[keyspace_at].gate != Gate::Open {
            return Err(self.needs_unlock(keyspace_at));
        }
        self.ensure_dek(now, keyspace_at, u64::MAX)?;
        let overloaded = Refusal::Overloaded {
            after_us: OVERLOADED_AFTER_US,
        };
        if !self.has_room_for_waiter() {
            return Err(overloaded);
        }
        let flight = match at.and_then(|at| self.entries[at].flight) {
            Some(flight) => flight,
            None if !self.has_room_for_flight() => return Err(overloaded),
            None => {
                let at = self
                    .find_or_create(now, keyspace_at, key_id)
                    .ok_or(overloaded)?;
                let flight = self.start_flight(now, at, Origin::Demand);
                self.wait_for_force(now, Place::Present(flight), token, deadline);
                return Ok(());
            }
        };
        let place = match self.group.flights[flight].stage {
            Stage::Loading { .. } => Place::Next(flight),
            Stage::AwaitingDek | Stage::Queued { .. } | Stage::Over => Place::Present(flight),
        };
        self.wait_for_force(now, place, token, deadline);
        Ok(())
    }

    fn wait_for_force(
        &mut self,
        now: Instant,
        place: Place,
        token: Token,
        deadline: Option<Instant>,
    ) {
        let longest = now.plus_us(FLIGHTS_PER_FORCE * self.limits.flight_time_limit_us);
        let until = deadline.unwrap_or(Instant::MAX).min(longest);
        self.wait(place, token, WaiterKind::Force, deadline, until);
    }
}
