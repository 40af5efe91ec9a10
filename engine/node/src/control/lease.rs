//! DEKs for the shards: one question to the KMS, and its answer to every shard.

use keyway_core::LeaseEvent;

use super::Control;
use super::effect::{ControlEffect, KmsAnswer, KmsRequest};
use super::kms::{Deks, KmsFailure};
use super::report::Report;
use super::works::Caller;
use crate::ids::CallId;
use crate::messages::{Lane, ToShard};

/// Whether the KMS is being asked for a keyspace's DEKs, for the shards. A lock makes the question void.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lease {
    /// It is not.
    #[default]
    Idle,
    /// It is.
    Asking {
        call: CallId,
        /// DEKs have changed since: it is asked once more.
        again: bool,
    },
    /// An unlock has the DEKs, and hands them out as soon as the shards are open.
    AtHand,
}

impl Control {
    /// A shard wants a keyspace's DEKs. The answer goes to every shard: all of them will want it, and one call each
    /// half of a lease is then all that the keyspace costs. Who asks while it is being asked gets that answer.
    pub(super) fn lease(&mut self, id: u32) {
        let asking = self.keyspaces.get(&id).map(|governed| governed.lease);
        match asking {
            None | Some(Lease::Idle) => self.ask_for_deks(id),
            Some(Lease::Asking { .. } | Lease::AtHand) => {}
        }
    }

    /// Has the DEKs unwrapped as they are now, and handed to every shard.
    pub(super) fn hand_out(&mut self, id: u32) {
        match self
            .keyspaces
            .get_mut(&id)
            .map(|governed| &mut governed.lease)
        {
            Some(Lease::Asking { again, .. }) => *again = true,
            Some(Lease::AtHand) => {}
            Some(Lease::Idle) | None => self.ask_for_deks(id),
        }
    }

    /// A keyspace's DEKs are others now: what the KMS is being asked for does not bring all of them.
    pub(super) fn deks_have_changed(&mut self, id: u32) {
        let governed = self.keyspaces.get_mut(&id);
        if let Some(Lease::Asking { again, .. }) = governed.map(|governed| &mut governed.lease) {
            *again = true;
        }
    }

    fn ask_for_deks(&mut self, id: u32) {
        if self.is_locked(id) {
            // The question crossed the lock on its way.
            return self.tell_lease(id, Err(KmsFailure::keyspace_locked()));
        }
        match self.unwrap_request(id) {
            Ok((kms, request)) => {
                let call = self.works.call(Caller::Lease(id));
                if let Some(governed) = self.keyspaces.get_mut(&id) {
                    governed.lease = Lease::Asking { call, again: false };
                }
                self.effects
                    .push_back(ControlEffect::Kms { call, kms, request });
            }
            Err(failure) => self.tell_lease(id, Err(failure)),
        }
    }

    /// The question that unwraps the DEKs of all of a keyspace's generations, and the KMS that it is for.
    pub(super) fn unwrap_request(&self, id: u32) -> Result<(String, KmsRequest), KmsFailure> {
        let keyspace = self.in_force.written().keyspace(id);
        let keyspace = keyspace.map_err(|error| KmsFailure::of_catalogue(&error))?;
        let deks = keyspace.deks();
        let deks = deks.map_err(|error| KmsFailure::of_catalogue(&error))?;
        self.kms.get(&keyspace.kms)?;
        let request = KmsRequest::Unwrap { keyspace: id, deks };
        Ok((keyspace.kms.clone(), request))
    }

    /// A KMS has answered a question for a lease. One that a lock made void is dropped, and the DEKs are wiped.
    pub(super) fn handle_lease_answer(&mut self, id: u32, call: CallId, answer: KmsAnswer) {
        let KmsAnswer::Unwrapped(answer) = answer else {
            return;
        };
        let Some(governed) = self.keyspaces.get_mut(&id) else {
            return;
        };
        let again = match governed.lease {
            Lease::Asking { call: asked, again } if asked == call => again,
            _ => return,
        };
        governed.lease = Lease::Idle;
        self.tell_lease(id, answer);
        if again {
            self.hand_out(id);
        }
    }

    /// Tells every shard what the KMS said.
    pub(super) fn tell_lease(&mut self, id: u32, mut answer: Result<Deks, KmsFailure>) {
        if let (Ok(deks), Ok(written)) = (&mut answer, self.in_force.written().keyspace(id)) {
            // One that was destroyed while the KMS was asked goes to no shard.
            let is_kept = |generation| {
                let mut retired = written.retired();
                written.is_in_use(generation) || retired.any(|(kept, _)| kept == generation)
            };
            deks.deks.retain(|dek| is_kept(dek.generation));
        }
        let is_locked = self.is_locked(id);
        let epoch = self.epoch_of(id);
        self.note_trouble(id, &answer, is_locked);
        let (event, deks, ticket) = match answer {
            Ok(_) if is_locked => {
                self.report(Report::CameAfterLock { keyspace: id });
                (LeaseEvent::Locked, Vec::new(), 0)
            }
            Ok(deks) => {
                let granted = LeaseEvent::Granted {
                    sent_at: deks.sent_at,
                    generation: deks.generation(),
                };
                (granted, deks.deks, self.beside.tickets.next(id))
            }
            Err(failure) => (failure.lease_event(), Vec::new(), 0),
        };
        let shards: Vec<u16> = self.published.running().collect();
        for shard in shards {
            let lease = ToShard::Lease {
                keyspace: id,
                epoch,
                event,
                deks: deks.clone(),
                ticket,
            };
            self.tell(shard, Lane::Ordinary, lease);
        }
    }

    fn note_trouble(&mut self, id: u32, answer: &Result<Deks, KmsFailure>, is_locked: bool) {
        let Ok(keyspace) = self.in_force.written().keyspace(id) else {
            return;
        };
        let kms = &keyspace.kms;
        let report = match answer {
            Ok(_) => self.troubles.note_success(kms, id, self.now.instant),
            // The keyspace's own lock is no trouble of the KMS's.
            Err(_) if is_locked => {
                self.troubles.forget(kms, id);
                None
            }
            Err(failure) => self.troubles.note_failure(kms, id, failure, self.now),
        };
        if let Some(report) = report {
            self.report(report);
        }
    }
}
