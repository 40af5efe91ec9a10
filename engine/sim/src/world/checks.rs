//! What must hold after every step, and what a step is compared with.

use super::{Stage, World, key_id, keyspace_id};
use crate::coverage::{Input, KeyState};
use crate::oracle::{Checked, ExpectedGate, Tally, Violation, ensure};
use crate::plan::Name;
use keyway_core::{Refusal, Settings, TICK_US, View};

/// Ticks after which plaintext whose time is over must be gone: of the 50 that 100 ms may hold.
const TICKS_DEAD_MAX: u32 = 3;
/// For coverage, a tick counts as an input to every key once per this many steps.
const TICKS_COVERED_ONE_IN: u64 = 8;

/// What a tick is compared with.
pub(super) struct BeforeTick {
    /// When it began.
    at: u64,
    /// Waits that had used up their budget, as counted.
    timeouts: u64,
    /// Requests whose budget is used up, and the load that they wait for.
    used_up: Vec<(u64, Name, Option<u64>)>,
}

impl World<'_> {
    /// A new input to a shard.
    pub(super) fn begin(&mut self, shard: u16) {
        self.step += 1;
        self.time_passed(shard);
    }

    /// Time has passed within an input's turn.
    pub(super) fn time_passed(&mut self, shard: u16) {
        let (now, step) = (self.now, self.step);
        for keyspace in 0..self.plan.shape.keyspaces {
            self.oracle.terms(shard, keyspace).pass(now, step);
        }
    }

    /// The rest of an input's turn.
    pub(super) fn turn(&mut self, shard: u16) -> Checked {
        self.drain(shard)?;
        self.check(shard)
    }

    pub(super) fn tally(&mut self, shard: u16, keyspace: u8) -> &mut Tally {
        let tallies = &mut self.sites[usize::from(shard)].tallies;
        tallies.entry(keyspace).or_default()
    }

    pub(super) fn terms_now(&mut self, shard: u16, name: Name) -> Settings {
        self.oracle.terms(shard, name.keyspace).settings.clone()
    }

    pub(super) fn look(&self, shard: u16, name: Name) -> View {
        let core = &self.sites[usize::from(shard)].core;
        let view = core.view(self.instant(), keyspace_id(name.keyspace), &key_id(name));
        view.expect("every shard has every keyspace")
    }

    pub(super) fn cover(&mut self, shard: u16, input: Input, name: Name) {
        let view = self.look(shard, name);
        let terms = self.oracle.terms(shard, name.keyspace);
        let leased = terms.lease_end > self.now;
        let state = KeyState::of(&view, terms.gate, leased);
        self.coverage.reached(state, input);
    }

    /// Something that happens to every key of a shard.
    pub(super) fn cover_all(&mut self, shard: u16, input: Input) {
        if input == Input::Tick && !self.step.is_multiple_of(TICKS_COVERED_ONE_IN) {
            return;
        }
        for at in 0..self.sites[usize::from(shard)].names.len() {
            let name = self.sites[usize::from(shard)].names[at];
            self.cover(shard, input, name);
        }
    }

    pub(super) fn check(&mut self, shard: u16) -> Checked {
        let now = self.instant();
        let core = &self.sites[usize::from(shard)].core;
        core.audit().map_err(|violation| Violation {
            invariant: 0,
            what: violation.0,
        })?;
        self.check_limits(shard)?;
        self.check_wanting(shard)?;
        for keyspace in 0..self.plan.shape.keyspaces {
            let id = keyspace_id(keyspace);
            let site = &mut self.sites[usize::from(shard)];
            let counters = site.core.counters(id).expect("known");
            let tally = site.tallies.entry(keyspace).or_default();
            tally.check(counters)?;
            let gauges = site.core.gauges(now, id).expect("known");
            let node_wide = self.oracle.terms(shard, keyspace).settings.max_in_flight;
            let share = self.share_of(shard, node_wide);
            let terms = self.oracle.terms(shard, keyspace);
            let left_us = terms.lease_end.saturating_sub(self.now);
            ensure!(
                2,
                gauges.lease_left_us == left_us,
                "keyspace {keyspace}: the shard's lease has {} us left, what the KMS said {left_us}",
                gauges.lease_left_us
            );
            ensure!(
                12,
                gauges.max_in_flight_share == share,
                "keyspace {keyspace}: shard {shard} takes {} of max_in_flight, its share is {share}",
                gauges.max_in_flight_share
            );
            let (locked, denied) = (
                terms.gate == ExpectedGate::Locked,
                terms.gate == ExpectedGate::Denied,
            );
            ensure!(
                22,
                gauges.locked == locked && gauges.denied == denied,
                "keyspace {keyspace}: locked {}, denied {}, and must be {:?}",
                gauges.locked,
                gauges.denied,
                terms.gate
            );
        }
        Ok(())
    }

    fn check_limits(&self, shard: u16) -> Checked {
        let limits = &self.plan.shape.limits;
        let totals = self.sites[usize::from(shard)].core.totals();
        let alive = self.oracle.ledger.alive.borrow();
        let here = alive.values().filter(|alive| alive.shard == shard);
        let bytes: usize = here.map(|alive| alive.key_bytes).sum();
        let waiting = self
            .requests
            .values()
            .filter(|asked| asked.owner == shard && matches!(asked.stage, Stage::Waiting { .. }));
        let waiting = waiting.count();
        for (what, is, max) in [
            ("entries", totals.entries, limits.entries_max),
            ("bytes of keys", bytes, limits.key_bytes_max),
            ("flights", totals.flights, limits.flights_max),
            ("waiters", totals.waiters, limits.waiters_max),
            ("negatives", totals.negatives, limits.negatives_max),
            ("revocation marks", totals.revoked, limits.revoked_max),
        ] {
            ensure!(17, is <= max, "shard {shard}: {is} {what}, at most {max}");
        }
        ensure!(
            18,
            totals.waiters == waiting,
            "shard {shard}: {} waiters, and {waiting} requests wait",
            totals.waiters
        );
        Ok(())
    }

    /// An immediate answer: the request cannot have waited for the KMS.
    pub(super) fn check_refused_at_once(
        &mut self,
        shard: u16,
        name: Name,
        refusal: Refusal,
    ) -> Checked {
        ensure!(
            22,
            !matches!(refusal, Refusal::Unavailable { .. }),
            "{name:?}: {refusal:?} without having waited for the KMS"
        );
        self.check_refusal(shard, name, refusal)
    }

    pub(super) fn check_refusal(&mut self, shard: u16, name: Name, refusal: Refusal) -> Checked {
        let now = self.now;
        let terms = self.oracle.terms(shard, name.keyspace);
        let gate = terms.gate;
        let leased = terms.lease_end > now;
        let wants_dek = matches!(
            refusal,
            Refusal::NeedsUnlock { .. } | Refusal::Unavailable { .. }
        );
        ensure!(
            22,
            !(wants_dek && leased && gate == ExpectedGate::Open),
            "{name:?}: {refusal:?} under a live lease"
        );
        let promised = *self.oracle.promised(name);
        match refusal {
            Refusal::Retry { after_us }
            | Refusal::Unavailable { after_us }
            | Refusal::Overloaded { after_us } => {
                ensure!(22, after_us > 0, "{name:?}: a hint to come back at once");
            }
            Refusal::NeedsUnlock { ticket } => {
                let core = &self.sites[usize::from(shard)].core;
                let status = core.unlock_status(keyspace_id(name.keyspace), ticket);
                ensure!(
                    22,
                    status.is_some(),
                    "{name:?}: a ticket that tells nothing"
                );
            }
            Refusal::NotFound => ensure!(
                14,
                promised.put_version == 0,
                "{name:?}: NOT_FOUND, and version {} was put",
                promised.put_version
            ),
            Refusal::Revoked => {
                let blob = self.store.newest(shard, name);
                ensure!(
                    22,
                    blob.is_some_and(|blob| blob.revoked),
                    "{name:?}: REVOKED, and was never revoked"
                );
            }
            Refusal::Invalid | Refusal::DeadlineExceeded => {}
            Refusal::NoKeyspace => ensure!(22, false, "{name:?}: all keyspaces exist"),
        }
        if let Refusal::Overloaded { .. } = refusal {
            self.check_overloaded(shard, name)?;
        }
        let closed = matches!(refusal, Refusal::Retry { .. } | Refusal::Unavailable { .. });
        ensure!(
            22,
            gate == ExpectedGate::Open || !closed,
            "{name:?}: {refusal:?} while {gate:?}"
        );
        Ok(())
    }

    /// The prefetcher leaves room for those who need a key now.
    fn check_overloaded(&self, shard: u16, name: Name) -> Checked {
        let limits = &self.plan.shape.limits;
        let core = &self.sites[usize::from(shard)].core;
        let keyspaces = 0..self.plan.shape.keyspaces;
        let background = keyspaces.filter_map(|at| core.counters(keyspace_id(at)));
        let background: u64 = background.map(|counters| counters.prefetch_flights).sum();
        let reserve = limits.on_demand_reserve as u64;
        ensure!(
            12,
            background + reserve <= limits.flights_max as u64,
            "{name:?}: OVERLOADED, and {background} of {} flights are the prefetcher's",
            limits.flights_max
        );
        Ok(())
    }

    pub(super) fn before_tick(&self, shard: u16) -> BeforeTick {
        let mut used_up = Vec::new();
        for (id, asked) in &self.requests {
            if let Stage::Waiting { budget_ends_at, .. } = asked.stage
                && asked.owner == shard
                && asked.is_request()
                && budget_ends_at <= self.now
            {
                used_up.push((*id, asked.name, self.current.get(&asked.name).copied()));
            }
        }
        BeforeTick {
            at: self.now,
            timeouts: self.timeouts(shard),
            used_up,
        }
    }

    fn timeouts(&self, shard: u16) -> u64 {
        let core = &self.sites[usize::from(shard)].core;
        let keyspaces = 0..self.plan.shape.keyspaces;
        let counters = keyspaces.filter_map(|at| core.counters(keyspace_id(at)));
        counters
            .map(|counters| counters.singleflight_wait_timeout_total)
            .sum()
    }

    /// A tick takes a bounded time.
    pub(super) fn check_tick(&self, shard: u16, before: &BeforeTick) -> Checked {
        let ended = self.timeouts(shard) - before.timeouts;
        let most = self.plan.timers_per_tick() as u64;
        ensure!(
            24,
            ended <= most,
            "shard {shard}: one tick ended {ended} waits, at most {most}"
        );
        Ok(())
    }

    /// Ticks in which a timer that is due may have to wait for others.
    fn ticks_overdue_max(&self) -> u64 {
        let limits = &self.plan.shape.limits;
        let timers = limits.waiters_max + limits.flights_max;
        (timers / self.plan.timers_per_tick()) as u64
    }

    pub(super) fn after_tick(
        &mut self,
        shard: u16,
        before: BeforeTick,
        prefetched: Vec<Name>,
    ) -> Checked {
        let (now, overdue_max) = (before.at, self.ticks_overdue_max());
        for (id, asked) in &mut self.requests {
            if let Stage::Waiting { until, .. } = asked.stage
                && asked.owner == shard
                && now >= until.saturating_add(TICK_US)
            {
                asked.ticks_overdue += 1;
                ensure!(
                    6,
                    asked.ticks_overdue <= overdue_max,
                    "#{id}: waits at {now}, its time limit was {until}"
                );
            }
        }
        for (id, name, load) in before.used_up {
            let gone = !self.requests.contains_key(&id)
                || matches!(self.requests[&id].stage, Stage::Answered);
            if gone && load.is_some() && self.current.get(&name).copied() == load {
                self.tally(shard, name.keyspace).timeouts_min += 1;
            }
        }
        let limit_us = self.plan.shape.limits.flight_time_limit_us;
        for (name, number) in &self.current {
            let Some(loading) = self.loads.get_mut(number) else {
                continue;
            };
            if loading.shard == shard && now >= loading.queued_at + limit_us + TICK_US {
                loading.ticks_overdue += 1;
            }
            ensure!(
                5,
                loading.ticks_overdue <= overdue_max,
                "{name:?}: its flight began at {} and is in progress at {now}",
                loading.queued_at
            );
        }
        self.check_awaiting(shard, now)?;
        self.check_prefetched(shard, &prefetched)?;
        self.check_wiped(shard, now)
    }

    fn check_prefetched(&self, shard: u16, prefetched: &[Name]) -> Checked {
        let limits = &self.plan.shape.limits;
        let core = &self.sites[usize::from(shard)].core;
        let unreserved = limits.flights_max - limits.on_demand_reserve;
        for name in prefetched {
            let flights = core.totals().flights;
            ensure!(
                12,
                flights <= unreserved,
                "{name:?}: prefetched, now {flights} fly, and {unreserved} may without need"
            );
            let id = keyspace_id(name.keyspace);
            let share = core
                .settings(id)
                .map_or(0, |set| self.share_of(shard, set.max_in_flight));
            let flying = core.counters(id).map_or(0, |count| count.prefetch_flights);
            ensure!(
                12,
                flying <= u64::from(share),
                "{name:?}: prefetched, now {flying} fly, and this shard's share is {share}"
            );
        }
        Ok(())
    }

    /// A shard's part of `max_in_flight`: the first shards take the remainder.
    pub(super) fn share_of(&self, shard: u16, node_wide: u32) -> u32 {
        let shards = self.sites.len() as u32;
        node_wide / shards + u32::from(u32::from(shard) < node_wide % shards)
    }

    /// A flight that waits for a DEK also has a time limit.
    fn check_awaiting(&mut self, shard: u16, now: u64) -> Checked {
        let limit_us = self.plan.shape.limits.flight_time_limit_us;
        let site = &self.sites[usize::from(shard)];
        let loading = self
            .current
            .keys()
            .filter(|name| self.owner(**name) == shard);
        if site.core.totals().flights == loading.count() {
            self.awaiting.retain(|name, _| !site.names.contains(name));
            return Ok(());
        }
        for name in site.names.clone() {
            if !self.look(shard, name).refreshing || self.current.contains_key(&name) {
                self.awaiting.remove(&name);
                continue;
            }
            let overdue_max = self.ticks_overdue_max();
            let (since, ticks_overdue) = self.awaiting.entry(name).or_insert((now, 0));
            *ticks_overdue += u64::from(now >= *since + limit_us + 2 * TICK_US);
            ensure!(
                5,
                *ticks_overdue <= overdue_max,
                "{name:?}: its flight has waited for a DEK since {since}"
            );
        }
        Ok(())
    }

    fn check_wiped(&mut self, shard: u16, now: u64) -> Checked {
        let ledger = std::rc::Rc::clone(&self.oracle.ledger);
        for alive in ledger.alive.borrow_mut().values_mut() {
            if alive.shard != shard {
                continue;
            }
            let hard = self.oracle.terms(shard, alive.name.keyspace).hard_of(alive);
            let revoked = self.oracle.promised(alive.name).revoked;
            if now < hard && !revoked {
                continue;
            }
            alive.ticks_dead += 1;
            ensure!(
                3,
                alive.ticks_dead <= TICKS_DEAD_MAX,
                "{:?}: in memory, {TICKS_DEAD_MAX} ticks after its end at {hard}",
                alive.name
            );
        }
        Ok(())
    }
}
