//! The end of a history: faults stop, every good key gets fresh, the prefetcher keeps hot keys so,
//! and at rest nothing is left over.

use super::{Event, Kind, World, keyspace_id, name_of};
use crate::oracle::{Checked, ensure};
use crate::plan::{Caller, Mood, Name, calm_settings};
use keyway_core::{Hottest, Lifecycle, UnlockState};

const MS: u64 = 1_000;
/// Request numbers of the calm, above those of all planned steps.
const CALM: u64 = 1 << 40;
/// A backoff lasts at most 10 s, and so does the pause between two unwrap requests.
const RECOVERS_WITHIN_US: u64 = 30_000 * MS;
const ASK_EVERY_US: u64 = 25 * MS;
/// How long hot keys are used, and how often. Several soft TTLs, so that each is refreshed.
const STEADY_US: u64 = 1_500 * MS;
const STEADY_EVERY_US: u64 = 12 * MS;
/// After this the first refreshes of the steady time are over.
const SETTLED_US: u64 = 500 * MS;
/// What is left of the oldest lease when leases are made short: some round trips to the KMS.
const SHORT_LEASE_MS: u64 = 400;
/// How long the KMS is unreachable during a write. Its hint is longer than that.
const OUTAGE_US: u64 = 300 * MS;
/// How long a write of the calm waits.
pub(super) const WRITE_WAIT_US: u64 = 3_000 * MS;
const REST_US: u64 = 3_000 * MS;
/// Longer than the longest TTL and lease of the calm.
const FORGET_US: u64 = 70_000 * MS;

impl World<'_> {
    pub(super) fn calm_down(&mut self) -> Checked {
        self.trace.note(self.now, || "the faults stop".into());
        self.mend();
        // Everything in flight ends within this; KMS calls take longest.
        self.advance(11_000 * MS)?;
        for keyspace in 0..self.plan.shape.keyspaces {
            let settings = calm_settings();
            self.control.settings.insert(keyspace, settings.clone());
            self.control.locked.insert(keyspace, false);
            self.everywhere(&Event::Config { keyspace, settings });
            self.advance(MS)?;
            // A lease that came with a wrong DEK would last: an operator takes it back first.
            let wrong = |site: &super::Site| site.deks.get(&keyspace).is_some_and(|dek| !dek.right);
            if self.sites.iter().any(wrong) {
                self.everywhere(&Event::Gate {
                    keyspace,
                    lock: true,
                });
                self.advance(MS)?;
            }
            self.everywhere(&Event::Gate {
                keyspace,
                lock: false,
            });
        }
        self.advance(MS)?;
        self.all_get_fresh()?;
        if self.plan.seed.is_multiple_of(2) {
            self.shorten_leases()?;
        }
        self.hot_keys_stay_fresh()?;
        self.advance(REST_US)?;
        self.check_rest()?;
        self.advance(FORGET_US)?;
        self.check_forgotten()?;
        if self.plan.writes_wait() {
            self.writes_sit_out_an_outage()?;
        }
        Ok(())
    }

    /// No lease is left and the KMS is briefly unreachable. A write in the meantime is done once the KMS recovers,
    /// without any other request.
    fn writes_sit_out_an_outage(&mut self) -> Checked {
        self.kms.mood = Mood::Unavailable;
        let shape = &self.plan.shape;
        let names = (0..shape.keyspaces)
            .flat_map(|keyspace| (0..shape.keys).map(move |key| Name { keyspace, key }));
        let mut unrevoked = names.filter(|name| {
            let newest = self.store.newest(self.owner(*name), *name);
            newest.is_none_or(|blob| !blob.revoked)
        });
        // One: some shards let no more wait.
        let Some(name) = unrevoked.next() else {
            return Ok(());
        };
        let by = Caller {
            connection: 200 + name.key,
            via: self.owner(name),
            allowed: true,
        };
        let id = CALM + self.request_count;
        let before = self.oracle.promised(name).put_version;
        self.ask(id, by, name, Kind::Put { not_after_us: None }, None)?;
        self.advance(OUTAGE_US)?;
        self.kms.mood = Mood::Good;
        self.advance(WRITE_WAIT_US)?;
        let version = self.oracle.promised(name).put_version;
        ensure!(
            21,
            version > before,
            "{name:?}: written during an outage of {OUTAGE_US} us, and not done {WRITE_WAIT_US} us after it"
        );
        Ok(())
    }

    /// Keys that the store can bring.
    fn good_names(&self) -> Vec<Name> {
        let names = self.store.names().into_iter();
        let good = names.filter(|name| {
            self.store
                .durable(*name)
                .is_some_and(|blob| !blob.revoked && !blob.corrupt && blob.not_after.is_none())
        });
        good.collect()
    }

    fn ask_for(&mut self, name: Name) -> Checked<Lifecycle> {
        let owner = self.owner(name);
        let by = Caller {
            connection: 200 + name.key,
            via: owner,
            allowed: true,
        };
        let id = CALM + self.request_count;
        self.ask(id, by, name, Kind::Request { slow: false }, None)?;
        Ok(self.look(owner, name).lifecycle)
    }

    fn all_get_fresh(&mut self) -> Checked {
        let until = self.now + RECOVERS_WITHIN_US;
        let mut stale = self.good_names();
        while !stale.is_empty() {
            let mut left = Vec::new();
            for name in stale {
                if self.ask_for(name)? != Lifecycle::Fresh {
                    left.push(name);
                }
            }
            stale = left;
            ensure!(
                21,
                stale.is_empty() || self.now < until,
                "{stale:?} are not FRESH after {RECOVERS_WITHIN_US} us without faults: {:?}",
                stale
                    .iter()
                    .map(|name| self.look(self.owner(*name), *name))
                    .collect::<Vec<_>>()
            );
            self.advance(ASK_EVERY_US)?;
        }
        Ok(())
    }

    /// Leases are made short, and none of them may end because of it.
    fn shorten_leases(&mut self) -> Checked {
        let terms = self.oracle.terms.values();
        let leased = terms.filter(|terms| terms.lease_end > self.now);
        let oldest_us = leased.map(|terms| self.now - terms.lease_sent).max();
        let mut settings = calm_settings();
        settings.dek_lease_ms = oldest_us.unwrap_or(0) / MS + SHORT_LEASE_MS;
        for keyspace in 0..self.plan.shape.keyspaces {
            let settings = settings.clone();
            self.control.settings.insert(keyspace, settings.clone());
            self.everywhere(&Event::Config { keyspace, settings });
        }
        self.advance(MS)
    }

    /// Two keys a shard at most, so that there is room for them.
    fn hot_keys_stay_fresh(&mut self) -> Checked {
        let mut used = std::collections::BTreeMap::<u16, u8>::new();
        let hot: Vec<Name> = self
            .good_names()
            .into_iter()
            .filter(|name| {
                let of_shard = used.entry(self.owner(*name)).or_default();
                *of_shard += 1;
                *of_shard <= 2
            })
            .collect();
        let (began_at, mut triggered) = (self.now, 0);
        while self.now < began_at + STEADY_US {
            for name in &hot {
                let lifecycle = self.ask_for(*name)?;
                ensure!(
                    21,
                    lifecycle == Lifecycle::Fresh || self.now < began_at + SETTLED_US,
                    "{name:?}: in use all the time, and {lifecycle:?}"
                );
            }
            self.advance(STEADY_EVERY_US)?;
        }
        self.check_hottest(&hot)?;
        for site in &self.sites {
            for id in site.core.keyspace_ids() {
                triggered += site
                    .core
                    .counters(id)
                    .map_or(0, |c| c.prefetch_trigger_total);
            }
        }
        ensure!(
            21,
            hot.is_empty() || triggered > 0,
            "hot keys were refreshed, and the prefetcher counts none"
        );
        Ok(())
    }

    /// What a shard would write down for its next start has each of these keys, and each once.
    fn check_hottest(&self, hot: &[Name]) -> Checked {
        let mut found = std::collections::BTreeMap::<Name, u32>::new();
        for site in &self.sites {
            let mut hottest = Hottest::new(site.names.len());
            while site.core.collect_hottest(&mut hottest) {}
            for (keyspace, key_id) in hottest.into_keys() {
                *found.entry(name_of(keyspace, &key_id)).or_default() += 1;
            }
        }
        for name in hot {
            let times = found.get(name).copied().unwrap_or_default();
            ensure!(
                21,
                times == 1,
                "{name:?}: in use all the time, and {times} times among the hottest"
            );
        }
        Ok(())
    }

    fn check_rest(&mut self) -> Checked {
        ensure!(
            20,
            self.requests.is_empty(),
            "requests without an answer: {:?}",
            self.requests
        );
        let on_mesh: usize = self.mesh_load.values().sum();
        ensure!(20, on_mesh == 0, "{on_mesh} requests on the mesh, at rest");
        for shard in 0..self.sites.len() as u16 {
            let core = &self.sites[usize::from(shard)].core;
            let totals = core.totals();
            let busy = totals.flights + totals.waiters + totals.sweeping;
            ensure!(20, busy == 0, "shard {shard} at rest: {totals:?}");
            for keyspace in 0..self.plan.shape.keyspaces {
                let id = keyspace_id(keyspace);
                let (now, core) = (self.instant(), &self.sites[usize::from(shard)].core);
                let counters = core.counters(id).expect("known");
                let gauges = core.gauges(now, id).expect("known");
                // Without a lease keys to be loaded unasked wait for the next one who asks.
                let parked = match gauges.lease_left_us {
                    0 => 0,
                    _ => (gauges.parked_keys + gauges.warming_keys) as u64,
                };
                let left = counters.flights
                    + counters.prefetch_flights
                    + counters.singleflight_waiters
                    + counters.force_waiters
                    + counters.dek_waiters
                    + gauges.due_keys as u64
                    + parked;
                ensure!(
                    20,
                    left == 0,
                    "shard {shard} at rest: {counters:?}, {gauges:?}"
                );
                let ticket = self.oracle.terms(shard, keyspace).ticket;
                let core = &self.sites[usize::from(shard)].core;
                let status = ticket.and_then(|ticket| core.unlock_status(id, ticket));
                ensure!(
                    21,
                    status.is_none_or(|status| status.state != UnlockState::Pending),
                    "shard {shard}: the unlock does not end: {status:?}"
                );
            }
        }
        Ok(())
    }

    /// Unused keys are left to expire, and their plaintext is gone.
    fn check_forgotten(&mut self) -> Checked {
        let alive = self.oracle.ledger.alive.borrow();
        ensure!(
            3,
            alive.is_empty(),
            "keys that were not used for {FORGET_US} us: {:?}",
            alive.values()
        );
        for site in &self.sites {
            for id in site.core.keyspace_ids() {
                let resident = site.core.counters(id).map_or(0, |c| c.resident_keys);
                ensure!(
                    20,
                    resident == 0,
                    "{resident} resident keys, and none lives"
                );
            }
        }
        Ok(())
    }
}
