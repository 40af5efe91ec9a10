//! Virtual time: a queue of what will happen, and the ticks of the shards.

use super::{Event, Place, World};
use crate::coverage::Input;
use crate::oracle::Checked;
use crate::schedule::Scheduled;
use keyway_core::Instant;

/// Ticks at full speed after the last thing that happened at a shard; then they get rarer.
const IDLE_TICKS: u32 = 12;
/// A shard with nothing to do ticks so many times in a soft TTL.
const IDLE_TICKS_PER_SOFT_TTL: u64 = 48;
/// The number of ticks after which the time between two doubles, and the most doublings.
const IDLE_TICKS_BEFORE_DOUBLING: u32 = 16;
const IDLE_DOUBLINGS_MAX: u32 = 6;

impl World<'_> {
    pub(super) fn instant(&self) -> Instant {
        Instant::from_micros(self.now)
    }

    pub(super) fn schedule(&mut self, after_us: u64, place: Place, event: Event) {
        self.sequence += 1;
        self.queue.push(Scheduled {
            at: self.now + after_us,
            sequence: self.sequence,
            incarnation: self.incarnation,
            event: (place, event),
        });
    }

    /// Lets time pass, with all that happens meanwhile.
    pub(super) fn advance(&mut self, us: u64) -> Checked {
        let to = self.now + us;
        loop {
            let event_at = self.queue.peek().map_or(u64::MAX, |event| event.at);
            let tick = (0..self.sites.len()).min_by_key(|at| self.sites[*at].next_tick);
            let tick_at = tick.map_or(u64::MAX, |at| self.sites[at].next_tick);
            if event_at.min(tick_at) > to {
                break;
            }
            if event_at <= tick_at {
                let Some(scheduled) = self.queue.pop() else {
                    break;
                };
                self.now = self.now.max(scheduled.at);
                self.happen(scheduled)?;
            } else if let Some(at) = tick {
                self.now = self.now.max(tick_at);
                self.tick(at as u16)?;
            }
        }
        // Handing out keys may have taken longer.
        self.now = self.now.max(to);
        Ok(())
    }

    fn happen(&mut self, scheduled: Scheduled<(Place, Event)>) -> Checked {
        if scheduled.incarnation != self.incarnation {
            return Ok(());
        }
        let shard = match scheduled.event.0 {
            Place::Control => return self.control(scheduled.event.1),
            Place::Shard(shard) => shard,
        };
        let site = &mut self.sites[usize::from(shard)];
        if site.stalled_until > self.now {
            let at = site.stalled_until;
            self.queue.push(Scheduled { at, ..scheduled });
            return Ok(());
        }
        site.wake(self.now);
        match scheduled.event.1 {
            Event::Process(request) => self.process(shard, request),
            Event::Deliver(request) => self.deliver(request),
            Event::Gone(request) => self.gone(shard, request),
            Event::SlowTurn(request) => self.slow_turn(shard, request),
            Event::Begins(load) => self.begins(shard, load),
            Event::Loaded(load) => self.loaded(shard, load),
            Event::LoadedAgain(flight) => self.loaded_again(shard, flight),
            Event::Synced(request) => self.synced(shard, request),
            Event::Lease {
                keyspace,
                event,
                dek,
            } => self.lease(shard, keyspace, event, dek),
            Event::Gate { keyspace, lock } => self.gate(shard, keyspace, lock),
            Event::Config { keyspace, settings } => self.configure(shard, keyspace, &settings),
            Event::Hot(name) => self.hot(shard, name),
            Event::Ask(_) | Event::Answered { .. } => unreachable!("events of the control thread"),
        }
    }

    fn tick(&mut self, shard: u16) -> Checked {
        let site = &mut self.sites[usize::from(shard)];
        if site.stalled_until > self.now {
            site.next_tick = site.stalled_until;
            return Ok(());
        }
        self.begin(shard);
        self.cover_all(shard, Input::Tick);
        let before = self.before_tick(shard);
        let now = self.instant();
        self.sites[usize::from(shard)].core.handle_tick(now);
        self.check_tick(shard, &before)?;
        let prefetched = self.drain(shard)?;
        self.after_tick(shard, before, prefetched)?;
        self.check(shard)?;
        self.plan_tick(shard);
        Ok(())
    }

    fn plan_tick(&mut self, shard: u16) {
        let (now, shape) = (self.now, &self.plan.shape);
        let site = &mut self.sites[usize::from(shard)];
        let totals = site.core.totals();
        let busy = totals.flights + totals.waiters + totals.sweeping > 0;
        site.idle_ticks = if busy { 0 } else { site.idle_ticks + 1 };
        site.next_tick = now + shape.tick_us;
        if site.idle_ticks > IDLE_TICKS {
            let settings = self.control.settings.values();
            let soft_ms = settings.map(|settings| settings.soft_ttl_ms).min();
            let rare_us = soft_ms.unwrap_or(1_000) * 1_000 / IDLE_TICKS_PER_SOFT_TTL;
            let site = &mut self.sites[usize::from(shard)];
            let doublings = (site.idle_ticks - IDLE_TICKS) / IDLE_TICKS_BEFORE_DOUBLING;
            let rare_us = rare_us << doublings.min(IDLE_DOUBLINGS_MAX);
            site.next_tick = now + shape.tick_us.max(rare_us);
        }
    }
}

impl super::Site {
    /// Something happens here: the next tick is not far.
    fn wake(&mut self, now: u64) {
        if self.idle_ticks > 0 {
            self.idle_ticks = 0;
            self.next_tick = self.next_tick.min(now + 1_000);
        }
    }
}
