//! The process: it starts, and it dies.

use super::{Event, Place, Site, World, key_id, keyspace_id};
use crate::dice::Dice;
use crate::oracle::{Checked, Tally, Terms, ensure};
use crate::plan::{Mood, Name};
use crate::store::Blob;
use keyway_core::{Limits, RENEW_EARLY_PPM_MAX, Shard};
use keyway_protocol::Router;
use std::collections::BTreeMap;

const CRASH: u64 = 1;
const EARLY: u64 = 9;
/// From this seed on, every second process renews its leases early. The seeds before keep the
/// histories that they had when all leases were renewed at half.
const EARLY_FROM_SEED: u64 = 100_000;

impl World<'_> {
    /// The catalogue and the store of a node that has been set up.
    pub(super) fn fill(&mut self) {
        let shape = &self.plan.shape;
        for keyspace in 0..shape.keyspaces {
            self.control
                .settings
                .insert(keyspace, shape.settings.clone());
            self.control.locked.insert(keyspace, false);
            self.control.generation.insert(keyspace, 1);
            for key in 0..shape.stored {
                let name = Name { keyspace, key };
                let blob = Blob {
                    version: 1,
                    dek_generation: 1,
                    not_after: None,
                    corrupt: false,
                    revoked: false,
                };
                self.store.insert(name, blob);
                self.oracle.promised(name).put_version = 1;
            }
        }
    }

    pub(super) fn boot(&mut self, shards: u16) -> Checked {
        self.router = Router::new([7; 16], shards).expect("a valid shard count");
        self.oracle.terms.clear();
        let renew_early_ppm = renew_early_ppm(self.plan.seed, self.incarnation);
        for shard in 0..shards {
            let limits = Limits {
                shard_index: shard,
                shard_count: shards,
                renew_early_ppm,
                timers_per_tick_max: self.plan.timers_per_tick(),
                ..self.plan.shape.limits
            };
            let seed = self.plan.seed ^ (self.incarnation << 32) ^ u64::from(shard);
            let core = Shard::new(limits, seed).expect("the limits are valid");
            let names = self.all_names().filter(|name| self.owner(*name) == shard);
            let names = names.collect();
            self.sites.push(Site {
                core,
                names,
                deks: BTreeMap::new(),
                tallies: BTreeMap::new(),
                next_tick: self.now + 1,
                idle_ticks: 0,
                stalled_until: 0,
                late_results: 0,
                seal_generations: BTreeMap::new(),
            });
            for (keyspace, settings) in self.control.settings.clone() {
                let terms = Terms::new(settings.clone());
                self.oracle.terms.insert((shard, keyspace), terms);
                let site = &mut self.sites[usize::from(shard)];
                site.tallies.insert(keyspace, Tally::default());
                let id = keyspace_id(keyspace);
                let made = site.core.handle_keyspace(
                    keyway_core::Instant::from_micros(self.now),
                    id,
                    settings,
                );
                made.expect("the settings are valid");
            }
        }
        for shard in 0..shards {
            for (keyspace, locked) in self.control.locked.clone() {
                if locked {
                    self.gate(shard, keyspace, true)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, number: u64) -> Checked {
        let mut dice = Dice::of(self.plan.seed, CRASH, number, 0);
        let hot = self.keys_in_use();
        self.incarnation += 1;
        self.queue.clear();
        self.sites.clear();
        self.control.calls.clear();
        self.loads.clear();
        self.current.clear();
        self.awaiting.clear();
        self.dek_missed.clear();
        self.mesh_load.clear();
        // Every connection closes with the process.
        let requests = std::mem::take(&mut self.requests);
        self.over.extend(requests.keys());
        let alive = self.oracle.ledger.alive.borrow().len();
        ensure!(3, alive == 0, "{alive} keys outlive their shards");
        self.store.crash(&mut dice);
        for (name, promised) in &self.oracle.promised {
            let blob = self.store.durable(*name);
            let kept = blob.map_or(0, |blob| blob.version) >= promised.put_version;
            ensure!(16, kept, "{name:?}: an acknowledged put is gone");
            let revoked = blob.is_some_and(|blob| blob.revoked);
            ensure!(
                16,
                revoked || !promised.revoked,
                "{name:?}: an acknowledged revocation is gone"
            );
        }
        self.now += dice.range(1, 3_000_000);
        let shards = if dice.one_in(3) {
            dice.range(1, 4) as u16
        } else {
            self.plan.shape.shards
        };
        self.boot(shards)?;
        for name in hot {
            let owner = self.owner(name);
            self.schedule(0, Place::Shard(owner), Event::Hot(name));
        }
        Ok(())
    }

    /// What a shard periodically saves for the next start.
    fn keys_in_use(&self) -> Vec<Name> {
        let alive = self.oracle.ledger.alive.borrow();
        let mut names: Vec<Name> = alive.values().map(|alive| alive.name).collect();
        names.dedup();
        names
    }

    fn all_names(&self) -> impl Iterator<Item = Name> + use<> {
        let (keyspaces, keys) = (self.plan.shape.keyspaces, self.plan.shape.keys);
        (0..keyspaces).flat_map(move |keyspace| (0..keys).map(move |key| Name { keyspace, key }))
    }

    pub(super) fn owner(&self, name: Name) -> u16 {
        self.router
            .shard_of(keyspace_id(name.keyspace).0, &key_id(name))
    }

    pub(super) fn shard_at(&self, shard: u16) -> u16 {
        shard % self.sites.len() as u16
    }

    /// KMS, store and every thread work again.
    pub(super) fn mend(&mut self) {
        self.kms.mood = Mood::Good;
        self.kms.takes_us = 500;
        self.kms.late_us = 0;
        self.store.mood = crate::plan::StoreMood {
            load_us: 50,
            ..crate::plan::StoreMood::default()
        };
        self.is_calm = self.plan.writes_wait();
        for site in &mut self.sites {
            site.stalled_until = 0;
        }
    }
}

/// Drawn at the start of a process, for all its shards.
fn renew_early_ppm(seed: u64, incarnation: u64) -> u32 {
    let mut dice = Dice::of(seed, EARLY, incarnation, 0);
    if seed < EARLY_FROM_SEED || dice.one_in(2) {
        return 0;
    }
    dice.range(1, u64::from(RENEW_EARLY_PPM_MAX)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_come_early_in_newer_histories_only_and_there_in_half_of_the_processes() {
        assert!((0..EARLY_FROM_SEED).all(|seed| renew_early_ppm(seed, seed % 3) == 0));
        let newer = (EARLY_FROM_SEED..).take(1_000);
        let drawn: Vec<u32> = newer.map(|seed| renew_early_ppm(seed, seed % 3)).collect();
        assert!(drawn.iter().all(|ppm| *ppm <= RENEW_EARLY_PPM_MAX));
        let early = drawn.iter().filter(|ppm| **ppm != 0).count();
        assert!((400..600).contains(&early), "{early} of 1000 renew early");
        assert!(drawn.iter().any(|ppm| *ppm > RENEW_EARLY_PPM_MAX / 10 * 9));
    }

    #[test]
    fn a_process_draws_anew_when_it_starts_again() {
        let drawn = [0, 1, 2, 3, 4, 5].map(|incarnation| renew_early_ppm(1_000_000, incarnation));
        assert!(drawn.iter().any(|ppm| *ppm != drawn[0]), "{drawn:?}");
    }
}
