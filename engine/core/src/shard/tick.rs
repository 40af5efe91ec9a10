//! The passage of time: timers, the prefetcher's passes, sweeps.

use super::{LeaseTimer, Shard, WaitTimer};
use crate::action::Urgency;
use crate::entry::{Key, State, StateList, USED};
use crate::flight::Origin;
use crate::grant::Grant;
use crate::keyspace::{Gate, Keyspace, Purged};
use crate::prefetch::{SCAN_PERIOD_US, SCANNED_MAX};
use crate::slots::At;
use crate::time::Instant;

impl<V> Shard<V> {
    /// Does what is due. Call it every millisecond or two: waits end, and plaintext is dropped, as promptly as this is
    /// called. Expired keys are not used in the meantime, since every use checks the time itself. A call takes a bounded
    /// time: if more waits end together than [`Limits::timers_per_tick_max`](crate::Limits::timers_per_tick_max), the
    /// rest end in the next calls.
    pub fn handle_tick(&mut self, now: Instant) {
        self.leases.advance(now);
        while let Some(timer) = self.leases.pop() {
            match timer {
                LeaseTimer::Ask(keyspace) => self.handle_alarm(now, keyspace),
                LeaseTimer::End(keyspace) => self.handle_lease_end(now, keyspace),
            }
        }
        self.waits.advance(now);
        for _ in 0..self.limits.timers_per_tick_max {
            let Some(timer) = self.waits.pop() else {
                break;
            };
            match timer {
                WaitTimer::Waiter(waiter) => self.handle_waiter_timer(now, waiter),
                WaitTimer::Flight(flight) => self.handle_flight_limit(now, flight),
            }
        }
        self.ages.advance(now);
        for _ in 0..self.step() {
            let Some(entry) = self.ages.pop() else {
                break;
            };
            self.handle_entry_timer(now, entry);
        }
        self.sweep(now);
        if now >= self.next_pass.at {
            self.next_pass.at = now.plus_us(SCAN_PERIOD_US);
            self.scan_next(now);
        }
    }

    /// Makes one pass over the keyspaces whose turn it is: all, if they are not too many.
    fn scan_next(&mut self, now: Instant) {
        let places = self.keyspaces.places();
        let from = self.next_pass.from;
        self.next_pass.from += SCANNED_MAX;
        if self.next_pass.from >= self.keyspaces.len() {
            self.next_pass.from = 0;
        }
        for keyspace in places.skip(from).take(SCANNED_MAX) {
            self.scan(now, keyspace);
        }
    }

    /// Makes one pass of the prefetcher over a keyspace: fills the free part of this shard's share of `max_in_flight`
    /// with urgent keys first, then those that are due, then those to reload after an unlock or the return of the DEK,
    /// then those of a warm start. Due keys that are left over count as skipped.
    fn scan(&mut self, now: Instant, keyspace_at: At<Keyspace>) {
        let keyspace = &mut self.keyspaces[keyspace_at];
        if keyspace.settings.max_in_flight == 0 {
            return;
        }
        keyspace.counters.prefetch_scan_total += 1;
        if keyspace.gate != Gate::Open || !keyspace.has_lease(now) {
            return;
        }
        while self.has_room_for_prefetch(keyspace_at)
            && let Some((at, origin)) = self.next_to_prefetch(keyspace_at)
        {
            let counters = &mut self.keyspaces[keyspace_at].counters;
            match origin {
                Origin::Prefetch(_) => counters.prefetch_trigger_total += 1,
                Origin::Warm => counters.prefetch_warm_total += 1,
                Origin::Demand | Origin::Reload | Origin::Again => {}
            }
            self.start_flight(now, at, origin);
        }
        let keyspace = &mut self.keyspaces[keyspace_at];
        keyspace.counters.prefetch_skipped_total += keyspace.due_keys() as u64;
        self.end_unlock_if_reloaded(keyspace_at);
    }

    pub(super) fn has_room_for_prefetch(&self, keyspace_at: At<Keyspace>) -> bool {
        let keyspace = &self.keyspaces[keyspace_at];
        let unreserved = self.limits.flights_max - self.limits.on_demand_reserve;
        keyspace.counters.prefetch_flights < u64::from(keyspace.share)
            && self.group.flying() < unreserved
    }

    fn next_to_prefetch(&mut self, keyspace_at: At<Keyspace>) -> Option<(At<Key>, Origin)> {
        let keyspace = &self.keyspaces[keyspace_at];
        if let Some(at) = keyspace.urgent.front() {
            return Some((at, Origin::Prefetch(Urgency::Urgent)));
        }
        if let Some(at) = keyspace.ahead.front() {
            return Some((at, Origin::Prefetch(Urgency::Ahead)));
        }
        if let Some(at) = keyspace.parked.front() {
            return Some((at, Origin::Reload));
        }
        if let Some(at) = self.next_invalid_to_reload(keyspace_at) {
            return Some((at, Origin::Reload));
        }
        let warm = self.keyspaces[keyspace_at].warm.front();
        warm.map(|at| (at, Origin::Warm))
    }

    /// Returns the next INVALID key to read. They take turns: the key is moved to the end of the list.
    fn next_invalid_to_reload(&mut self, keyspace_at: At<Keyspace>) -> Option<At<Key>> {
        loop {
            let keyspace = &mut self.keyspaces[keyspace_at];
            keyspace.invalid_to_reload = keyspace.invalid_to_reload.min(keyspace.invalid.len());
            if keyspace.invalid_to_reload == 0 {
                return None;
            }
            keyspace.invalid_to_reload -= 1;
            let at = keyspace.invalid.front()?;
            self.move_to_list(at, StateList::Invalid);
            if self.entries[at].flight.is_none() {
                return Some(at);
            }
        }
    }

    /// Queues the keyspace for a check of its resident keys.
    pub(super) fn sweep_later(&mut self, keyspace_at: At<Keyspace>) {
        let keyspace = &mut self.keyspaces[keyspace_at];
        if !keyspace.sweeping {
            keyspace.sweeping = true;
            self.sweeping.push_back(keyspace_at);
        }
    }

    /// Checks the resident keys of changed keyspaces, one step's worth. A list of residents is ordered by loads and
    /// checks: unchecked keys come first.
    pub(super) fn sweep(&mut self, now: Instant) {
        let (mut looks, step) = (0, self.step());
        while let Some(keyspace_at) = self.sweeping.front().copied() {
            let keyspace = &self.keyspaces[keyspace_at];
            let stop = match keyspace.resident.front() {
                None => true,
                Some(_) if looks == step => return,
                Some(at) => !self.sweep_entry(now, at),
            };
            looks += 1;
            if stop {
                self.sweeping.pop_front();
                self.keyspaces[keyspace_at].sweeping = false;
                self.end_unlock_if_reloaded(keyspace_at);
            }
        }
    }

    /// Drops a key that was purged, or resets the timer of one whose settings have changed. Returns `false` if it is up
    /// to date.
    fn sweep_entry(&mut self, now: Instant, at: At<Key>) -> bool {
        let entry = &mut self.entries[at];
        let keyspace = &self.keyspaces[entry.keyspace_at];
        let State::Live(live) = &mut entry.state else {
            unreachable!("residents are live");
        };
        if live.epoch != keyspace.terms.epoch() {
            let park = keyspace.purged == Purged::Parked
                && entry.touched & USED != 0
                && entry.flight.is_none();
            // Nothing more: a lock of a large keyspace visits many keys, and the duration determines how long plaintext
            // outlives the lock.
            self.drop_plaintext(at);
            if park {
                self.move_to_list(at, StateList::Parked);
            }
            return true;
        } else if live.armed_for != keyspace.terms.revision() {
            live.armed_for = keyspace.terms.revision();
            if Grant::check(live, &keyspace.terms, now).is_none() {
                self.expire(at);
            } else {
                self.move_to_list(at, StateList::Resident);
            }
        } else {
            return false;
        }
        self.update_schedule(now, at);
        true
    }
}
