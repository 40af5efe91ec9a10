//! The oracle's records of promises: commands and their answers, locks, rights, tickets, rotations. Independent of
//! control, which is never queried for what to expect.

use super::plan::Asks;
use crate::oracle::{Checked, ensure};
use keyway_node::ids::{CallId, QuestionId, Revision};
use keyway_node::keyspace_change::KeyspaceChange;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default)]
pub(super) struct Books {
    /// Commands in the order in which control began them.
    begun: u64,
    pub(super) requests: BTreeMap<u64, Asked>,
    pub(super) keyspaces: BTreeMap<u32, Book>,
    /// Highest generation that a ROTATE returned.
    pub(super) rotated: BTreeMap<u32, u32>,
    /// Calls in flight, and the keyspace of each.
    pub(super) calls: BTreeMap<CallId, Option<u32>>,
    /// Requests to shards, and the keyspace of each.
    pub(super) questions: BTreeMap<QuestionId, u32>,
    /// Unwraps in flight, by keyspace.
    unwraps: BTreeMap<u32, usize>,
    told: BTreeMap<(u32, Revision), KeyspaceChange>,
    pub(super) tickets: Tickets,
    /// The answers to UNLOCK_STATUS, by token.
    pub(super) states: BTreeMap<u64, String>,
}

/// Tickets of the running process.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Tickets in NEEDS_UNLOCK, in the order of their first use.
    pub(super) given: Vec<(u32, u64)>,
    /// Tickets returned by UNLOCK.
    pub(super) of_unlocks: Vec<(u32, u64)>,
    /// Tickets of NEEDS_UNLOCK that were reported as done.
    pub(super) done: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) asks: Asks,
    pub(super) ticket: Option<u64>,
    pub(super) deadline: Option<u64>,
    /// Its place in the order of commands; 0 if control has not begun it.
    pub(super) number: u64,
    pub(super) is_answered: bool,
    /// The keyspaces that it locks.
    pub(super) locks: Vec<u32>,
}

/// A keyspace.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) last_lock: u64,
    pub(super) last_unlock: u64,
    /// A lock was answered OK or "in force", and no unlock was begun since.
    pub(super) is_sealed: bool,
    /// As above, and it is written.
    pub(super) is_lock_written: bool,
    /// When each principal's grant was last changed.
    pub(super) last_grant: BTreeMap<u32, u64>,
    /// Principals whose withdrawal was answered, and whether it is written.
    pub(super) withdrawn: BTreeMap<u32, bool>,
    /// Settings by name, as far as the last value is known.
    pub(super) settings: BTreeMap<&'static str, Setting>,
}

/// A setting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Setting {
    /// The latest command that was answered OK or "in force", and its value.
    pub(super) set: Option<(u64, u64)>,
    /// The latest command with an unknown outcome.
    pub(super) unknown: u64,
    /// The latest command that could not be written. It has changed nothing; but if the disk wrote it and reported a
    /// failure, a restart reveals it.
    pub(super) failed: u64,
}

impl Book {
    /// Handles the death of the process.
    pub(super) fn forget_process(&mut self, is_locked: bool) {
        self.is_sealed &= is_locked;
        self.is_lock_written &= is_locked;
        self.withdrawn.retain(|_, is_written| *is_written);
        for setting in self.settings.values_mut() {
            setting.unknown = setting.unknown.max(setting.failed);
        }
    }
}

impl Books {
    pub(super) fn begin(&mut self, token: u64, now: u64) -> Option<(u64, Asks)> {
        let asked = self.requests.get_mut(&token)?;
        if asked.deadline.is_some_and(|deadline| deadline <= now) {
            return None;
        }
        self.begun += 1;
        asked.number = self.begun;
        Some((asked.number, asked.asks))
    }

    pub(super) fn of(&mut self, keyspace: u32) -> &mut Book {
        self.keyspaces.entry(keyspace).or_default()
    }

    pub(super) fn unwrap_begins(&mut self, keyspace: u32) {
        *self.unwraps.entry(keyspace).or_default() += 1;
    }

    pub(super) fn unwrap_ends(&mut self, keyspace: u32) {
        if let Some(count) = self.unwraps.get_mut(&keyspace) {
            *count -= 1;
        }
    }

    pub(super) fn is_unwrapping(&self, keyspace: u32) -> bool {
        self.unwraps.get(&keyspace).is_some_and(|count| *count > 0)
    }

    /// Checks that one revision is one change.
    pub(super) fn check_revision(&mut self, change: &KeyspaceChange) -> Checked {
        let key = (change.id, change.revision);
        let told = self.told.entry(key).or_insert_with(|| change.clone());
        ensure!(
            34,
            told == change,
            "keyspace {}: revision {} was {told:?}, and is {change:?}",
            change.id,
            change.revision.0
        );
        Ok(())
    }

    /// Records a ticket in NEEDS_UNLOCK.
    pub(super) fn give(&mut self, keyspace: u32, ticket: u64) -> Checked {
        ensure!(
            30,
            !self.tickets.done.contains(&ticket),
            "keyspace {keyspace}: NEEDS_UNLOCK with ticket {ticket}, of which it was said that it is done"
        );
        let others = self.tickets.given.iter().chain(&self.tickets.of_unlocks);
        let other = others
            .clone()
            .find(|(of, known)| *known == ticket && *of != keyspace);
        ensure!(
            30,
            other.is_none(),
            "keyspace {keyspace}: ticket {ticket} is also one of {other:?}"
        );
        if !self.tickets.given.contains(&(keyspace, ticket)) {
            self.tickets.given.push((keyspace, ticket));
        }
        Ok(())
    }

    /// Handles the death of the process.
    pub(super) fn forget_process(&mut self) {
        let requests = std::mem::take(&mut self.requests);
        for asked in requests.into_values().filter(|asked| !asked.is_answered) {
            self.note_unknown(&asked);
        }
        self.calls.clear();
        self.questions.clear();
        self.unwraps.clear();
        self.told.clear();
        self.tickets = Tickets::default();
    }

    /// Records that the outcome of a command is unknown, and will remain so.
    pub(super) fn note_unknown(&mut self, asked: &Asked) {
        let (keyspace, name) = match asked.asks {
            Asks::Set { keyspace, .. } => (keyspace, BUDGET),
            Asks::SoftTtl { keyspace, .. } => (keyspace, SOFT_TTL),
            _ => return,
        };
        let number = asked.number;
        let setting = self.of(keyspace).settings.entry(name).or_default();
        setting.unknown = setting.unknown.max(number);
    }
}

/// The settings that commands change.
pub(super) const BUDGET: &str = "sign_wait_budget_us";
pub(super) const SOFT_TTL: &str = "soft_ttl_ms";
