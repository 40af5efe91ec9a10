//! Results of loads.

use super::Shard;
use super::request::OVERLOADED_AFTER_US;
use crate::action::{FlightId, LoadError, Loaded, Refusal};
use crate::backoff::{LOAD_BACKOFF_US_MAX, LOAD_BACKOFF_US_MIN};
use crate::entry::{CorruptRetry, Key, Live, REFERENCED, State};
use crate::event::{Event, InvalidCause};
use crate::flight::{Flight, FlightOutcome, Origin, Stage};
use crate::grant::Grant;
use crate::keyspace::Keyspace;
use crate::slots::At;
use crate::time::{Instant, TICK_US};

impl<V> Shard<V> {
    /// Begins the read for an [`Action::Load`](crate::Action::Load): the key's age counts from this time, and a
    /// force-refresh received later needs another load. Returns `false` if the load is no longer needed: it must not be
    /// done, and has no result to report.
    pub fn begin_load(&mut self, now: Instant, flight: FlightId) -> bool {
        self.group.begin(now, flight)
    }

    /// Handles the result of a load that was begun. If its flight has ended, it is ignored, and its key dropped.
    pub fn handle_loaded(
        &mut self,
        now: Instant,
        flight: FlightId,
        result: Result<Loaded<V>, LoadError>,
    ) {
        let Some(flight_at) = self.group.find(flight) else {
            self.totals.late_results_total += 1;
            return;
        };
        let flight = &self.group.flights[flight_at];
        let Stage::Loading {
            queued_at,
            started_at,
        } = flight.stage
        else {
            unreachable!("only flights that load have a name to be found by");
        };
        let (at, keyspace_at, superseded) = (flight.entry, flight.keyspace_at, flight.superseded);
        self.keyspaces[keyspace_at].counters.rehydrate_total += 1;
        match result {
            Err(LoadError::Revoked) => self.revoke(now, at),
            _ if superseded => self.restart_load(now, flight_at),
            Ok(loaded) => self.commit_load(now, flight_at, loaded, queued_at, started_at),
            Err(LoadError::NotFound) => {
                self.entries[at].backoff.clear();
                self.become_negative(now, at);
                self.end_flight(now, flight_at, FlightOutcome::Failed(Refusal::NotFound));
            }
            Err(LoadError::Corrupt) => self.invalidate(now, flight_at, InvalidCause::Corrupt),
            Err(LoadError::DekMissing) => self.wait_for_dek(now, flight_at),
            Err(error @ (LoadError::Store | LoadError::TimedOut | LoadError::Panicked)) => {
                self.fail_load(now, flight_at, error);
            }
        }
    }

    /// Handles the expiry of a flight's time limit.
    pub(super) fn handle_flight_limit(&mut self, now: Instant, flight_at: At<Flight>) {
        let keyspace_at = self.group.flights[flight_at].keyspace_at;
        self.keyspaces[keyspace_at].counters.rehydrate_total += 1;
        self.fail_load(now, flight_at, LoadError::TimedOut);
    }

    fn commit_load(
        &mut self,
        now: Instant,
        flight_at: At<Flight>,
        loaded: Loaded<V>,
        queued_at: Instant,
        started_at: Instant,
    ) {
        let flight = &self.group.flights[flight_at];
        let (at, keyspace_at, origin) = (flight.entry, flight.keyspace_at, flight.origin);
        let keyspace = &self.keyspaces[keyspace_at];
        if !keyspace.has_lease(now) {
            // That the blob opens does not show whether the KMS would still grant the DEK.
            drop(loaded);
            return self.wait_for_dek(now, flight_at);
        }
        let expected = self.entries[at].version_floor;
        if loaded.version < expected {
            let entry = &self.entries[at];
            let (keyspace, key_id) = (entry.keyspace, entry.key_id.clone());
            let loaded = loaded.version;
            self.report(Event::VersionWentBack {
                keyspace,
                key_id,
                loaded,
                expected,
            });
            return self.fail_load(now, flight_at, LoadError::Store);
        }
        let jitter = self.rng.next_u16();
        let keyspace = &mut self.keyspaces[keyspace_at];
        let live = Live::new(loaded, started_at, jitter, keyspace.terms.epoch());
        if live.not_after <= now {
            return self.invalidate(now, flight_at, InvalidCause::NotAfterPassed);
        }
        if Grant::check(&live, &keyspace.terms, now).is_none() {
            // The load took longer than the key may live.
            return self.fail_load(now, flight_at, LoadError::TimedOut);
        }
        let has_room = if self.group.flights[flight_at].is_speculative() {
            self.has_room_for_key(at, live.key_bytes)
        } else {
            self.make_room(now, at, live.key_bytes)
        };
        if !has_room {
            drop(live);
            let refusal = Refusal::Overloaded {
                after_us: OVERLOADED_AFTER_US,
            };
            return self.end_flight(now, flight_at, FlightOutcome::Failed(refusal));
        }
        let keyspace = &mut self.keyspaces[keyspace_at];
        keyspace.load_us.add_us(now.saturating_since(queued_at));
        if origin == Origin::Reload {
            keyspace.unlocks.key_reloaded();
        }
        let entry = &mut self.entries[at];
        entry.backoff.clear();
        entry.touched &= REFERENCED;
        entry.uses /= 2;
        let was_invalid = matches!(entry.state, State::Invalid { .. });
        let version = live.version;
        entry.version_floor = version;
        if was_invalid {
            let (keyspace, key_id) = (entry.keyspace, entry.key_id.clone());
            self.report(Event::KeyValid { keyspace, key_id });
        }
        self.become_live(at, live);
        self.end_flight(now, flight_at, FlightOutcome::Landed { version });
    }

    /// Marks the key as invalid, since its blob cannot be used. The KMS is not involved.
    fn invalidate(&mut self, now: Instant, flight_at: At<Flight>, cause: InvalidCause) {
        let flight = &self.group.flights[flight_at];
        let (at, keyspace_at) = (flight.entry, flight.keyspace_at);
        self.keyspaces[keyspace_at].counters.rehydrate_fail_total += 1;
        let entry = &mut self.entries[at];
        entry.backoff.clear();
        let known = matches!(entry.state, State::Invalid { .. });
        let once_more = !known && cause == InvalidCause::Corrupt;
        if !known {
            let (keyspace, key_id) = (entry.keyspace, entry.key_id.clone());
            self.report(Event::KeyInvalid {
                keyspace,
                key_id,
                cause,
            });
        }
        let reread = if once_more {
            CorruptRetry::Due
        } else {
            CorruptRetry::Done
        };
        self.become_invalid(at, cause, reread);
        self.end_flight(now, flight_at, FlightOutcome::Failed(Refusal::Invalid));
        if once_more {
            self.read_again(now, at);
        }
    }

    /// Reads the blob of an INVALID key once more, if that is possible now; otherwise the next request for it tries.
    /// Never without a DEK, since that would call the KMS.
    pub(super) fn read_again(&mut self, now: Instant, at: At<Key>) {
        let entry = &self.entries[at];
        if entry.flight.is_none()
            && entry.backoff.left_us(now).is_none()
            && self.has_room_for_flight()
            && self.keyspaces[entry.keyspace_at].has_lease(now)
        {
            self.start_flight(now, at, Origin::Again);
        }
    }

    /// Requests a newer answer of the KMS, once, without which the load cannot be used. All waiters continue to wait.
    fn wait_for_dek(&mut self, now: Instant, flight_at: At<Flight>) {
        let flight = &mut self.group.flights[flight_at];
        let (at, keyspace_at, on_spec) =
            (flight.entry, flight.keyspace_at, flight.is_speculative());
        let asked_before = core::mem::replace(&mut flight.dek_asked, true);
        let invalid = matches!(self.entries[at].state, State::Invalid { .. });
        self.request_unwrap_unless(now, keyspace_at, asked_before || invalid || on_spec);
        if asked_before || invalid || !self.keyspaces[keyspace_at].lease.is_asking() {
            return self.fail_load(now, flight_at, LoadError::DekMissing);
        }
        let flight = &mut self.group.flights[flight_at];
        flight.stage = Stage::AwaitingDek;
        let next = core::mem::take(&mut flight.next);
        self.group.adopt(flight_at, next);
        self.arm_flight(now, flight_at);
    }

    fn request_unwrap_unless(&mut self, now: Instant, keyspace_at: At<Keyspace>, unless: bool) {
        if !unless {
            self.request_unwrap(now, keyspace_at);
        }
    }

    /// Handles a failure that may be transient: what is live is still served, and the next attempt waits.
    pub(super) fn fail_load(&mut self, now: Instant, flight_at: At<Flight>, error: LoadError) {
        let flight = &self.group.flights[flight_at];
        let (at, keyspace_at) = (flight.entry, flight.keyspace_at);
        self.keyspaces[keyspace_at].counters.rehydrate_fail_total += 1;
        let entry = &mut self.entries[at];
        entry
            .backoff
            .failed(now, &mut self.rng, LOAD_BACKOFF_US_MIN, LOAD_BACKOFF_US_MAX);
        let after_us = entry.backoff.left_us(now).unwrap_or(TICK_US);
        let attempts = entry.backoff.attempts();
        let (keyspace, key_id) = (entry.keyspace, entry.key_id.clone());
        self.report(Event::LoadFailed {
            keyspace,
            key_id,
            error,
            attempts,
        });
        self.end_flight(
            now,
            flight_at,
            FlightOutcome::Failed(Refusal::Retry { after_us }),
        );
    }
}
