//! Writing answers to where a request came from.

use std::cell::RefCell;
use std::rc::Rc;

use keyway_core::{Instant, Refusal};
use keyway_protocol::{ResponseHead, ResponseWriter, Status};

use super::Shard;
use super::forward::MeshMessage;
use crate::authorise::Principal;
use crate::connection::Connection;
use crate::metrics::requests::{CountedOperation, CountedOutcome};

/// Where a request came from.
#[derive(Clone)]
pub enum Origin {
    /// A connection of this shard.
    Connection(Rc<Connection>),
    /// Another shard, which knows the request by `token`.
    Peer {
        /// The shard.
        shard: u16,
        /// Its name for the request.
        token: u64,
        /// Who asked there.
        principal: Principal,
    },
}

impl Origin {
    /// Who asks.
    pub fn principal(&self) -> Principal {
        match self {
            Origin::Connection(connection) => connection.principal(),
            Origin::Peer { principal, .. } => *principal,
        }
    }
}

/// The duty to answer one request. It is neither `Clone` nor `Copy`, and answering consumes it, so a second answer does
/// not compile; one that is dropped without an answer (an early return, a panic) is answered INTERNAL at the end of the
/// turn.
#[must_use]
pub struct Responder {
    /// Where the answer goes; `None` once there is one.
    origin: Option<Origin>,
    request_id: u64,
    /// Keyspace, for the count; 0 for none.
    keyspace: u32,
    /// Operation, for the count.
    operation: CountedOperation,
    orphans: Rc<Orphans>,
}

impl Responder {
    /// Returns the connection of this shard that the request came from.
    pub fn connection(&self) -> Option<&Rc<Connection>> {
        match &self.origin {
            Some(Origin::Connection(connection)) => Some(connection),
            Some(Origin::Peer { .. }) | None => None,
        }
    }

    /// Ends the duty without an answer: the connection is gone, and nobody would read it.
    pub fn abandon(mut self) {
        self.origin = None;
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Only queued: a drop can happen anywhere, also while the shard's parts are borrowed.
        if let Some(origin) = self.origin.take() {
            let orphans = Rc::clone(&self.orphans);
            let orphan = Responder {
                origin: Some(origin),
                orphans: Rc::clone(&orphans),
                ..*self
            };
            orphans.0.borrow_mut().push(orphan);
        }
    }
}

/// Requests that a handler left without an answer, until the end of the turn. At most as many as there are requests.
#[derive(Default)]
pub struct Orphans(RefCell<Vec<Responder>>);

impl Shard {
    /// Takes on the duty to answer a request that came from `origin`. Keyspace and operation are for the count.
    pub fn responder(
        &self,
        origin: Origin,
        request_id: u64,
        keyspace: u32,
        operation: CountedOperation,
    ) -> Responder {
        Responder {
            origin: Some(origin),
            request_id,
            keyspace,
            operation,
            orphans: Rc::clone(&self.orphans),
        }
    }

    /// Answers what handlers left without an answer.
    pub(super) fn answer_orphans(&self) {
        if self.orphans.0.borrow().is_empty() {
            return;
        }
        for orphan in self.orphans.0.take() {
            self.refuse(orphan, Status::Internal, "a handler failed; this is a bug");
        }
    }

    /// Answers a request: `write` fills the payload and gives the head, or the refusal. A head
    /// that is not OK drops what was written.
    pub fn answer(
        &self,
        responder: Responder,
        write: impl FnOnce(&mut Vec<u8>) -> Result<ResponseHead, (ResponseHead, String)>,
    ) {
        self.answer_until(Instant::MAX, responder, write);
    }

    /// As [`Shard::answer`], with a result of a key that must not leave the node at `good_until` or later. A result for a
    /// connection of this shard leaves at once; another shard is told when it must not pass it on any more.
    pub(super) fn answer_until(
        &self,
        good_until: Instant,
        mut responder: Responder,
        write: impl FnOnce(&mut Vec<u8>) -> Result<ResponseHead, (ResponseHead, String)>,
    ) {
        let Some(origin) = responder.origin.take() else {
            return;
        };
        match &origin {
            Origin::Connection(connection) => {
                if connection.finished_request() {
                    let mut outbox = connection.outbox().borrow_mut();
                    self.write_answer(&responder, &mut outbox.bytes, write);
                    outbox.wake();
                }
            }
            Origin::Peer { shard, token, .. } => {
                let mut frame = Vec::with_capacity(256);
                self.write_answer(&responder, &mut frame, write);
                let message = MeshMessage::Reply {
                    token: *token,
                    good_until,
                    frame,
                };
                // A reply must arrive, so it is never given back.
                let _ = self.mesh.post(*shard, message);
            }
        }
    }

    /// Passes on an answer that another shard has written and counted.
    pub(super) fn pass_on(&self, mut responder: Responder, frame: &[u8]) {
        if let Some(Origin::Connection(connection)) = responder.origin.take()
            && connection.finished_request()
        {
            let mut outbox = connection.outbox().borrow_mut();
            outbox.bytes.extend_from_slice(frame);
            outbox.wake();
        }
    }

    fn write_answer(
        &self,
        responder: &Responder,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<ResponseHead, (ResponseHead, String)>,
    ) {
        let mut writer = ResponseWriter::begin(out, responder.request_id);
        // A panic leaves half an answer behind: it is taken back, and the request gets a whole one.
        let written = self.guarded(|| write(writer.payload()));
        let failed = || {
            let head = ResponseHead::status(Status::Internal);
            Err((head, "a handler failed; this is a bug".to_owned()))
        };
        let outcome = match written.unwrap_or_else(failed) {
            Ok(head) => {
                writer.finish(head);
                CountedOutcome::of(&head)
            }
            Err((head, explanation)) => {
                writer.finish_with_explanation(head, &explanation);
                CountedOutcome::of(&head)
            }
        };
        self.keyspaces
            .borrow_mut()
            .count(responder.keyspace, responder.operation, outcome);
    }

    /// Answers with a status and an explanation.
    pub fn refuse(&self, responder: Responder, status: Status, explanation: &str) {
        self.answer(responder, |_| {
            Err((ResponseHead::status(status), explanation.to_owned()))
        });
    }

    /// The ticket of a keyspace whose DEK is needed; `episode` is the core's name of that, if it has one.
    pub(super) fn needs_unlock(&self, keyspace: u32, episode: u64) -> u64 {
        let mut keyspaces = self.keyspaces.borrow_mut();
        let Some(known) = keyspaces.of_mut(keyspace) else {
            return 0;
        };
        if episode != 0 {
            known.episode = episode;
        }
        known.ticket
    }

    /// Answers what the core refused.
    pub(super) fn refuse_as(&self, responder: Responder, refusal: Refusal) {
        if let Refusal::NeedsUnlock { ticket: episode } = refusal {
            let ticket = self.needs_unlock(responder.keyspace, episode);
            return self.answer(responder, |payload| {
                keyway_protocol::encode_ticket(ticket, payload);
                Ok(ResponseHead::status(Status::NeedsUnlock))
            });
        }
        let hinted = |status, after_us: u64| ResponseHead {
            after_us: u32::try_from(after_us).unwrap_or(u32::MAX),
            ..ResponseHead::status(status)
        };
        let (head, explanation) = match refusal {
            Refusal::NotFound => (
                ResponseHead::status(Status::NotFound),
                "there is no such key",
            ),
            Refusal::Invalid => (
                ResponseHead::status(Status::Invalid),
                "the stored key cannot be used: it is past its not_after, or its blob does not \
                 open (the server's log says which); use another key, or restore the blob log \
                 from a backup",
            ),
            Refusal::Revoked => (ResponseHead::status(Status::Revoked), "the key is revoked"),
            Refusal::Retry { after_us } => (
                hinted(Status::Retry, after_us),
                "the key is being loaded; try again",
            ),
            Refusal::Unavailable { after_us } => (
                hinted(Status::Unavailable, after_us),
                "the KMS or the store does not answer",
            ),
            Refusal::Overloaded { after_us } => (
                hinted(Status::Overloaded, after_us),
                "a limit of this shard is reached",
            ),
            Refusal::DeadlineExceeded => (
                ResponseHead::status(Status::DeadlineExceeded),
                "the deadline passed before the work began",
            ),
            Refusal::NoKeyspace | Refusal::NeedsUnlock { .. } => (
                ResponseHead::status(Status::NoKeyspace),
                "there is no such keyspace",
            ),
        };
        self.answer(responder, |_| Err((head, explanation.to_owned())));
    }
}
