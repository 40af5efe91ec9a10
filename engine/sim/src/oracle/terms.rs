//! How long the keys of a keyspace may live at a shard: settings, lease and gate, from the shard's inputs.

use super::Alive;
use keyway_core::{LeaseEvent, Settings};

const MS: u64 = 1_000;
/// Shortest time between two refusals that count as two, in µs.
const REFUSALS_APART_US: u64 = 1_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedGate {
    Open,
    Locked,
    Denied,
}

#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) settings: Settings,
    pub(crate) gate: ExpectedGate,
    pub(crate) lease_sent: u64,
    /// 0 if there is none.
    pub(crate) lease_end: u64,
    /// Latest DEK generation under the lease, 0 without one.
    pub(crate) generation: u32,
    /// Every hard TTL that was ever in effect: (since, µs).
    hard: Vec<(u64, u64)>,
    /// Keys committed up to this step are dead.
    purged_step: u64,
    first_refusal: Option<u64>,
    /// The last answer of the KMS was that it must be unlocked.
    pub(crate) kms_locked: bool,
    pub(crate) asking_since: Option<u64>,
    /// The ticket returned by the last unlock.
    pub(crate) ticket: Option<u64>,
}

impl Terms {
    pub(crate) fn new(settings: Settings) -> Self {
        let hard = vec![(0, settings.hard_ttl_ms * MS)];
        Self {
            settings,
            gate: ExpectedGate::Open,
            lease_sent: 0,
            lease_end: 0,
            generation: 0,
            hard,
            purged_step: 0,
            first_refusal: None,
            kms_locked: false,
            asking_since: None,
            ticket: None,
        }
    }

    /// Returns the time from which the key is not used: an upper bound, since the core may merge a long history of
    /// settings.
    pub(crate) fn hard_of(&self, alive: &Alive) -> u64 {
        if self.gate != ExpectedGate::Open || alive.committed_step <= self.purged_step {
            return 0;
        }
        let loaded_at = alive.started_at;
        let in_force = self.hard.iter().rposition(|(since, _)| *since < loaded_at);
        let lowest = self.hard[in_force.unwrap_or(0)..].iter().map(|(_, us)| us);
        let hard_us = lowest.min().expect("there is always one in force");
        let own = loaded_at.saturating_add(*hard_us).min(alive.not_after);
        own.min(self.lease_end)
    }

    /// Advances time: a lease that ends invalidates everything loaded under it.
    pub(crate) fn pass(&mut self, now: u64, step: u64) {
        if self.lease_end != 0 && self.lease_end <= now {
            self.purge(step);
        }
    }

    fn purge(&mut self, step: u64) {
        self.lease_end = 0;
        self.generation = 0;
        self.purged_step = step;
    }

    pub(crate) fn change(&mut self, now: u64, step: u64, settings: &Settings) {
        if self.settings == *settings {
            return;
        }
        self.hard.push((now, settings.hard_ttl_ms * MS));
        if self.lease_end != 0 {
            let end = self.lease_sent.saturating_add(settings.dek_lease_ms * MS);
            self.lease_end = self.lease_end.min(end);
        }
        self.settings = settings.clone();
        self.pass(now, step);
    }

    pub(crate) fn close(&mut self, gate: ExpectedGate, step: u64) {
        self.gate = gate;
        self.purge(step);
    }

    pub(crate) fn open(&mut self) {
        self.gate = ExpectedGate::Open;
        self.first_refusal = None;
        self.kms_locked = false;
    }

    /// Handles an answer of the KMS. Returns `true` if the keyspace must be denied afterwards.
    pub(crate) fn told(&mut self, now: u64, event: LeaseEvent) -> bool {
        self.asking_since = None;
        if self.gate != ExpectedGate::Open {
            return false;
        }
        match event {
            LeaseEvent::Granted {
                sent_at,
                generation,
            } => {
                let sent = sent_at.as_micros().min(now);
                let end = sent.saturating_add(self.settings.dek_lease_ms * MS);
                if end <= now {
                    self.kms_locked = false;
                    return false;
                }
                if end >= self.lease_end {
                    (self.lease_sent, self.lease_end) = (sent, end);
                }
                self.generation = self.generation.max(generation);
                self.first_refusal = None;
                self.kms_locked = false;
                false
            }
            LeaseEvent::Denied | LeaseEvent::Disabled => {
                self.kms_locked = false;
                let first = *self.first_refusal.get_or_insert(now);
                now >= first + REFUSALS_APART_US
            }
            LeaseEvent::Locked => {
                self.kms_locked = true;
                self.lease_end <= now
            }
            LeaseEvent::Unavailable { .. } | LeaseEvent::Failed => {
                self.kms_locked = false;
                false
            }
        }
    }
}
