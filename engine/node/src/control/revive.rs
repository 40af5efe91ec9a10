//! Revival: puts retired DEKs into use again, because a blob is sealed under one of them.

use super::Control;
use super::event::Event;
use super::report::Report;
use super::saver::settled;
use crate::catalogue::{ChangeAuthor, Edit};
use crate::ids::WorkId;
use crate::messages::Lane;

/// Most DEKs that blobs need and that do not exist, of which the log has a line each.
const MISSING_DEKS_MAX: usize = 1_024;

/// A retired DEK that is being revived.
pub(super) struct Revive {
    id: u32,
    generation: u32,
}

impl Control {
    /// Handles a shard's report of a blob under a DEK that is not in use, most likely from a backup. If the DEK is among
    /// the retired ones, it is in use again until all such blobs are resealed under the current one.
    pub(super) fn revive(&mut self, id: u32, generation: u32) {
        // Another change would count blobs, or destroy this DEK: the shard will report again.
        if self.is_changing_deks(id) || self.is_locked(id) {
            return;
        }
        let Ok(keyspace) = self.in_force.written().keyspace(id) else {
            return;
        };
        // A DEK in use comes with the lease that the shard's core has requested.
        if keyspace.is_in_use(generation) {
            return;
        }
        if !keyspace.retired().any(|(at, _)| at == generation) {
            return self.report_missing(id, generation);
        }
        let work = self.works.begin();
        match self.want(work, self.revival(id, vec![generation])) {
            Ok(()) => {
                self.change_deks(id, work);
                let revive = Revive { id, generation };
                self.works.wait(work, revive);
            }
            Err((_, why)) => self.report(Report::ReviveFailed {
                keyspace: id,
                generation,
                why,
            }),
        }
    }

    pub(super) fn revival(&self, id: u32, generations: Vec<u32>) -> Edit {
        Edit::Revive {
            id,
            generations,
            by: ChangeAuthor::server(self.now),
        }
    }

    pub(super) fn step_revive(&mut self, work: WorkId, revive: Revive, event: Event) {
        let Revive { id, generation } = revive;
        let Event::Settled(outcome) = event else {
            return self.works.wait(work, revive);
        };
        self.deks_are_changed(id, work);
        match settled(outcome) {
            Ok(_) => self.revived(id, &[generation]),
            Err((_, why)) => self.report(Report::ReviveFailed {
                keyspace: id,
                generation,
                why,
            }),
        }
    }

    /// Completes a revival: shards get the DEKs, and blobs under them are resealed.
    pub(super) fn revived(&mut self, id: u32, generations: &[u32]) {
        for generation in generations {
            self.report(Report::Revived {
                keyspace: id,
                generation: *generation,
            });
        }
        self.publish(id, Lane::Ordinary);
        self.hand_out(id);
        self.start_resealing(id);
    }

    fn report_missing(&mut self, keyspace: u32, generation: u32) {
        let missing = &mut self.beside.missing_deks;
        if missing.len() < MISSING_DEKS_MAX && missing.insert((keyspace, generation)) {
            self.report(Report::DekMissing {
                keyspace,
                generation,
            });
        }
    }
}
