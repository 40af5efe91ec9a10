//! When shards have to act by a change: a withdrawal soon after it began, every other change once it is answered.

use super::World;
use super::books::{Asked, BUDGET, SOFT_TTL};
use super::plan::Asks;
use super::process::uid_of;
use super::steps::IN_FORCE_WITHIN_US;
use crate::oracle::{Checked, ensure};
use keyway_node::policy::Principal;
use keyway_protocol::Grants;

impl World<'_> {
    /// A withdrawal must be in force by now, written or not.
    pub(super) fn check_withdrawn(&self, token: u64) -> Checked {
        let requests = &self.books.requests;
        let Some((asked, Asks::Withdraw { keyspace, who })) =
            requests.get(&token).map(|asked| (asked, asked.asks))
        else {
            return Ok(());
        };
        let Some(book) = self.books.keyspaces.get(&keyspace) else {
            return Ok(());
        };
        let was_refused = asked.is_answered && !book.withdrawn.contains_key(&who);
        let is_last = book.last_grant.get(&who) == Some(&asked.number);
        if was_refused || !is_last || self.is_asked(Asks::Grant { keyspace, who }) {
            return Ok(());
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let known = shard.keyspaces.get(&keyspace);
            let policy = known.map(|known| &known.change.guard.policy);
            let may = policy.is_some_and(|policy| {
                let rights = policy.rights(Principal::Uid(uid_of(who)));
                rights.intersects(Grants::SIGN)
            });
            let was_stalled = shard.stalled_until + IN_FORCE_WITHIN_US > self.now;
            ensure!(
                26,
                !may || was_stalled,
                "keyspace {keyspace}: {IN_FORCE_WITHIN_US} us after a withdrawal from {} began, shard {number} does not act by it",
                uid_of(who)
            );
        }
        Ok(())
    }

    fn is_asked(&self, asks: Asks) -> bool {
        let mut others = self.books.requests.values();
        others.any(|other| !other.is_answered && other.asks == asks)
    }

    /// A change was answered OK: what begins now sees it at every shard.
    pub(super) fn check_visible(&self, asked: &Asked) -> Checked {
        match asked.asks {
            Asks::Set {
                keyspace,
                budget_us,
            } => self.check_setting(keyspace, BUDGET, budget_us, asked),
            Asks::SoftTtl { keyspace, ms } => self.check_setting(keyspace, SOFT_TTL, ms, asked),
            _ => Ok(()),
        }
    }

    fn check_setting(
        &self,
        keyspace: u32,
        name: &'static str,
        value: u64,
        asked: &Asked,
    ) -> Checked {
        let mut others = self.books.requests.values();
        let overlaps = others.any(|other| {
            let is_same = match (other.asks, name) {
                (Asks::Set { keyspace: of, .. }, BUDGET)
                | (Asks::SoftTtl { keyspace: of, .. }, SOFT_TTL) => of == keyspace,
                _ => false,
            };
            is_same && !other.is_answered
        });
        let book = self.books.keyspaces.get(&keyspace);
        let Some(setting) = book.and_then(|book| book.settings.get(name)) else {
            return Ok(());
        };
        let is_last = setting.set == Some((asked.number, value))
            && setting.unknown < asked.number
            && setting.failed < asked.number;
        if overlaps || !is_last {
            return Ok(());
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let known = shard.keyspaces.get(&keyspace);
            let settings = known.map(|known| &known.change.guard.settings);
            let is = settings.map_or(value, |settings| match name {
                SOFT_TTL => settings.soft_ttl_ms,
                _ => settings.sign_wait_budget_us,
            });
            ensure!(
                37,
                is == value,
                "keyspace {keyspace}: {name} was set to {value}, that was answered OK, and shard {number} acts by {is}"
            );
        }
        Ok(())
    }
}
