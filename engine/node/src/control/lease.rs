//! Leases of DEKs: one unwrap request to the KMS, whose answer goes to every shard.

use keyway_core::LeaseEvent;

use super::Control;
use super::effect::{ControlEffect, KmsAnswer, KmsRequest};
use super::kms::{Deks, KmsFailure};
use super::report::Report;
use crate::ids::CallId;
use crate::messages::{Lane, ToShard};

/// The state of a keyspace's unwrap request for the shards. A lock discards the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Lease {
    /// None is in progress.
    #[default]
    Idle,
    /// One is in progress.
    Requested {
        call: CallId,
        /// The DEKs have changed since: the request is repeated.
        again: bool,
    },
    /// An unlock has the DEKs, and passes them on as soon as the shards are open.
    Available,
}

impl Control {
    /// Handles a shard's request for a keyspace's DEKs. The answer goes to every shard, since all of them will need it;
    /// the keyspace then costs one call per half lease. Requests received while a call is in flight share its answer.
    pub(super) fn lease(&mut self, id: u32) {
        let asking = self.keyspaces.get(&id).map(|governed| governed.lease);
        match asking {
            None | Some(Lease::Idle) => self.request_deks(id),
            Some(Lease::Requested { .. } | Lease::Available) => {}
        }
    }

    /// Unwraps the current DEKs again, and sends them to every shard.
    pub(super) fn hand_out(&mut self, id: u32) {
        match self
            .keyspaces
            .get_mut(&id)
            .map(|governed| &mut governed.lease)
        {
            Some(Lease::Requested { again, .. }) => *again = true,
            Some(Lease::Available) => {}
            Some(Lease::Idle) | None => self.request_deks(id),
        }
    }

    /// Records that a keyspace's DEKs have changed, so the call in flight does not return all of them.
    pub(super) fn deks_have_changed(&mut self, id: u32) {
        let governed = self.keyspaces.get_mut(&id);
        if let Some(Lease::Requested { again, .. }) = governed.map(|governed| &mut governed.lease) {
            *again = true;
        }
    }

    fn request_deks(&mut self, id: u32) {
        if self.is_locked(id) {
            // The request and the lock crossed.
            let failure = KmsFailure::keyspace_locked(&self.unlock_remedy(id));
            return self.broadcast_lease(id, Err(failure));
        }
        match self.unwrap_request(id) {
            Ok((kms, request)) => {
                let call = self.works.call_for_lease(id);
                if let Some(governed) = self.keyspaces.get_mut(&id) {
                    governed.lease = Lease::Requested { call, again: false };
                }
                self.effects
                    .push_back(ControlEffect::Kms { call, kms, request });
            }
            Err(failure) => self.broadcast_lease(id, Err(failure)),
        }
    }

    /// Returns the request that unwraps all DEKs of a keyspace, and its KMS.
    pub(super) fn unwrap_request(&self, id: u32) -> Result<(String, KmsRequest), KmsFailure> {
        let keyspace = self.in_force.written().keyspace(id);
        let keyspace = keyspace.map_err(|error| KmsFailure::of_catalogue(&error))?;
        self.kms.get(&keyspace.kms)?;
        let deks = keyspace.deks();
        let request = KmsRequest::Unwrap { keyspace: id, deks };
        Ok((keyspace.kms.clone(), request))
    }

    /// Handles the answer to an unwrap request. If a lock has superseded the request, the DEKs are wiped.
    pub(super) fn handle_lease_answer(&mut self, id: u32, call: CallId, answer: KmsAnswer) {
        let KmsAnswer::Unwrapped(answer) = answer else {
            return;
        };
        let Some(governed) = self.keyspaces.get_mut(&id) else {
            return;
        };
        let again = match governed.lease {
            Lease::Requested { call: asked, again } if asked == call => again,
            _ => return,
        };
        governed.lease = Lease::Idle;
        self.broadcast_lease(id, answer);
        if again {
            self.hand_out(id);
        }
    }

    /// Sends the answer of the KMS to every shard.
    pub(super) fn broadcast_lease(&mut self, id: u32, mut answer: Result<Deks, KmsFailure>) {
        if let (Ok(deks), Ok(written)) = (&mut answer, self.in_force.written().keyspace(id)) {
            // A DEK that was destroyed during the call is sent to no shard.
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
            self.send_to(shard, Lane::Ordinary, lease);
        }
        if let LeaseEvent::Granted { .. } = event {
            self.resume_resealing(id);
        }
    }

    fn note_trouble(&mut self, id: u32, answer: &Result<Deks, KmsFailure>, is_locked: bool) {
        let Ok(keyspace) = self.in_force.written().keyspace(id) else {
            return;
        };
        let kms = &keyspace.kms;
        let report = match answer {
            Ok(_) => self.troubles.note_success(kms, id, self.now.instant),
            // The keyspace's own lock is not a KMS failure.
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
