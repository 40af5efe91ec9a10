//! Loads: what the store and the envelope make of them, and what may become of their results.

use super::{Event, Kind, Loading, Place, Stage, World, key_id, keyspace_id, name_of, number_of};
use crate::coverage::Input;
use crate::dice::Dice;
use crate::oracle::{Alive, Checked, ExpectedGate, SimKey, ensure};
use crate::plan::Name;
use keyway_core::WarmAdmission;
use keyway_core::{FlightId, Instant, KeyId, KeyspaceId, Lifecycle, LoadError, Loaded, Urgency};

const LOAD: u64 = 5;
const SIZE: u64 = 6;

impl World<'_> {
    /// The core requests a key.
    pub(super) fn load(
        &mut self,
        shard: u16,
        flight: FlightId,
        keyspace: KeyspaceId,
        key_id: &KeyId,
        urgency: Urgency,
    ) -> Checked {
        let name = name_of(keyspace, key_id);
        self.awaiting.remove(&name);
        self.load_count += 1;
        self.figures.loads += 1;
        let number = self.load_count;
        if let Some(other) = self.current.insert(name, number) {
            let other = &self.loads[&other];
            ensure!(
                4,
                false,
                "{name:?}: a second flight, while the one of {} us is in progress",
                other.started_at
            );
        }
        let mut dice = Dice::of(self.plan.seed, LOAD, number_of(name), self.step);
        let limit_us = self.plan.shape.limits.flight_time_limit_us;
        let fate = self.store.mood.fate(&mut dice, limit_us);
        self.trace.note(self.now, || {
            format!("  load {number} of {name:?} at {shard}, {urgency:?}, {fate:?}")
        });
        let loading = Loading {
            shard,
            name,
            flight,
            queued_at: self.now,
            started_at: self.now,
            started_step: self.step,
            found: None,
            fate,
            void: false,
            ticks_overdue: 0,
        };
        self.loads.insert(number, loading);
        if self.plan.takes_time() && dice.one_in(3) {
            let queues_us = dice.below(limit_us / 2);
            self.schedule(queues_us, Place::Shard(shard), Event::Begins(number));
            return Ok(());
        }
        self.read(shard, number)
    }

    /// A load that has queued for some time begins.
    pub(super) fn begins(&mut self, shard: u16, number: u64) -> Checked {
        self.begin(shard);
        self.read(shard, number)
    }

    fn read(&mut self, shard: u16, number: u64) -> Checked {
        let (now, step) = (self.instant(), self.step);
        let Some(loading) = self.loads.get_mut(&number) else {
            return Ok(());
        };
        let core = &mut self.sites[usize::from(shard)].core;
        let is_wanted = core.begin_load(now, loading.flight);
        ensure!(
            9,
            is_wanted != loading.void,
            "load {number} of {:?}: its flight is over: {}, and it begins: {is_wanted}",
            loading.name,
            loading.void
        );
        if !is_wanted {
            self.loads.remove(&number);
            return Ok(());
        }
        loading.started_at = self.now;
        loading.started_step = step;
        loading.found = self.store.durable(loading.name);
        let takes_us = loading.fate.takes_us;
        self.trace
            .note(self.now, || format!("  load {number} begins"));
        self.schedule(takes_us, Place::Shard(shard), Event::Loaded(number));
        Ok(())
    }

    /// The flight of a key is over without its load: what that brings is void.
    pub(super) fn void_flight(&mut self, name: Name) {
        if let Some(number) = self.current.remove(&name)
            && let Some(loading) = self.loads.get_mut(&number)
        {
            loading.void = true;
        }
    }

    /// A flight is known to be over: the next one of this key starts from nothing.
    pub(super) fn flight_ended(&mut self, name: Name) {
        self.awaiting.remove(&name);
        self.dek_missed.remove(&name);
    }

    /// As [`World::void_flight`], for all keys of a keyspace at a shard.
    pub(super) fn void_flights(&mut self, shard: u16, keyspace: u8) {
        let names: Vec<Name> = self
            .current
            .iter()
            .filter(|(name, load)| name.keyspace == keyspace && self.loads[*load].shard == shard)
            .map(|(name, _)| *name)
            .collect();
        for name in names {
            self.void_flight(name);
        }
    }

    pub(super) fn loaded(&mut self, shard: u16, number: u64) -> Checked {
        let Some(loading) = self.loads.get(&number).cloned() else {
            return Ok(());
        };
        self.begin(shard);
        let name = loading.name;
        self.loads.remove(&number);
        if !loading.void {
            self.current.remove(&name);
        }
        let overtaken = loading.started_step < self.oracle.promised(name).put_step;
        let result = self.open(&loading, number);
        let input = match &result {
            _ if loading.void => Input::LateResult,
            Ok(loaded) if loaded.version < self.oracle.promised(name).put_version => {
                Input::LoadedOlder
            }
            Ok(_) => Input::Loaded,
            Err(error) => Input::of(*error),
        };
        self.cover(shard, input, name);
        let error = result.as_ref().err().copied();
        self.trace.note(self.now, || {
            format!(
                "  load {number} of {name:?}: {}{}{}",
                error.map_or("a key".into(), |error| format!("{error:?}")),
                if loading.void { ", void" } else { "" },
                if overtaken { ", overtaken" } else { "" },
            )
        });
        let unwraps = self.tally(shard, name.keyspace).unwraps;
        let before = self.look(shard, name);
        if error == Some(LoadError::DekMissing) && !loading.void && !overtaken {
            // Taken back if the flight ends by this.
            *self.dek_missed.entry(name).or_default() += 1;
        }
        let now = self.instant();
        let core = &mut self.sites[usize::from(shard)].core;
        let flights = core.totals().flights;
        core.handle_loaded(now, loading.flight, result);
        if loading.void {
            self.check_void(shard, name, number, flights)?;
            let after = self.look(shard, name);
            ensure!(
                9,
                before == after,
                "{name:?}: the result of a flight that is over changed {before:?} to {after:?}"
            );
            return self.turn(shard);
        }
        let leased = self.oracle.terms(shard, name.keyspace).lease_end > self.now;
        self.drain(shard)?;
        if loading.fate.repeats {
            let again = Event::LoadedAgain(loading.flight);
            self.schedule(100, Place::Shard(shard), again);
        }
        let alive = self.oracle.ledger.of(number).is_some();
        ensure!(
            9,
            !(alive && overtaken),
            "{name:?}: a load that a put overtook was committed"
        );
        if !overtaken {
            self.check_landed(shard, &loading, error, alive, unwraps, leased)?;
        }
        self.check(shard)
    }

    /// What a flight that is over brings must do nothing.
    fn check_void(&mut self, shard: u16, name: Name, number: u64, flights: usize) -> Checked {
        let alive = self.oracle.ledger.of(number).is_some();
        let promised = self.oracle.promised(name);
        ensure!(
            11,
            !(alive && promised.revoked),
            "{name:?}: a load that a revocation voided was committed"
        );
        ensure!(
            9,
            !alive,
            "{name:?}: the result of a flight that is over was committed"
        );
        let site = &mut self.sites[usize::from(shard)];
        ensure!(
            5,
            site.core.totals().flights == flights,
            "{name:?}: a result of an older generation ended a flight"
        );
        site.late_results += 1;
        let counted = site.core.totals().late_results_total;
        ensure!(
            20,
            counted == site.late_results,
            "{counted} late results counted, and there were {}",
            site.late_results
        );
        Ok(())
    }

    /// A flight's own result: who waited is answered, and the key is what the result says.
    fn check_landed(
        &mut self,
        shard: u16,
        loading: &Loading,
        error: Option<LoadError>,
        alive: bool,
        unwraps: u64,
        leased: bool,
    ) -> Checked {
        let name = loading.name;
        if error == Some(LoadError::DekMissing) {
            let missed = self.dek_missed.get(&name).copied().unwrap_or_default();
            ensure!(
                5,
                missed <= 1,
                "{name:?}: its flight goes on, and has lacked a DEK {missed} times"
            );
        } else {
            self.dek_missed.remove(&name);
        }
        if error == Some(LoadError::DekMissing) || (error.is_none() && !leased) {
            ensure!(2, !alive, "{name:?}: was committed without a live lease");
            return Ok(());
        }
        let stays = self.requests.iter().find(|(_, asked)| {
            asked.name == name && asked.is_request() && matches!(asked.stage, Stage::Waiting { .. })
        });
        ensure!(
            8,
            stays.is_none(),
            "{name:?}: the load ended ({error:?}), and {stays:?} still waits"
        );
        let forces = self
            .requests
            .values()
            .filter(|asked| asked.name == name && asked.kind == Kind::Force);
        let forces = forces.count();
        let view = self.look(shard, name);
        if error == Some(LoadError::Corrupt) && forces == 0 {
            ensure!(
                13,
                view.lifecycle == Lifecycle::Invalid,
                "{name:?}: did not open, and is {:?}",
                view.lifecycle
            );
            let asked = self.tally(shard, name.keyspace).unwraps > unwraps;
            ensure!(13, !asked, "{name:?}: did not open, and called the KMS");
        }
        if error == Some(LoadError::NotFound) {
            let put = self.oracle.promised(name).put_version;
            ensure!(
                14,
                put == 0 || view.lifecycle != Lifecycle::Negative,
                "{name:?}: NEGATIVE, and version {put} was put"
            );
        }
        Ok(())
    }

    /// A loader that answers twice.
    pub(super) fn loaded_again(&mut self, shard: u16, flight: FlightId) -> Checked {
        self.begin(shard);
        let now = self.instant();
        let site = &mut self.sites[usize::from(shard)];
        let flights = site.core.totals().flights;
        site.core
            .handle_loaded(now, flight, Err(LoadError::Panicked));
        site.late_results += 1;
        ensure!(
            5,
            site.core.totals().flights == flights,
            "a second answer to a load ended a flight"
        );
        let action = site.core.poll_action();
        ensure!(5, action.is_none(), "a second answer caused {action:?}");
        self.check(shard)
    }

    /// What the rehydrator would make of the blob.
    fn open(&mut self, loading: &Loading, number: u64) -> Result<Loaded<SimKey>, LoadError> {
        let (name, fate) = (loading.name, loading.fate);
        let found = if fate.reads_first {
            loading.found
        } else {
            self.store.durable(name)
        };
        if fate.fails {
            return Err(LoadError::Store);
        }
        if fate.times_out {
            return Err(LoadError::TimedOut);
        }
        if fate.panics {
            return Err(LoadError::Panicked);
        }
        let blob = found.ok_or(LoadError::NotFound)?;
        if blob.revoked {
            return Err(LoadError::Revoked);
        }
        let dek = self.sites[usize::from(loading.shard)]
            .deks
            .get(&name.keyspace);
        let dek = dek.filter(|dek| dek.generation >= blob.dek_generation && !fate.loses_dek);
        let dek = dek.ok_or(LoadError::DekMissing)?;
        if blob.corrupt || !dek.right {
            return Err(LoadError::Corrupt);
        }
        // A store that returns older data is detected while the key's latest version is in memory; after that it is the
        // store's own promise.
        let known = self.look(loading.shard, name).version == blob.version;
        let version = blob.version - u32::from(fate.stale && known && blob.version > 1);
        let key_bytes =
            Dice::of(self.plan.seed, SIZE, number_of(name), u64::from(version)).range(50, 150);
        let alive = Alive {
            shard: loading.shard,
            name,
            version,
            started_at: loading.started_at,
            started_step: loading.started_step,
            committed_step: self.step,
            not_after: blob.not_after.unwrap_or(u64::MAX),
            key_bytes: key_bytes as usize,
            ticks_dead: 0,
        };
        Ok(Loaded {
            value: SimKey::new(&self.oracle.ledger, number, alive),
            version,
            key_bytes: key_bytes as usize,
            not_after: blob.not_after.map(Instant::from_micros),
            dek_generation: blob.dek_generation,
        })
    }

    pub(super) fn hot(&mut self, shard: u16, name: Name) -> Checked {
        self.begin(shard);
        self.cover(shard, Input::Hot, name);
        let terms = self.oracle.terms(shard, name.keyspace);
        let leased = terms.gate == ExpectedGate::Open && terms.lease_end > self.now;
        let node_wide = terms.settings.max_in_flight;
        let share = self.share_of(shard, node_wide);
        let (now, id) = (self.instant(), keyspace_id(name.keyspace));
        let before = self.look(shard, name);
        let core = &mut self.sites[usize::from(shard)].core;
        let warming = core.handle_warm_key(now, id, &key_id(name));
        self.trace
            .note(self.now, || format!("  hot {name:?}: {warming:?}"));
        let action = core.poll_action();
        ensure!(
            13,
            action.is_none(),
            "{name:?}: is hot, and caused {action:?}"
        );
        let queued = warming == WarmAdmission::Queued;
        ensure!(
            12,
            !queued || (leased && before.lifecycle == Lifecycle::Absent),
            "{name:?}: is {:?}, leased {leased}, and was queued as hot",
            before.lifecycle
        );
        let warming_keys = core.gauges(now, id).expect("known").warming_keys;
        ensure!(
            12,
            !queued || warming_keys <= share as usize,
            "{name:?}: {warming_keys} are queued as hot, and this shard's share is {share}"
        );
        self.check(shard)
    }
}
