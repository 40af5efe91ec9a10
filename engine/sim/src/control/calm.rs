//! Checks after every input, and at the end of a history, when faults stop and everything must complete.

use super::World;
use super::books::{BUDGET, SOFT_TTL};
use super::plan::{Asks, DiskMood, KmsMood};
use crate::oracle::{Checked, ensure};
use keyway_node::keyspace_change::Guard;

const S: u64 = 1_000_000;
/// Time within which everything in flight ends: a KMS call takes at most 18 s, a write 14 s, and either is retried within
/// 10 s.
const SETTLES_US: u64 = 60 * S;
/// A rotation checks again after a minute blobs that it could not open.
const ROTATES_US: u64 = 150 * S;

impl World<'_> {
    /// Checks the invariants after every input.
    pub(super) fn check(&mut self, _input: &'static str) -> Checked {
        let (commands, works) = self.control.under_way();
        let most = keyway_node::control::COMMANDS_MAX;
        ensure!(
            36,
            commands <= 2 * most,
            "{commands} commands, {works} works"
        );
        Ok(())
    }

    pub(super) fn cover(&mut self, keyspace: Option<u32>, input: &'static str) {
        match keyspace {
            Some(keyspace) => {
                if let Some(of) = self.control.state_of(keyspace) {
                    self.coverage.reached(of, input);
                }
            }
            None => self.cover_all(input),
        }
    }

    pub(super) fn cover_all(&mut self, input: &'static str) {
        // Including those that are not written yet.
        let ids: Vec<u32> = self.control.keyspaces().collect();
        for id in ids {
            if let Some(of) = self.control.state_of(id) {
                self.coverage.reached(of, input);
            }
        }
    }

    pub(super) fn calm_down(&mut self) -> Checked {
        self.trace.note(self.now, || "the faults stop".into());
        for kms in &mut self.kms {
            (kms.mood, kms.takes_us) = (KmsMood::Good, 500);
        }
        (self.disk.mood, self.disk.takes_us) = (DiskMood::Good, 500);
        for shard in &mut self.shards {
            (shard.stalled_until, shard.pages_fail) = (0, false);
        }
        self.advance(SETTLES_US)?;
        for kms in 0..self.kms.len() {
            self.ask(0, Asks::UnlockKms { kms }, None);
        }
        self.advance(S)?;
        let all: Vec<u32> = self.control.written().iter().map(|(id, _)| id).collect();
        for keyspace in &all {
            let (watch, secret) = (false, true);
            self.ask(
                0,
                Asks::Unlock {
                    keyspace: *keyspace,
                    watch,
                    secret,
                },
                None,
            );
        }
        self.advance(ROTATES_US)?;
        self.check_rest(&all)?;
        self.check_tickets()
    }

    fn check_rest(&mut self, all: &[u32]) -> Checked {
        let now = self.now;
        let mut requests = self.books.requests.values();
        let waits = requests.find(|asked| {
            let is_over = asked.deadline.is_some_and(|deadline| deadline <= now);
            !asked.is_answered && !is_over
        });
        ensure!(31, waits.is_none(), "no answer at rest: {waits:?}");
        let (commands, works) = self.control.under_way();
        ensure!(
            21,
            commands + works == 0 && !self.control.is_writing(),
            "at rest {commands} commands and {works} works are in progress"
        );
        ensure!(
            21,
            self.control.unwritten() == 0,
            "at rest {} changes are not written",
            self.control.unwritten()
        );
        for id in all {
            let durable = self.disk.durable.keyspace(*id).ok();
            let Some(keyspace) = durable else {
                ensure!(34, false, "keyspace {id} is gone from keyspaces.json");
                continue;
            };
            let guard = Guard::of(keyspace);
            ensure!(
                21,
                !keyspace.locked,
                "keyspace {id}: an unlock does not open it"
            );
            ensure!(
                21,
                !keyspace.has_older_deks(),
                "keyspace {id}: its rotation does not end"
            );
            for (number, shard) in self.shards.iter().enumerate() {
                let change = shard.keyspaces.get(id).map(|known| &known.change);
                ensure!(
                    34,
                    change.is_some_and(|change| change.guard == guard),
                    "keyspace {id}: at rest shard {number} acts by {change:?}, and {guard:?} is written"
                );
                let floor = change.map_or(0, |change| change.seal_floor);
                ensure!(
                    29,
                    floor == keyspace.generation(),
                    "keyspace {id}: at rest shard {number} seals under {floor}"
                );
            }
            let settings = guard.settings;
            for (name, is) in [
                (BUDGET, settings.sign_wait_budget_us),
                (SOFT_TTL, settings.soft_ttl_ms),
            ] {
                let setting = self.books.of(*id).settings.get(name).copied();
                if let Some((number, set)) = setting.and_then(|setting| setting.set)
                    && setting.is_some_and(|setting| setting.unknown < number)
                {
                    ensure!(
                        34,
                        is == set,
                        "keyspace {id}: {name} was set to {set}, and is {is}"
                    );
                }
            }
        }
        self.check_blobs()
    }

    /// Checks that every ticket has ended.
    fn check_tickets(&mut self) -> Checked {
        // The keyspaces are in use: every shard has a lease, and with it a later ticket.
        for shard in 0..self.plan.shards {
            let ids: Vec<u32> = self.control.written().iter().map(|(id, _)| id).collect();
            for keyspace in ids {
                self.say(shard, keyway_node::messages::ToControl::Unwrap { keyspace });
            }
        }
        self.advance(5 * S)?;
        let tickets = &self.books.tickets;
        let all: Vec<(u32, u64)> = tickets
            .given
            .iter()
            .chain(&tickets.of_unlocks)
            .copied()
            .collect();
        for (keyspace, ticket) in all {
            let token = self.ask_status(keyspace, ticket);
            self.advance(S)?;
            let state = self.books.states.get(&token).cloned().unwrap_or_default();
            ensure!(
                30,
                matches!(state.as_str(), "done" | "failed" | "unknown"),
                "keyspace {keyspace}: at rest ticket {ticket} is {state:?}"
            );
        }
        Ok(())
    }
}
