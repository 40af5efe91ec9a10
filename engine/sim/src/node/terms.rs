//! How long keys may be used at a shard, from what the shard has received: an upper bound, since it is not visible when
//! within its turns a shard takes an order. What loosens counts from when it reaches the shard, what tightens from when
//! the shard says that it acts by it.

use super::port::Opened;
use keyway_core::LeaseEvent;
use keyway_node::ids::Revision;
use keyway_node::keyspace_change::KeyspaceChange;

const MS: u64 = 1_000;
/// By how much chance may shorten a soft TTL.
const JITTER_PCT_MAX: u64 = 10;
/// A use begins so long after it was decided on, µs.
const DECIDED_WITHIN_US: u64 = 1_000;

fn soft_of(change: &KeyspaceChange) -> (Revision, u64) {
    (change.revision, change.guard.settings.soft_ttl_ms * MS)
}

/// What the answer to a use may say of its key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Freshness {
    pub(super) may_be_fresh: bool,
    pub(super) may_be_stale: bool,
}

/// A keyspace at a shard.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The newest change that has reached the shard, and the newest that it acts by.
    pub(super) told: KeyspaceChange,
    pub(super) acted: KeyspaceChange,
    /// Hard TTLs, each with when it began: µs.
    hard: Vec<(u64, u64)>,
    /// Soft TTLs that may be in force, each with its revision: µs.
    soft: Vec<(Revision, u64)>,
    lease_sent: u64,
    /// Leases that the shard may not have taken yet: when each was sent.
    untaken: Vec<u64>,
    /// 0: there is none.
    pub(super) lease_end: u64,
    /// Loads that ended by then are dead.
    dead_until: u64,
    /// What is locked is not used after this.
    locked_at: Option<u64>,
}

impl Terms {
    pub(super) fn new(change: KeyspaceChange) -> Self {
        let is_locked = change.guard.locked;
        Self {
            hard: vec![(0, change.guard.settings.hard_ttl_ms * MS)],
            soft: vec![soft_of(&change)],
            acted: change.clone(),
            told: change,
            lease_sent: 0,
            untaken: Vec::new(),
            lease_end: 0,
            dead_until: 0,
            locked_at: is_locked.then_some(0),
        }
    }

    fn hard_us(&self) -> u64 {
        self.hard.last().map_or(0, |(_, us)| *us)
    }

    /// A change has reached the shard.
    pub(super) fn tell(&mut self, now: u64, change: &KeyspaceChange) {
        if change.revision < self.told.revision {
            return;
        }
        let hard_us = change.guard.settings.hard_ttl_ms * MS;
        if hard_us > self.hard_us() {
            self.hard.push((now, hard_us));
        }
        self.soft.push(soft_of(change));
        if !change.guard.locked {
            self.locked_at = None;
        }
        self.told = change.clone();
        // A lease that waits counts from what is in force when it is taken.
        for sent in std::mem::take(&mut self.untaken) {
            self.extend(sent);
        }
    }

    /// The shard has taken all that has reached it.
    pub(super) fn settle(&mut self) {
        self.untaken.clear();
    }

    fn extend(&mut self, sent: u64) {
        let end = sent.saturating_add(self.lease_us());
        if end > self.lease_end {
            (self.lease_sent, self.lease_end) = (sent, end);
        }
        self.untaken.push(sent);
    }

    /// The shard acts by the change of this revision.
    pub(super) fn act(&mut self, now: u64, change: &KeyspaceChange) {
        if change.revision < self.acted.revision {
            return;
        }
        self.acted = change.clone();
        self.soft.retain(|(of, _)| *of >= change.revision);
        // What has been told since may be in force already.
        let hard_us = change
            .guard
            .settings
            .hard_ttl_ms
            .max(self.told.guard.settings.hard_ttl_ms)
            * MS;
        if hard_us < self.hard_us() {
            self.hard.push((now, hard_us));
        }
        let lease_us = self.lease_us();
        if self.lease_end > 0 {
            self.lease_end = self.lease_end.min(self.lease_sent.saturating_add(lease_us));
        }
        if change.guard.locked && self.told.revision == change.revision {
            self.locked_at = Some(now);
            self.lease_end = 0;
            self.dead_until = now;
        }
    }

    fn lease_us(&self) -> u64 {
        let told = self.told.guard.settings.dek_lease_ms;
        told.max(self.acted.guard.settings.dek_lease_ms) * MS
    }

    /// An answer of the KMS has reached the shard.
    pub(super) fn lease(&mut self, now: u64, event: LeaseEvent) {
        let LeaseEvent::Granted { sent_at, .. } = event else {
            return;
        };
        if self.lease_end > 0 && self.lease_end <= now {
            self.dead_until = self.dead_until.max(self.lease_end);
        }
        self.extend(sent_at.as_micros());
    }

    /// Whether a load's key may be fresh, and stale, when it is used at that time.
    pub(super) fn freshness_of(&self, opened: &Opened, at: u64) -> Freshness {
        let soft = self.soft.iter().map(|(_, us)| *us);
        let (least, most) = (soft.clone().min(), soft.max());
        let least = least.unwrap_or(0) * (100 - JITTER_PCT_MAX) / 100;
        let age_us = at.saturating_sub(opened.began_at);
        Freshness {
            may_be_fresh: age_us < most.unwrap_or(u64::MAX).saturating_add(DECIDED_WITHIN_US),
            may_be_stale: age_us >= least,
        }
    }

    /// When a load's key is not used any more; 0: it is dead already.
    pub(super) fn end_of(&self, opened: &Opened) -> u64 {
        if self.locked_at.is_some() || opened.opened_at <= self.dead_until {
            return 0;
        }
        let in_force = self
            .hard
            .iter()
            .rposition(|(since, _)| *since < opened.began_at);
        let since = self.hard.get(in_force.unwrap_or(0)..).unwrap_or_default();
        let lowest = since.iter().map(|(_, us)| *us).min().unwrap_or(0);
        let own = opened.began_at.saturating_add(lowest).min(opened.not_after);
        own.min(self.lease_end)
    }
}
