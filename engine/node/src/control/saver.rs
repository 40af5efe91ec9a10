//! Changes of the catalogue: put in force as far as allowed, written in the background, and answered.

use keyway_protocol::Status;

use super::commands::Answering;
use super::effect::{ControlEffect, ControlFigures};
use super::in_force::{Patience, Settled, Settlement, Undone};
use super::publish::Until;
use super::report::Report;
use super::state::{Happens, State};
use super::{Control, Refused, Reply};
use crate::catalogue::{self, Edit};
use crate::figures::CatalogueFigures;
use crate::ids::{Revision, WorkId, WriteId};
use crate::keyspace_change::KeyspaceChange;
use crate::limits::BACKGROUND_WRITE_US;
use crate::messages::Lane;

/// The write in progress.
#[derive(Default)]
pub(super) struct Writes {
    last: WriteId,
}

impl Control {
    /// Makes the change of a command; the work receives its outcome while the client still waits. What it takes away is
    /// in force when this returns, and is published to every shard before the disk is involved. Call
    /// [`Control::may_begin`] immediately before.
    ///
    /// Errors: the change is refused, and nothing has changed.
    pub(super) fn want_for(
        &mut self,
        answering: &Answering,
        work: WorkId,
        edit: Edit,
    ) -> Result<(), Refused> {
        let patience = self.patience(answering);
        self.want_within(work, edit, patience)
    }

    /// Makes a change that no client waits for, as [`Control::want_for`] does.
    pub(super) fn want(&mut self, work: WorkId, edit: Edit) -> Result<(), Refused> {
        self.want_within(work, edit, Patience::both(BACKGROUND_WRITE_US))
    }

    /// Returns how long the answer to a command waits for the disk.
    pub(super) fn patience(&self, answering: &Answering) -> Patience {
        let asker = self.commands.asker(answering);
        let deadline = asker.and_then(|asker| asker.deadline);
        Patience::until(self.now.instant, deadline)
    }

    fn want_within(&mut self, work: WorkId, edit: Edit, patience: Patience) -> Result<(), Refused> {
        let tightened = self.in_force.want(self.now.instant, work, edit, patience)?;
        for id in tightened {
            self.publish(id, Lane::Emergency);
        }
        self.save();
        Ok(())
    }

    /// Starts to write pending changes, unless a write is in progress.
    pub(super) fn save(&mut self) {
        if let Some(catalogue) = self.in_force.next_write(self.now.instant) {
            let write = self.writes.last.count_up();
            self.effects
                .push_back(ControlEffect::Save { write, catalogue });
        }
    }

    pub(super) fn saved(&mut self, write: WriteId, result: Result<(), String>) {
        if write != self.writes.last {
            return;
        }
        let was_failing = self.in_force.failing().is_some();
        let touched = self.in_force.handle_saved(self.now.instant, result.clone());
        match result {
            Err(why) => {
                let unwritten = self.in_force.unwritten();
                self.report(Report::SaveFailed { why, unwritten });
            }
            Ok(()) if was_failing => self.report(Report::SaveWorks),
            Ok(()) => {}
        }
        for id in &touched {
            self.follow_written(*id);
        }
        // A temporary override can have expired before it was written: then it never comes into force.
        self.revert_expired_overrides();
        // Works first, since they may have something to send before: a DEK comes before the floor that needs it.
        self.run();
        // A change that was answered before it was written has no work left that publishes its other half.
        for id in touched {
            self.publish(id, Lane::Ordinary);
        }
        self.save();
    }

    /// Updates a keyspace's state after what is written of it has changed.
    fn follow_written(&mut self, id: u32) {
        if self.in_force.written().keyspace(id).is_err() {
            return;
        }
        let is_locked = self.is_locked(id);
        let Some(governed) = self.keyspaces.get_mut(&id) else {
            return;
        };
        match governed.state {
            State::Making => {
                let locked = is_locked.then_some(governed.epoch);
                governed.state = governed.state.after(Happens::Written { locked });
            }
            State::Locked if !is_locked => self.open(id),
            _ => {}
        }
    }

    /// Opens a keyspace whose unlock is written, and clears the failures that its KMS has reported.
    pub(super) fn open(&mut self, id: u32) {
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.state = governed.state.after(Happens::Opens);
            governed.opening.count_up();
        }
    }

    /// Publishes what is in force in a keyspace to every shard, unless that was published last. Returns `None` if it is
    /// not written yet, and so unknown to the shards.
    pub(super) fn publish(&mut self, id: u32, lane: Lane) -> Option<Revision> {
        let change = self.current(id)?;
        let (revision, told) = self.published.publish(change, lane);
        for told in told {
            self.send(told);
        }
        Some(revision)
    }

    fn current(&mut self, id: u32) -> Option<KeyspaceChange> {
        let guard = self.in_force.guard(id).ok()?;
        let governed = self.keyspaces.get(&id)?;
        let written = self.in_force.written().keyspace(id).ok()?;
        Some(KeyspaceChange {
            id,
            name: written.name.clone(),
            revision: Revision::default(),
            epoch: governed.epoch,
            opening: governed.opening,
            guard,
            seal_floor: written.generation(),
            oldest: written.oldest_generation(),
            ticket: self.beside.tickets.current(id),
        })
    }

    /// Resumes a work when every shard applies what is in force in a keyspace.
    pub(super) fn wait_until_acted(&mut self, work: WorkId, id: u32) {
        let revision = self.publish(id, Lane::Ordinary);
        let until = revision.map(|revision| (id, Until::Acted(revision)));
        self.published.wait(work, until);
    }

    /// Checks, after an acknowledgement, whether every shard has applied an unlock.
    pub(super) fn check_opening(&mut self, id: u32) {
        let is_opening = self
            .keyspaces
            .get(&id)
            .is_some_and(|governed| governed.state == State::Opening);
        if is_opening && self.published.is_acted(id) {
            self.happens(id, Happens::Opened);
        }
    }

    /// Reverts expired overrides. Called once a second.
    ///
    /// A failing disk does not prolong them: their expiries are already on it, so memory and a restart have the same
    /// result.
    pub(super) fn revert_expired_overrides(&mut self) {
        let (ended, keyspaces) = self.in_force.revert_expired(self.now);
        if keyspaces.is_empty() {
            return;
        }
        for (keyspace, change) in ended {
            self.report(Report::OverrideExpired { keyspace, change });
        }
        for id in keyspaces {
            self.publish(id, Lane::Emergency);
        }
        self.save();
    }

    /// Retries failed writes. Called once a second.
    pub(super) fn check_saves(&mut self) {
        self.save();
        let snapshot = CatalogueFigures {
            unwritten_changes: self.in_force.unwritten() as u64,
            write_failures_total: self.in_force.failures_total(),
        };
        let figures = ControlFigures::Catalogue(snapshot);
        self.effects.push_back(ControlEffect::Figures(figures));
    }
}

/// Converts the outcome of a change.
pub(super) fn settled(outcome: Settlement) -> Result<Settled, Refused> {
    outcome.map_err(|undone| match undone {
        Undone::Unwritten(why) => (
            Status::Internal,
            format!(
                "{} could not be written: {why}; the change is not in force, but it may be on the disk, so that a restart \
                 before the next successful write could put it in force; try again once the disk works",
                catalogue::FILE
            ),
        ),
        Undone::Refused(why) => (Status::Conflict, why),
    })
}

/// Returns the response to a command whose change was accepted, and is in force as a whole.
pub(super) fn acknowledge(settled: Settled, payload: Vec<u8>) -> Reply {
    match settled {
        Settled::Written => Ok(payload),
        Settled::Unwritten(why) => Err((
            Status::NotPersisted,
            format!(
                "the command is in force on every shard, but {}",
                not_written(&why)
            ),
        )),
    }
}

/// Explains what a failed write means for what is in force.
pub(super) fn not_written(why: &str) -> String {
    format!(
        "{} could not be written: {why}; a restart would undo it; the server keeps trying",
        catalogue::FILE
    )
}
