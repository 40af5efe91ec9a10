//! The state of the keyspaces that is in force while changes to it are being written.
//!
//! ```text
//! want ─▶ pending ──next_write──▶ disk ──handle_saved──▶ written
//!           │                       │ fails, or outlasts the patience of the command
//!           │                       ▼
//!           │          takes nothing away: undone, refused
//!           │          takes something away: stays pending, is tried again, answered `Unwritten`
//!           ▼
//!  in force = written ∧ wanted
//! ```
//!
//! So a change that takes something away is in force before the disk is involved, and a change that grants something is
//! in force once it is durable. A change is a function of the catalogue, not a copy of it: it is applied to the current
//! state, and cannot undo another change made in the meantime.

mod patience;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use keyway_core::Instant;

use self::patience::{NextCheck, Pending, Waiting, no_answer};
use crate::catalogue::{Before, Catalogue, CatalogueError, Change, Edit};
use crate::ids::WorkId;
use crate::keyspace_change::Guard;
use crate::policy::Policy;
use crate::time::Moment;

pub(super) use self::patience::Patience;

/// Shortest and longest pause before a failed write is retried.
const RETRY_US_MIN: u64 = 1_000_000;
const RETRY_US_MAX: u64 = 10_000_000;

/// Most pending changes that only grant something.
pub(super) const PENDING_MAX: usize = 4_096;

/// Most pending changes in total, except locks, of which there is one per keyspace.
const PENDING_TIGHTENING_MAX: usize = 65_536;

const _: () = assert!(PENDING_MAX < PENDING_TIGHTENING_MAX);

/// How an accepted change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It is durable.
    Written,
    /// What it takes away is in force but could not be written, for this reason; a restart would undo it.
    Unwritten(String),
}

/// Why a change was undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// It could not be written, for this reason.
    Unwritten(String),
    /// It no longer applies, since an earlier change was undone.
    Refused(String),
}

pub(super) type Settlement = Result<Settled, Undone>;

struct Writing {
    through: u64,
    began_at: Instant,
    /// A change that it contains has been undone since, or the written state has changed.
    is_outdated: bool,
}

struct Failing {
    why: String,
    wait_us: u64,
    retry_at: Instant,
}

/// The keyspaces: as written, as wanted, and as in force.
pub(super) struct InForce {
    written: Catalogue,
    wanted: Catalogue,
    pending: VecDeque<Pending>,
    /// The guards of keyspaces with pending changes. They tighten at any time and loosen only with a successful write,
    /// since a write that failed may have reached the disk.
    guards: BTreeMap<u32, Guard>,
    last_number: u64,
    attempted_through: u64,
    /// Id of the next keyspace. A reserved id is never used for another.
    next_id: u32,
    writing: Option<Writing>,
    /// The file may differ from `written`.
    disk_differs: bool,
    failures: Failures,
    /// When waits for the disk are checked.
    next_check: NextCheck,
    /// Works whose changes have ended, for [`InForce::poll_settled`].
    settled: VecDeque<(WorkId, Settlement)>,
}

#[derive(Default)]
struct Failures {
    now: Option<Failing>,
    total: u64,
}

impl InForce {
    pub(super) fn new(written: Catalogue) -> Self {
        InForce {
            wanted: written.clone(),
            next_id: written.next_id(),
            written,
            pending: VecDeque::new(),
            guards: BTreeMap::new(),
            last_number: 0,
            attempted_through: 0,
            writing: None,
            disk_differs: false,
            failures: Failures::default(),
            next_check: NextCheck::default(),
            settled: VecDeque::new(),
        }
    }

    /// Returns the catalogue as it is durable.
    pub(super) fn written(&self) -> &Catalogue {
        &self.written
    }

    /// Returns the catalogue with all pending changes applied. Commands are checked against it.
    pub(super) fn wanted(&self) -> &Catalogue {
        &self.wanted
    }

    /// Returns the guard that shards must apply.
    pub(super) fn guard(&self, id: u32) -> Result<Guard, CatalogueError> {
        match self.guards.get(&id) {
            Some(guard) => Ok(guard.clone()),
            None => self.written.keyspace(id).map(Guard::of),
        }
    }

    /// Returns the grants in a keyspace, or `None` if it is not written yet.
    pub(super) fn policy(&self, id: u32) -> Option<&Policy> {
        match self.guards.get(&id) {
            Some(guard) => Some(&guard.policy),
            None => self.written.keyspace(id).ok().map(|it| &it.policy),
        }
    }

    /// Returns `true` if a keyspace is locked, written or not.
    pub(super) fn is_locked(&self, id: u32) -> bool {
        match self.guards.get(&id) {
            Some(guard) => guard.locked,
            None => self
                .written
                .keyspace(id)
                .is_ok_and(|keyspace| keyspace.locked),
        }
    }

    /// Returns `true` if something is in force in a keyspace that a restart would undo.
    pub(super) fn is_unwritten(&self, id: u32) -> bool {
        let mut pending = self.pending.iter();
        pending.any(|change| change.takes_away && change.edit.keyspaces().contains(&id))
    }

    /// Returns the number of changes that are in force and not written.
    pub(super) fn unwritten(&self) -> usize {
        self.pending
            .iter()
            .filter(|change| change.takes_away)
            .count()
    }

    /// Returns the number of failed writes.
    pub(super) fn failures_total(&self) -> u64 {
        self.failures.total
    }

    /// Returns `true` if a write is in progress.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Makes a failed write due for a retry now.
    pub(super) fn retry_now(&mut self) {
        if let Some(failing) = &mut self.failures.now {
            failing.retry_at = Instant::ZERO;
        }
    }

    /// Returns `true` if everything is on the disk.
    #[cfg(test)]
    fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.writing.is_none() && !self.disk_differs
    }

    /// Reserves an id for a new keyspace. Returns `None` if all are used.
    pub(super) fn reserve_id(&mut self) -> Option<u32> {
        let id = self.next_id;
        self.next_id = id.checked_add(1)?;
        Some(id)
    }

    /// Accepts a change. `work` receives its outcome by [`InForce::poll_settled`], at the latest once the disk has not
    /// responded for as long as `patience` says. What it takes away is in force when this returns. Returns the keyspaces in which
    /// something was taken away.
    ///
    /// Errors: the change cannot be applied; the state is unchanged.
    pub(super) fn want(
        &mut self,
        now: Instant,
        work: WorkId,
        edit: Edit,
        patience: Patience,
    ) -> Result<Vec<u32>, CatalogueError> {
        let before = self.wanted.clone_of(edit.keyspaces());
        self.wanted.apply(&edit)?;
        let effect = self.effect(&before, edit.keyspaces());
        let effect = match effect.and_then(|effect| self.check_room(effect)) {
            Ok(effect) => effect,
            Err(error) => {
                self.wanted.put_back(before);
                return Err(error);
            }
        };
        let waiting = Waiting {
            work,
            since: now,
            patience,
        };
        if !effect.changes && self.join(waiting, &edit) {
            // It changed nothing but keyspaces, so nothing else has to be restored.
            return Ok(effect.tightened);
        }
        self.guards.extend(effect.guards);
        self.last_number += 1;
        let takes_away = effect.takes_away || (!effect.changes && self.is_in_force(&edit));
        self.pending.push_back(Pending {
            number: self.last_number,
            takes_away,
            edit,
            waiting: vec![waiting],
        });
        self.next_check.add(waiting.ends_at(takes_away));
        let last = self.last_number;
        if let Some(why) = self.stall(now, patience.write_us()) {
            self.give_up(|change| (change.number == last).then(|| why.clone()));
        }
        Ok(effect.tightened)
    }

    /// Returns the outcome of a change.
    pub(super) fn poll_settled(&mut self) -> Option<(WorkId, Settlement)> {
        self.settled.pop_front()
    }

    /// Joins a pending change that already has the same effect, so that the command shares its outcome. Returns `false`
    /// if the command must be a change of its own: the file may differ from what was written last, or several pending
    /// changes qualify, some of which may be undone.
    fn join(&mut self, waiting: Waiting, edit: &Edit) -> bool {
        if !self.disk_differs && self.is_written(edit) {
            self.settled.push_back((waiting.work, Ok(Settled::Written)));
            return true;
        }
        // What is in force already is answered in time, and so never waits for a change that only grants something.
        let is_in_force = self.is_in_force(edit);
        let keyspaces: BTreeSet<&u32> = edit.keyspaces().iter().collect();
        let mut touching = self.pending.iter_mut().filter(|change| {
            let mut touched = change.edit.keyspaces().iter();
            touched.any(|id| keyspaces.contains(id))
        });
        match (touching.next(), touching.next()) {
            (Some(change), None) if change.takes_away || !is_in_force => {
                change.waiting.push(waiting);
                let ends_at = waiting.ends_at(change.takes_away);
                self.next_check.add(ends_at);
                if let Some(failing) = &mut self.failures.now {
                    failing.retry_at = waiting.since;
                }
            }
            _ => return false,
        }
        true
    }

    /// Returns `true` if a change would alter neither the written state nor any state that a pending change may write.
    fn is_written(&self, edit: &Edit) -> bool {
        let changes_nothing = |before: &Catalogue| {
            let mut after = before.clone();
            let is_applied = after.apply(edit).is_ok();
            let is_same = |id: &u32| before.keyspace(*id).ok() == after.keyspace(*id).ok();
            is_applied && edit.keyspaces().iter().all(is_same)
        };
        let mut state = self.written.clone();
        let mut pending = self.pending.iter();
        changes_nothing(&state)
            && pending.all(|change| state.apply(&change.edit).is_ok() && changes_nothing(&state))
    }

    /// Returns `true` if every part of a change that has no effect is already in force, so that only the disk is missing.
    fn is_in_force(&self, edit: &Edit) -> bool {
        let is_in_force = |id: &u32| self.guard(*id).ok() == guard_of(&self.wanted, *id);
        matches!(edit, Edit::Lock { locked: true, .. }) || edit.keyspaces().iter().all(is_in_force)
    }

    fn check_room(&self, effect: Effect) -> Result<Effect, CatalogueError> {
        let limit = match (effect.takes_away, effect.locks) {
            _ if !effect.changes => return Ok(effect),
            (_, true) => return Ok(effect),
            (true, false) => PENDING_TIGHTENING_MAX,
            (false, false) => PENDING_MAX,
        };
        if self.pending.len() < limit {
            return Ok(effect);
        }
        Err(CatalogueError::Busy(format!(
            "{} changes wait for the disk, which is the maximum; try again when it responds",
            self.pending.len()
        )))
    }

    /// Returns the effect of the change of `wanted` that was made just now.
    fn effect(&self, before: &Before, keyspaces: &[u32]) -> Result<Effect, CatalogueError> {
        let mut effect = Effect {
            changes: keyspaces.is_empty(),
            ..Effect::default()
        };
        for id in keyspaces {
            let before = before.keyspace(*id);
            let after = self.wanted.keyspace(*id).ok();
            effect.changes |= before != after;
            let (Some(before), Some(after)) = (before, after) else {
                continue;
            };
            let (before, after) = (Guard::of(before), Guard::of(after));
            effect.takes_away |= after.is_tighter_than(&before);
            effect.locks |= after.locked && !before.locked;
            // A keyspace that is not written yet is unknown to the shards.
            if let Ok(in_force) = self.guard(*id) {
                let met = in_force.meet(&after);
                if met != in_force {
                    effect.tightened.push(*id);
                }
                effect.guards.push((*id, met));
            }
        }
        Ok(effect)
    }

    /// Reverts expired overrides. Returns the changes, and the keyspaces whose state in force may have changed. They
    /// count as written, since a restart reverts them too.
    pub(super) fn revert_expired(&mut self, now: Moment) -> (Vec<(u32, Change)>, BTreeSet<u32>) {
        if !self.written.is_due(now) && !self.wanted.is_due(now) {
            return Default::default();
        }
        let of_written = self.written.revert_expired(now);
        let ended = self.wanted.revert_expired(now);
        let keyspaces = of_written.iter().chain(&ended).map(|(id, _)| *id);
        let keyspaces = keyspaces.collect();
        self.outdate();
        self.follow_written();
        (ended, keyspaces)
    }

    /// Returns the catalogue to write now, if any. The outcome is passed to [`InForce::handle_saved`].
    pub(super) fn next_write(&mut self, now: Instant) -> Option<Catalogue> {
        let is_new = self.last_number > self.attempted_through || self.failures.now.is_none();
        let is_due = self
            .failures
            .now
            .as_ref()
            .is_some_and(|failing| now >= failing.retry_at);
        let is_needed = !self.pending.is_empty() || self.disk_differs;
        if self.writing.is_some() || !is_needed || !(is_new || is_due) {
            return None;
        }
        self.writing = Some(Writing {
            through: self.last_number,
            began_at: now,
            is_outdated: false,
        });
        Some(self.wanted.clone())
    }

    /// Handles the outcome of the write. Returns the keyspaces of which something looser may be in force now.
    pub(super) fn handle_saved(&mut self, now: Instant, result: Result<(), String>) -> Vec<u32> {
        let Some(writing) = self.writing.take() else {
            return Vec::new();
        };
        self.attempted_through = writing.through;
        match result {
            Ok(()) => {
                self.failures.now = None;
                self.disk_differs = writing.is_outdated;
                self.settle_through(writing.through)
            }
            Err(why) => {
                self.failures.total += 1;
                self.disk_differs = true;
                self.fail(now, &why);
                self.give_up(|change| (change.number <= writing.through).then(|| why.clone()));
                Vec::new()
            }
        }
    }

    /// Returns when [`InForce::handle_tick`] must be called next.
    pub(super) fn next_check(&self) -> Option<Instant> {
        self.next_check.at()
    }

    /// Answers changes that have waited too long for the disk.
    ///
    /// A change that takes something away is answered when its patience ends, whichever write it waits for, since it is
    /// in force. A change that only grants something would be undone by the answer, so it continues to wait while writes
    /// make progress.
    pub(super) fn handle_tick(&mut self, now: Instant) {
        if !self.next_check.take_due(now) {
            return;
        }
        let late: BTreeMap<u64, String> = self
            .pending
            .iter()
            .filter_map(|change| {
                let overdue_us = change.overdue_us(now)?;
                let stall = self.stall(now, change.write_us());
                let why = stall.or_else(|| change.takes_away.then(|| no_answer(overdue_us)));
                Some((change.number, why?))
            })
            .collect();
        if !late.is_empty() {
            self.give_up(|change| late.get(&change.number).cloned());
        }
        let ends = self.pending.iter().flat_map(Pending::ends);
        ends.for_each(|ends_at| self.next_check.add_again(now, ends_at));
    }

    /// Returns why the disk is considered unresponsive, if the write in progress takes longer than `patience_us`.
    fn stall(&self, now: Instant, patience_us: u64) -> Option<String> {
        let took_us = now.saturating_since(self.writing.as_ref()?.began_at);
        (took_us >= patience_us).then(|| no_answer(took_us))
    }

    fn fail(&mut self, now: Instant, why: &str) {
        let wait_us = match &self.failures.now {
            Some(failing) => (failing.wait_us * 2).min(RETRY_US_MAX),
            None => RETRY_US_MIN,
        };
        self.failures.now = Some(Failing {
            why: why.to_owned(),
            wait_us,
            retry_at: now.plus_us(wait_us),
        });
    }

    /// Returns why the last write failed, if it did.
    pub(super) fn failing(&self) -> Option<&str> {
        self.failures
            .now
            .as_ref()
            .map(|failing| failing.why.as_str())
    }

    fn settle_through(&mut self, through: u64) -> Vec<u32> {
        let mut touched = BTreeSet::new();
        let is_through = |change: &Pending| change.number <= through;
        while self.pending.front().is_some_and(is_through) {
            let Some(change) = self.pending.pop_front() else {
                break;
            };
            let outcome = match self.written.apply(&change.edit) {
                Ok(()) => Ok(Settled::Written),
                Err(error) => Err(Undone::Refused(error.to_string())),
            };
            touched.extend(change.edit.keyspaces());
            self.settle(change.waiting, &outcome);
        }
        self.follow_written();
        touched.into_iter().collect()
    }

    /// Answers the changes that could not be written, for the reason that `why` returns. Those that take nothing away are
    /// undone.
    fn give_up(&mut self, why: impl Fn(&Pending) -> Option<String>) {
        let mut kept = VecDeque::with_capacity(self.pending.len());
        let mut is_any_undone = false;
        for mut change in std::mem::take(&mut self.pending) {
            match why(&change) {
                None => kept.push_back(change),
                Some(why) if change.takes_away => {
                    let waiting = std::mem::take(&mut change.waiting);
                    self.settle(waiting, &Ok(Settled::Unwritten(why)));
                    kept.push_back(change);
                }
                Some(why) => {
                    self.settle(change.waiting, &Err(Undone::Unwritten(why)));
                    is_any_undone = true;
                }
            }
        }
        self.pending = kept;
        if is_any_undone {
            self.outdate();
            self.want_again();
        }
    }

    fn settle(&mut self, waiting: Vec<Waiting>, outcome: &Settlement) {
        let works = waiting.into_iter().map(|waiting| waiting.work);
        self.settled
            .extend(works.map(|work| (work, outcome.clone())));
    }

    /// Marks the file as different from what it should be, now or soon.
    fn outdate(&mut self) {
        self.disk_differs = true;
        if let Some(writing) = &mut self.writing {
            writing.is_outdated = true;
        }
    }

    /// Applies the remaining pending changes again.
    fn want_again(&mut self) {
        let mut wanted = self.written.clone();
        let mut kept = VecDeque::with_capacity(self.pending.len());
        for change in std::mem::take(&mut self.pending) {
            match wanted.apply(&change.edit) {
                Ok(()) => kept.push_back(change),
                Err(error) => {
                    self.settle(change.waiting, &Err(Undone::Refused(error.to_string())));
                }
            }
        }
        self.pending = kept;
        self.wanted = wanted;
        let pending = self
            .pending
            .iter()
            .flat_map(|change| change.edit.keyspaces());
        let pending: BTreeSet<u32> = pending.copied().collect();
        self.guards.retain(|id, _| pending.contains(id));
    }

    /// Updates what is in force after the written state has changed. It is the meet with the state after each pending
    /// change, not with the last one alone: if a lock and an unlock both wait for the disk, the lock is in force until
    /// the unlock is written.
    fn follow_written(&mut self) {
        self.want_again();
        let mut after = self.written.clone();
        let mut guards: BTreeMap<u32, Guard> = BTreeMap::new();
        for change in &self.pending {
            // It was just applied to the same state.
            if after.apply(&change.edit).is_err() {
                continue;
            }
            for id in change.edit.keyspaces() {
                let in_force = guards.get(id).cloned();
                let in_force = in_force.or_else(|| guard_of(&self.written, *id));
                if let (Some(in_force), Some(wanted)) = (in_force, guard_of(&after, *id)) {
                    guards.insert(*id, in_force.meet(&wanted));
                }
            }
        }
        self.guards = guards;
    }
}

fn guard_of(catalogue: &Catalogue, id: u32) -> Option<Guard> {
    catalogue.keyspace(id).map(Guard::of).ok()
}

#[derive(Default)]
struct Effect {
    changes: bool,
    takes_away: bool,
    locks: bool,
    tightened: Vec<u32>,
    guards: Vec<(u32, Guard)>,
}

#[cfg(test)]
mod tests;
