//! Changes of stored keys: puts and revocations.

use super::Shard;
use crate::action::{KeyspaceId, Refusal};
use crate::entry::{Key, State};
use crate::flight::{FlightOutcome, Origin, Stage};
use crate::grant::Grant;
use crate::slots::At;
use crate::time::Instant;

impl<V> Shard<V> {
    /// Handles a put that was acknowledged, or is about to be: call it before the acknowledgement. Clears NEGATIVE,
    /// INVALID and backoff. A live key of an older version is dropped, so nothing older is served afterwards. The key is
    /// reloaded immediately if possible. A load that has begun is discarded, and its flight loads again; one that has not
    /// begun will return what was put.
    pub fn handle_stored(
        &mut self,
        now: Instant,
        keyspace: KeyspaceId,
        key_id: &[u8],
        version: u32,
    ) {
        let Some(at) = self.find(keyspace, key_id) else {
            return;
        };
        let entry = &mut self.entries[at];
        if entry.is_revoked() {
            return;
        }
        entry.version_floor = entry.version_floor.max(version);
        entry.backoff.clear();
        let mut outdated = false;
        match &entry.state {
            State::Live(live) => {
                let terms = &self.keyspaces[entry.keyspace_at].terms;
                if Grant::check(live, terms, now).is_none() {
                    self.expire(at);
                } else if live.version < version {
                    outdated = true;
                    self.become_empty(at);
                }
            }
            State::Negative { .. } | State::Invalid { .. } => self.become_empty(at),
            State::Empty | State::Revoked => {}
        }
        let entry = &self.entries[at];
        match entry.flight {
            Some(flight) => {
                let flight = &mut self.group.flights[flight];
                flight.superseded = matches!(flight.stage, Stage::Loading { .. });
            }
            None => {
                let keyspace_at = entry.keyspace_at;
                let can_load = self.keyspaces[keyspace_at].has_lease(now);
                if outdated && can_load && self.has_room_for_flight() {
                    self.start_flight(now, at, Origin::Demand);
                } else {
                    self.update_schedule(now, at);
                }
            }
        }
    }

    /// Handles a key whose blob changed although its latest version did not: a version was revoked or trimmed. Call it
    /// before the acknowledgement. Plaintext of the previous blob is not used afterwards, and its loads are discarded.
    pub fn handle_rewritten(
        &mut self,
        now: Instant,
        keyspace: KeyspaceId,
        key_id: &[u8],
        version: u32,
    ) {
        if let Some(at) = self.find(keyspace, key_id)
            && matches!(self.entries[at].state, State::Live(_))
        {
            self.become_empty(at);
        }
        self.handle_stored(now, keyspace, key_id, version);
    }

    /// Handles the deletion of a revoked key: its id may be reused, and the store has its state. Call it before the
    /// acknowledgement.
    pub fn handle_deleted(&mut self, now: Instant, keyspace: KeyspaceId, key_id: &[u8]) {
        if let Some(at) = self.find(keyspace, key_id)
            && self.entries[at].is_revoked()
        {
            self.become_empty(at);
            self.update_schedule(now, at);
        }
    }

    /// Handles a revocation that was acknowledged, or is about to be: call it before the acknowledgement. The key is not
    /// used afterwards, its waiters are refused, and its loads are discarded.
    pub fn handle_revoked(&mut self, now: Instant, keyspace: KeyspaceId, key_id: &[u8]) {
        let Some(keyspace_at) = self.keyspace_at(keyspace) else {
            return;
        };
        // If no entry is free to cache the revocation, the store returns it.
        if let Some(at) = self.find_or_create(now, keyspace_at, key_id) {
            self.revoke(now, at);
        }
    }

    pub(super) fn revoke(&mut self, now: Instant, at: At<Key>) {
        if self.entries[at].is_revoked() {
            return;
        }
        self.entries[at].backoff.clear();
        self.become_revoked(at);
        match self.entries[at].flight {
            Some(flight) => self.end_flight(now, flight, FlightOutcome::Failed(Refusal::Revoked)),
            None => self.update_schedule(now, at),
        }
    }
}
