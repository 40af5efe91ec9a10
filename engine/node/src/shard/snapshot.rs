//! The snapshot of a shard, once a second.

use keyway_core::KeyspaceId;

use super::Shard;
use super::figures::{
    KeyspaceFigures, ShardFigures, ShardTotals, WaitingFigures, WarmStartFigures,
};
use super::port::Port;

impl<P: Port> Shard<P> {
    /// Returns the shard's measurements, and restarts the search for the oldest key served.
    pub fn figures(&mut self) -> ShardFigures {
        let warm = &self.upkeep.warm;
        ShardFigures {
            warm_start: WarmStartFigures {
                settled: warm.is_settled(),
                keys_total: warm.keys_total(),
                keys_left: warm.keys_left(),
            },
            connections: self.out.connections.len() as u64,
            unsent_answer_bytes: self.out.connections.accounts.unsent_bytes() as u64,
            waiting: WaitingFigures {
                jobs: (self.jobs.len() - self.slow.len().min(self.jobs.len())) as u64,
                loads: self.loads.len() as u64,
                slow: self.slow.len() as u64,
            },
            totals: ShardTotals {
                panics_total: self.out.panics_total,
                ..self.upkeep.counts
            },
            keyspaces: self.keyspace_figures(),
        }
    }

    fn keyspace_figures(&mut self) -> Vec<KeyspaceFigures> {
        if self.core.is_broken() {
            return Vec::new();
        }
        let now = self.timed.now();
        let mut figures = Vec::with_capacity(self.governed.len());
        for (_, governed) in self.governed.iter() {
            let id = KeyspaceId(governed.id);
            let oldest = self.core.call(|core| core.take_oldest_served_age(id));
            let core = self.core.view();
            let (Some(counters), Some(gauges)) = (core.counters(id), core.gauges(now, id)) else {
                continue;
            };
            figures.push(KeyspaceFigures {
                id: governed.id,
                name: governed.name.clone(),
                counters: counters.clone(),
                gauges,
                waiters_max: governed.waiters_max,
                oldest_served_age_us: oldest.unwrap_or(0),
                requests: self.out.counts(governed.number),
            });
        }
        figures
    }

    /// Returns the name of a keyspace, for the log.
    #[must_use]
    pub fn keyspace_name(&self, id: u32) -> Option<&str> {
        let at = self.governed.find(id)?;
        Some(&self.governed[at].name)
    }

    /// Returns the ticket that a keyspace's NEEDS_UNLOCK carries, for the log.
    #[must_use]
    pub fn ticket_of(&self, id: u32) -> u64 {
        let at = self.governed.find(id);
        at.map_or(0, |at| self.governed[at].ticket)
    }
}
