//! The end of a history: faults stop, and everything comes to rest.

use super::World;
use super::log::LogMood;
use super::plan::{Asks, Key};
use crate::control::plan::{DiskMood, KmsMood};
use crate::oracle::{Checked, ensure};
use keyway_node::keyspace_change::Guard;
use keyway_protocol::Status;

const S: u64 = 1_000_000;
/// What is in progress ends: a call to a KMS takes 18 s at most, a write 14 s, and either is tried again within 10 s.
const SETTLES_US: u64 = 60 * S;
/// A rotation looks again after a minute at blobs that it could not open.
const ROTATES_US: u64 = 150 * S;
/// The operator's connection.
const OPERATOR: usize = 0;

impl World<'_> {
    pub(super) fn calm_down(&mut self) -> Checked {
        self.trace.note(self.now, || "the faults stop".into());
        self.is_calm = true;
        for kms in &mut self.kms {
            (kms.mood, kms.takes_us) = (KmsMood::Good, 500);
        }
        (self.disk.mood, self.disk.takes_us) = (DiskMood::Good, 500);
        self.set_log_mood(LogMood::Good, 100);
        self.pressure.end();
        for site in &mut self.sites {
            site.clock.calm_down();
        }
        for socket in &mut self.sockets {
            socket.unread_until = 0;
        }
        self.advance(SETTLES_US)?;
        for kms in 0..self.kms.len() {
            self.ask(OPERATOR, Asks::UnlockKms(kms), 0);
        }
        self.advance(S)?;
        let used = self.control.written().iter().map(|(id, _)| id);
        let used = used.filter(|id| !self.plan.is_unused(*id));
        let all: Vec<u32> = used.collect();
        for keyspace in &all {
            let unlock = Asks::Unlock {
                keyspace: *keyspace,
                watch: false,
                secret: true,
            };
            self.ask(OPERATOR, unlock, 0);
        }
        self.advance(ROTATES_US)?;
        self.check_rest(&all)?;
        self.check_keys()?;
        self.check_tickets()?;
        self.check_counts()
    }

    fn check_rest(&mut self, all: &[u32]) -> Checked {
        let waits = self.books.open().next();
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
        for (number, site) in self.sites.iter_mut().enumerate() {
            let waiting = site.shard.figures().waiting;
            ensure!(
                21,
                (waiting.jobs, waiting.loads, waiting.slow) == (0, 0, 0),
                "shard {number}: at rest there are {waiting:?}"
            );
        }
        self.check_strangers()?;
        for id in all {
            self.check_keyspace(*id)?;
        }
        self.check_blobs()
    }

    fn check_keyspace(&self, id: u32) -> Checked {
        let Ok(keyspace) = self.disk.durable.keyspace(id) else {
            ensure!(34, false, "keyspace {id} is gone from keyspaces.json");
            return Ok(());
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
        for (number, site) in self.sites.iter().enumerate() {
            let change = site.terms.get(&id).map(|terms| &terms.acted);
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
        let settings = self.books.keyspaces.get(&id).map(|book| &book.settings);
        for (name, setting) in settings.into_iter().flatten() {
            let is = match *name {
                "hard_ttl_ms" => guard.settings.hard_ttl_ms,
                "soft_ttl_ms" => guard.settings.soft_ttl_ms,
                "dek_lease_ms" => guard.settings.dek_lease_ms,
                _ => guard.settings.sign_wait_budget_us,
            };
            ensure!(
                34,
                setting.value.is_none_or(|value| value == is),
                "keyspace {id}: {name} was set to {:?}, and is {is:?}",
                setting.value
            );
        }
        Ok(())
    }

    /// Every key that is promised can be used.
    fn check_keys(&mut self) -> Checked {
        let keys = self.books.keys.iter();
        let certain = keys.filter(|(_, book)| {
            // Otherwise its newest version may be revoked.
            book.is_certain() && book.newest() > 0 && book.versions_sent.is_empty()
        });
        let certain: Vec<Key> = certain.map(|(key, _)| *key).collect();
        for key in certain {
            let is_ok = |status| status == Status::Ok;
            let status = self.ask_until(OPERATOR, Asks::Sign(key), is_ok)?;
            ensure!(
                21,
                status == Some(Status::Ok),
                "{key:?} is there, and at rest it is answered {status:?}"
            );
            self.check_versions(OPERATOR, key)?;
        }
        Ok(())
    }

    /// Every ticket has ended.
    fn check_tickets(&mut self) -> Checked {
        let tickets = &self.books.tickets;
        let all = tickets.given.iter().chain(&tickets.of_unlocks);
        let all: Vec<(u32, u64)> = all.copied().collect();
        for (keyspace, ticket) in all {
            let request = self.ask(OPERATOR, Asks::UnlockStatus { keyspace, ticket }, 0);
            self.advance(S)?;
            let state = self.books.tickets.states.get(&request);
            let state = state.cloned().unwrap_or_default();
            ensure!(
                30,
                matches!(state.as_str(), "done" | "failed" | "unknown" | "open"),
                "keyspace {keyspace}: at rest ticket {ticket} is {state:?}"
            );
        }
        Ok(())
    }
}
