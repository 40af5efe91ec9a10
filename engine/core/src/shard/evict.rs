//! Making room: CLOCK, with what is past its time first.
//!
//! One hand goes around the entries. A live key that was used since the hand passed is spared
//! once; one that is past `effective_hard` is not. Entries with a flight and revocation marks stay.
//! The hand spares at most [`SPARED_MAX`] keys in a row, so that a shard full of hot keys does not
//! hold up the request that needs the room: it then takes the next key, used or not.

use super::Shard;
use crate::entry::{Key, REFERENCED, State};
use crate::event::Event;
use crate::grant::Grant;
use crate::slots::At;
use crate::time::Instant;

const SPARED_MAX: usize = 128;

/// What is short.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Short {
    Entries,
    KeyBytes,
}

impl<V> Shard<V> {
    /// Removes one entry. False: nothing can be removed.
    pub(super) fn evict_entry(&mut self, now: Instant) -> bool {
        // A missing key costs a read to find missing again, any other one an unlock as well.
        self.forget_oldest_negative() || self.evict(now, Short::Entries)
    }

    /// Makes room for `bytes` of a key that takes the place of the one at `at`, if there is one.
    /// False: there is not enough to evict. Keys with a flight, such as this one, stay.
    pub(super) fn make_room(&mut self, now: Instant, at: At<Key>, bytes: usize) -> bool {
        if bytes > self.limits.key_bytes_max {
            return false;
        }
        while !self.has_room_for_key(at, bytes) {
            if !self.evict(now, Short::KeyBytes) {
                return false;
            }
        }
        true
    }

    /// Whether `bytes` of a key fit in the place of the one at `at` as things are.
    pub(super) fn has_room_for_key(&self, at: At<Key>, bytes: usize) -> bool {
        let replaced = self.entries[at].live().map_or(0, |live| live.key_bytes);
        self.key_bytes - replaced + bytes <= self.limits.key_bytes_max
    }

    fn evict(&mut self, now: Instant, short: Short) -> bool {
        let slots = self.entries.high_water();
        let mut spared = 0;
        // Twice around: the first turn may do nothing but spare.
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
                    } else if entry.touched & REFERENCED != 0 && spared < SPARED_MAX {
                        self.entries[at].touched &= !REFERENCED;
                        spared += 1;
                        continue;
                    } else {
                        self.count_eviction(at);
                    }
                }
                _ if short == Short::KeyBytes => continue,
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
