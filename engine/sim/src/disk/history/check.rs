//! Ends of processes, and the end of a history.

use super::books::{Key, held, name_of};
use super::plan::KEYS;
use super::steps::{key_of, name};
use super::{World, route};
use crate::disk::{DiskMood, SimLog};
use crate::oracle::{Checked, ensure};
use keyway_node::port::KeyState;

/// All has to come to rest within this once the disk is good, µs.
const REST_US: u64 = 30_000_000;

impl World {
    pub(super) fn crash(&mut self, is_power_cut: bool, shards: u16) -> Checked {
        self.outcome.crashes += 1;
        self.asked.clear();
        let logs = std::mem::take(&mut self.logs);
        self.outcome.compacted += logs.iter().map(SimLog::compacted).sum::<u64>();
        self.disk.crash(logs, is_power_cut);
        self.books.end_process();
        self.logs = self.disk.start(self.now_us, shards, route(shards));
        let damage = self.disk.damage();
        ensure!(16, damage.is_empty(), "a start finds {damage:?}");
        self.check_all(true)
    }

    /// Checks all that the logs hold. At a start it is durable.
    fn check_all(&mut self, are_durable: bool) -> Checked {
        let mut records = Vec::new();
        for (shard, log) in self.logs.iter().enumerate() {
            for record in log.records() {
                let key = (record.keyspace, record.key_id.clone());
                let owner = self.shard_of(&key);
                let name = name_of(&key);
                ensure!(16, owner == shard, "{name} is at {shard}, not at {owner}");
                records.push(record);
            }
        }
        if are_durable {
            let live = records.iter().filter(|it| it.state == KeyState::Live);
            let secrets: usize = live.map(|it| held(it.version, &it.bytes).len()).sum();
            let entries = self.logs.iter().map(SimLog::revoked_versions_count);
            let entries: usize = entries.sum();
            ensure!(
                36,
                entries <= secrets,
                "{entries} revoked versions are remembered, and {secrets} are stored"
            );
        }
        self.books.check_all(records, are_durable)?;
        let logs = &self.logs;
        let uses_of = |key: &Key| logs[self.shard_of(key)].uses(name(key));
        self.books.check_uses(uses_of)
    }

    /// Faults stop: every log takes writes again, nothing waits, and no more than the share that is not worth a
    /// compaction is dead. Then the power is cut.
    pub(super) fn come_to_rest(&mut self) -> Checked {
        self.trace
            .note(self.now_us, || "the disk is good from now on".to_owned());
        self.disk.set_mood(DiskMood {
            takes_us: 100,
            ..DiskMood::default()
        });
        self.pass(REST_US)?;
        for number in 0..KEYS {
            self.put(key_of(number), 100);
        }
        self.pass(REST_US)?;
        for number in 0..KEYS {
            let key = key_of(number);
            let known = self.logs[self.shard_of(&key)].known(name(&key));
            let is_there = known
                .is_some_and(|known| matches!(known.state, KeyState::Live | KeyState::Revoked));
            ensure!(21, is_there, "{}: {known:?} at rest", name_of(&key));
        }
        ensure!(
            21,
            self.asked.is_empty(),
            "{} errands have no end",
            self.asked.len()
        );
        for (shard, log) in self.logs.iter().enumerate() {
            let (stats, in_flight) = (log.stats(), log.in_flight());
            let is_clean = in_flight == 0
                && !stats.poisoned
                && stats.revocations_bytes == 0
                && stats.pending_bytes == 0;
            ensure!(21, is_clean, "log {shard} at rest: {in_flight}, {stats:?}");
            // The active segment is not compacted, and half of the others may be dead.
            let dead_max = stats.live_bytes + 4096;
            ensure!(
                17,
                stats.dead_bytes <= dead_max,
                "log {shard} at rest: {stats:?}"
            );
        }
        self.check_all(false)?;
        let shards = self.logs.len() as u16;
        self.crash(true, shards)
    }
}
