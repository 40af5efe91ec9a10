//! What was promised: commands and their answers, locks, rights, tickets, rotations. Kept apart from control, which is never
//! asked what to expect.

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
    /// Newest generation that a ROTATE was answered with.
    pub(super) rotated: BTreeMap<u32, u32>,
    /// Calls under way, and which keyspace each is for.
    pub(super) calls: BTreeMap<CallId, Option<u32>>,
    /// What shards were asked, and of which keyspace.
    pub(super) questions: BTreeMap<QuestionId, u32>,
    /// Unwraps under way, by keyspace.
    unwraps: BTreeMap<u32, usize>,
    told: BTreeMap<(u32, Revision), KeyspaceChange>,
    pub(super) tickets: Tickets,
    /// What UNLOCK_STATUS was answered, by token.
    pub(super) states: BTreeMap<u64, String>,
}

/// Tickets of the process that runs.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Those that NEEDS_UNLOCK carried, in the order in which they were first given.
    pub(super) given: Vec<(u32, u64)>,
    /// Those that UNLOCK was answered with.
    pub(super) of_unlocks: Vec<(u32, u64)>,
    /// Those of NEEDS_UNLOCK of which it was said that they are done.
    pub(super) done: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) asks: Asks,
    pub(super) ticket: Option<u64>,
    pub(super) deadline: Option<u64>,
    /// Its place in the order of commands; 0: control has not begun it.
    pub(super) number: u64,
    pub(super) is_answered: bool,
    /// What it locks.
    pub(super) locks: Vec<u32>,
}

/// A keyspace.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) last_lock: u64,
    pub(super) last_unlock: u64,
    /// A lock was answered OK or "in force", and no unlock was begun since the lock was.
    pub(super) is_sealed: bool,
    /// The same, and it is written.
    pub(super) is_lock_written: bool,
    /// When each principal's grant was changed last.
    pub(super) last_grant: BTreeMap<u32, u64>,
    /// Principals whose withdrawal was answered, and whether it is written.
    pub(super) withdrawn: BTreeMap<u32, bool>,
    /// Settings by name, as far as it is known what was set last.
    pub(super) settings: BTreeMap<&'static str, Setting>,
}

/// A setting.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Setting {
    /// The newest command that was answered OK or "in force", and its value.
    pub(super) set: Option<(u64, u64)>,
    /// The newest command of which it is not known what became of it.
    pub(super) unknown: u64,
    /// The newest command that could not be written. It has changed nothing; but a disk that took it and said that it did
    /// not shows it after a restart.
    pub(super) failed: u64,
}

impl Book {
    /// The process has died.
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

    /// One revision is one change.
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

    /// NEEDS_UNLOCK carried this ticket.
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

    /// The process has died.
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

    /// What becomes of a command is not known, and will not be.
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

/// The settings that are set.
pub(super) const BUDGET: &str = "sign_wait_budget_us";
pub(super) const SOFT_TTL: &str = "soft_ttl_ms";
