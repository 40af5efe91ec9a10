//! Eviction: CLOCK, with expired keys first.
//!
//! One hand moves around the entries. A live key that was used since the hand passed is spared once; one that is past
//! `effective_hard` is not. Entries with a flight and revoked entries stay. The hand spares at most [`SECOND_CHANCES_MAX`] keys
//! in a row, so that a shard full of hot keys does not delay the request that needs the space: it then takes the next
//! key, used or not.

use super::Shard;
use crate::entry::{Key, REFERENCED, State};
use crate::event::Event;
use crate::grant::Grant;
use crate::slots::At;
use crate::time::Instant;

const SECOND_CHANCES_MAX: usize = 128;

/// What is exhausted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shortage {
    Entries,
    KeyBytes,
}

impl<V> Shard<V> {
    /// Removes one entry. Returns `false` if none can be removed.
    pub(super) fn evict_entry(&mut self, now: Instant) -> bool {
        // A missing key costs one read to look up again; any other also costs an unlock.
        self.forget_oldest_negative() || self.evict(now, Shortage::Entries)
    }

    /// Frees `bytes` for a key that replaces the one at `at`, if there is one. Returns `false` if not enough can be
    /// evicted. Keys with a flight, such as this one, stay.
    pub(super) fn make_room(&mut self, now: Instant, at: At<Key>, bytes: usize) -> bool {
        if bytes > self.limits.key_bytes_max {
            return false;
        }
        while !self.has_room_for_key(at, bytes) {
            if !self.evict(now, Shortage::KeyBytes) {
                return false;
            }
        }
        true
    }

    /// Returns `true` if `bytes` of a key fit now, where they replace those of the key at `at`.
    pub(super) fn has_room_for_key(&self, at: At<Key>, bytes: usize) -> bool {
        let replaced = self.entries[at].live().map_or(0, |live| live.key_bytes);
        self.key_bytes - replaced + bytes <= self.limits.key_bytes_max
    }

    fn evict(&mut self, now: Instant, short: Shortage) -> bool {
        let slots = self.entries.high_water();
        let mut spared = 0;
        // Two rounds: the first may do nothing but spare keys.
        for _ in 0..u64::from(slots) * 2 {
            let number = self.hand % slots;
            self.hand = (number + 1) % slots;
            let Some((at, entry)) = self.entries.nth(number) else {
                continue;
            };
            if entry.flight.is_some() {
                continue;
            }
            match &entry.state {
                State::Revoked => continue,
                State::Live(live) => {
                    let terms = &self.keyspaces[entry.keyspace_at].terms;
                    let usable = Grant::check(live, terms, now).is_some();
                    if !usable {
                        self.expire(at);
                    } else if entry.touched & REFERENCED != 0 && spared < SECOND_CHANCES_MAX {
                        self.entries[at].touched &= !REFERENCED;
                        spared += 1;
                        continue;
                    } else {
                        self.count_eviction(at);
                    }
                }
                _ if short == Shortage::KeyBytes => continue,
                State::Empty | State::Negative { .. } | State::Invalid { .. } => {}
            }
            self.remove_entry(at);
            return true;
        }
        false
    }

    fn count_eviction(&mut self, at: At<Key>) {
        let (keyspace, key_id) = (self.entries[at].keyspace, self.entries[at].key_id.clone());
        self.keyspace_of(at).counters.evicted_total += 1;
        self.report(Event::Evicted { keyspace, key_id });
    }
}
