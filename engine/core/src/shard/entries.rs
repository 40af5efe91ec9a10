//! Entries: lookup, creation and removal, their states, lists and timers.

use super::Shard;
use crate::action::KeyspaceId;
use crate::entry::{CorruptRetry, DUE, Due, Entry, HOME, Key, Live, State, StateList};
use crate::event::InvalidCause;
use crate::keyspace::Keyspace;
use crate::list::List;
use crate::prefetch;
use crate::slots::At;
use crate::time::Instant;
use core::hash::{BuildHasher, Hasher};

/// How long a missing key is not looked up again, in µs.
pub const NEGATIVE_US: u64 = 1_000_000;
/// How long consecutive failures are counted after the backoff has ended, in µs.
const BACKOFF_MEMORY_US: u64 = 10_000_000;

impl<V> Shard<V> {
    #[inline]
    pub(super) fn find(&self, keyspace: KeyspaceId, key_id: &[u8]) -> Option<At<Key>> {
        let entries = &self.entries;
        let same = |at: &At<Key>| {
            let entry = &entries[*at];
            entry.keyspace == keyspace && *entry.key_id == *key_id
        };
        self.index.find(self.hash(keyspace, key_id), same).copied()
    }

    #[inline]
    fn hash(&self, keyspace: KeyspaceId, key_id: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(keyspace.0);
        hasher.write(key_id);
        hasher.finish()
    }

    /// Returns the entry of a key, creating an empty one if necessary. Returns `None` if no entry can be freed for it.
    pub(super) fn find_or_create(
        &mut self,
        now: Instant,
        keyspace_at: At<Keyspace>,
        key_id: &[u8],
    ) -> Option<At<Key>> {
        let keyspace = self.keyspaces[keyspace_at].id;
        if let Some(at) = self.find(keyspace, key_id) {
            return Some(at);
        }
        if self.entries.len() >= self.limits.entries_max && !self.evict_entry(now) {
            return None;
        }
        let hash = self.hash(keyspace, key_id);
        let at = self
            .entries
            .insert(Entry::new(hash, keyspace, keyspace_at, key_id));
        let entries = &self.entries;
        self.index.insert_unique(hash, at, |at| entries[*at].hash);
        Some(at)
    }

    pub(super) fn remove_entry(&mut self, at: At<Key>) {
        self.become_empty(at);
        let hash = self.entries[at].hash;
        let found = self.index.find_entry(hash, |other| *other == at);
        found.expect("every entry is in the index").remove();
        self.entries.remove(at);
    }

    pub(super) fn keyspace_of(&mut self, at: At<Key>) -> &mut Keyspace {
        let keyspace_at = self.entries[at].keyspace_at;
        &mut self.keyspaces[keyspace_at]
    }

    /// Discards the state of a key.
    pub(super) fn become_empty(&mut self, at: At<Key>) {
        self.drop_plaintext(at);
        self.set_timer(at, Instant::MAX);
    }

    /// As [`Shard::become_empty`], but leaves the timer: when it fires, nothing needs the entry. Plaintext is dropped
    /// here.
    pub(super) fn drop_plaintext(&mut self, at: At<Key>) {
        self.move_to_list(at, StateList::None);
        self.requeue(at, Due::None);
        let before = core::mem::replace(&mut self.entries[at].state, State::Empty);
        if let State::Live(live) = before {
            self.key_bytes -= live.key_bytes;
            let counters = &mut self.keyspace_of(at).counters;
            counters.resident_keys -= 1;
            counters.resident_key_bytes -= live.key_bytes as u64;
        }
    }

    pub(super) fn become_live(&mut self, at: At<Key>, mut live: Live<V>) {
        self.become_empty(at);
        self.move_to_list(at, StateList::Resident);
        self.key_bytes += live.key_bytes;
        let keyspace = self.keyspace_of(at);
        keyspace.counters.resident_keys += 1;
        keyspace.counters.resident_key_bytes += live.key_bytes as u64;
        live.armed_for = keyspace.terms.revision();
        self.entries[at].state = State::Live(live);
    }

    /// Marks a key as missing. Discards the oldest negative entry if there are too many.
    pub(super) fn become_negative(&mut self, now: Instant, at: At<Key>) {
        self.become_empty(at);
        self.move_to_list(at, StateList::Negative);
        self.entries[at].state = State::Negative {
            until: now.plus_us(NEGATIVE_US),
        };
        if self.negatives.len() > self.limits.negatives_max {
            self.forget_oldest_negative();
        }
    }

    pub(super) fn become_invalid(
        &mut self,
        at: At<Key>,
        cause: InvalidCause,
        reread: CorruptRetry,
    ) {
        self.become_empty(at);
        self.move_to_list(at, StateList::Invalid);
        self.entries[at].state = State::Invalid { cause, reread };
    }

    /// Marks a key as revoked. Discards the oldest revoked entry if there are too many.
    pub(super) fn become_revoked(&mut self, at: At<Key>) {
        self.become_empty(at);
        self.move_to_list(at, StateList::Revoked);
        self.entries[at].state = State::Revoked;
        if self.revoked.len() > self.limits.revoked_max
            && let Some(oldest) = self.revoked.front()
        {
            self.remove_entry(oldest);
        }
    }

    /// Removes the oldest negative entry that is not in use. Returns `false` if there is none.
    pub(super) fn forget_oldest_negative(&mut self) -> bool {
        let Some(oldest) = self.negatives.front() else {
            return false;
        };
        if self.entries[oldest].flight.is_some() {
            // A force-refresh is looking it up: its flight will determine the entry's state.
            self.become_empty(oldest);
            return false;
        }
        self.remove_entry(oldest);
        true
    }

    /// Drops the plaintext of a key that has expired.
    pub(super) fn expire(&mut self, at: At<Key>) {
        self.keyspace_of(at).counters.expired_total += 1;
        self.become_empty(at);
    }

    /// Moves an entry to the end of the list for its state.
    pub(super) fn move_to_list(&mut self, at: At<Key>, home: StateList) {
        let entry = &mut self.entries[at];
        let before = core::mem::replace(&mut entry.home, home);
        let keyspace_at = entry.keyspace_at;
        if let Some(list) = self.home_list(keyspace_at, before) {
            let mut taken = core::mem::take(list);
            taken.remove(&mut self.entries, at);
            *self
                .home_list(keyspace_at, before)
                .expect("the list that was taken") = taken;
        }
        if let Some(list) = self.home_list(keyspace_at, home) {
            let mut taken = core::mem::take(list);
            taken.push_back(&mut self.entries, at);
            *self
                .home_list(keyspace_at, home)
                .expect("the list that was taken") = taken;
        }
    }

    fn home_list(
        &mut self,
        keyspace_at: At<Keyspace>,
        home: StateList,
    ) -> Option<&mut List<Key, HOME>> {
        let keyspace = &mut self.keyspaces[keyspace_at];
        match home {
            StateList::None => None,
            StateList::Resident => Some(&mut keyspace.resident),
            StateList::Parked => Some(&mut keyspace.parked),
            StateList::Warm => Some(&mut keyspace.warm),
            StateList::Invalid => Some(&mut keyspace.invalid),
            StateList::Negative => Some(&mut self.negatives),
            StateList::Revoked => Some(&mut self.revoked),
        }
    }

    /// Puts an entry into one of the prefetcher's queues, or removes it. If it is in that queue already, it keeps its
    /// position.
    pub(super) fn requeue(&mut self, at: At<Key>, due: Due) {
        let entry = &mut self.entries[at];
        let before = core::mem::replace(&mut entry.due, due);
        if before == due {
            return;
        }
        let keyspace = &mut self.keyspaces[entry.keyspace_at];
        if let Some(queue) = due_queue(keyspace, before) {
            queue.remove(&mut self.entries, at);
        }
        if let Some(queue) = due_queue(keyspace, due) {
            queue.push_back(&mut self.entries, at);
        }
    }

    /// Sets the entry's timer; [`Instant::MAX`] for none.
    pub(super) fn set_timer(&mut self, at: At<Key>, when: Instant) {
        if let Some(timer) = self.entries[at].timer.take() {
            self.ages.cancel(timer);
        }
        if when < Instant::MAX {
            self.entries[at].timer = Some(self.ages.arm(when, at));
        }
    }

    /// Updates the queue and timer for the entry's current state. An entry that is not needed is removed: call it last,
    /// whenever state or flight have changed.
    pub(super) fn update_schedule(&mut self, now: Instant, at: At<Key>) {
        let entry = &self.entries[at];
        let flying = entry.flight.is_some();
        let (due, look_at) = match &entry.state {
            State::Live(live) => {
                let terms = &self.keyspaces[entry.keyspace_at].terms;
                let points = terms.points(live);
                if flying {
                    (Due::None, points.hard_at)
                } else {
                    let used = entry.touched & crate::entry::USED != 0;
                    prefetch::plan(&points, now, used, &entry.backoff, terms.recheck_us())
                }
            }
            State::Negative { until } => (Due::None, *until),
            State::Invalid { .. } | State::Revoked => (Due::None, Instant::MAX),
            State::Empty if flying || entry.is_listed_to_load() => (Due::None, Instant::MAX),
            State::Empty if entry.backoff.attempts() > 0 => (
                Due::None,
                entry.backoff.retry_at().plus_us(BACKOFF_MEMORY_US),
            ),
            State::Empty => return self.remove_entry(at),
        };
        self.requeue(at, due);
        self.set_timer(at, look_at);
    }

    /// Handles the entry's timer.
    pub(super) fn handle_entry_timer(&mut self, now: Instant, at: At<Key>) {
        self.entries[at].timer = None;
        match &self.entries[at].state {
            State::Live(live) => {
                let terms = &self.keyspaces[self.entries[at].keyspace_at].terms;
                if now >= terms.effective_hard(live) {
                    self.expire(at);
                }
            }
            State::Negative { until } if *until <= now => self.become_empty(at),
            State::Empty => {
                let backoff = &mut self.entries[at].backoff;
                if backoff.retry_at().plus_us(BACKOFF_MEMORY_US) <= now {
                    backoff.clear();
                }
            }
            State::Negative { .. } | State::Invalid { .. } | State::Revoked => {}
        }
        self.update_schedule(now, at);
    }
}

fn due_queue(keyspace: &mut Keyspace, due: Due) -> Option<&mut List<Key, DUE>> {
    match due {
        Due::None => None,
        Due::Ahead => Some(&mut keyspace.ahead),
        Due::Urgent => Some(&mut keyspace.urgent),
    }
}
