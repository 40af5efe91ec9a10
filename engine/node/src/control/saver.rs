//! Changes of the catalogue: in force as far as they may be, written beside control, and answered.

use keyway_protocol::Status;

use super::effect::{ControlEffect, ControlFigures};
use super::in_force::{Settled, Settlement, Undone};
use super::publish::Until;
use super::report::Report;
use super::state::{Happens, State};
use super::works::WorkId;
use super::{Control, Refused, Reply};
use crate::catalogue::{self, Edit};
use crate::figures::CatalogueFigures;
use crate::ids::{Revision, WriteId};
use crate::keyspace_change::KeyspaceChange;
use crate::messages::Lane;

/// The write under way.
#[derive(Default)]
pub(super) struct Writes {
    last: WriteId,
}

impl Control {
    /// Makes a change; the work is told how it ends. What it takes away is in force when this returns, and every shard is
    /// told so before the disk is asked. Right before it, call [`Control::may_begin`] for a command.
    ///
    /// Errors: it is refused, and nothing has changed.
    pub(super) fn want(&mut self, work: WorkId, edit: Edit) -> Result<(), Refused> {
        let tightened = self.in_force.want(self.now.instant, work, edit)?;
        for id in tightened {
            self.publish(id, Lane::Emergency);
        }
        self.save();
        Ok(())
    }

    /// Writes what is to be written, unless a write is under way.
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
        // First the works, which may have something to send before: a DEK comes before the floor that needs it.
        self.run();
        // A change that was answered before it was written has no work left that tells the shards of its other half.
        for id in touched {
            self.publish(id, Lane::Ordinary);
        }
        self.save();
    }

    /// What is written of a keyspace has changed: its state follows.
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

    /// A keyspace's unlock is written, or what a KMS said of it is not to be held against it any more.
    pub(super) fn open(&mut self, id: u32) {
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.state = governed.state.after(Happens::Opens);
            governed.opening.count_up();
        }
    }

    /// Tells every shard what is in force in a keyspace, unless it has been told. `None`: it is not written yet, and so at no
    /// shard.
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

    /// Has a work resumed when every shard acts by what is in force in a keyspace.
    pub(super) fn wait_until_acted(&mut self, work: WorkId, id: u32) {
        let revision = self.publish(id, Lane::Ordinary);
        let until = revision.map(|revision| (id, Until::Acted(revision)));
        self.published.wait(work, until);
    }

    /// A shard has acknowledged a change: an unlock may be at every shard now.
    pub(super) fn look_at_opening(&mut self, id: u32) {
        let is_opening = self
            .keyspaces
            .get(&id)
            .is_some_and(|governed| governed.state == State::Opening);
        if is_opening && self.published.is_acted(id) {
            self.happens(id, Happens::Opened);
        }
    }

    /// Takes back the changes for a while that are due. To be called once a second.
    ///
    /// A disk that takes nothing does not keep them in force: their ends are on it already, so that what is in memory
    /// only is what a restart would come to as well.
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

    /// Answers what has waited for the disk for too long, and tries again what failed. To be called once a second.
    pub(super) fn look_at_saves(&mut self) {
        self.in_force.handle_tick(self.now.instant);
        self.save();
        let snapshot = CatalogueFigures {
            unwritten_changes: self.in_force.unwritten() as u64,
            write_failures_total: self.in_force.failures_total(),
        };
        let figures = ControlFigures::Catalogue(snapshot);
        self.effects.push_back(ControlEffect::Figures(figures));
    }
}

/// How a change ended.
pub(super) fn settled(outcome: Settlement) -> Result<Settled, Refused> {
    outcome.map_err(|undone| match undone {
        Undone::Unwritten(why) => (
            Status::Internal,
            format!(
                "{} could not be written: {why}; nothing has changed; try again once the disk works",
                catalogue::FILE
            ),
        ),
        Undone::Refused(why) => (Status::Conflict, why),
    })
}

/// The answer to a command whose change has been accepted.
pub(super) fn acknowledge(settled: Settled, payload: Vec<u8>) -> Reply {
    match settled {
        Settled::Written => Ok(payload),
        Settled::Unwritten(why) => Err((
            Status::NotPersisted,
            format!(
                "what this command takes away is in force on every shard, but {} could not be written: {why}; a restart \
                 would undo it; the server keeps trying",
                catalogue::FILE
            ),
        )),
    }
}
