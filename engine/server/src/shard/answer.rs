//! Writing answers to where a request came from.

use std::rc::Rc;

use keyway_core::Refusal;
use keyway_protocol::{ResponseHead, ResponseWriter, Status};

use super::Shard;
use super::forward::MeshMessage;
use crate::authorise::Principal;
use crate::connection::Connection;
use crate::metrics::snapshot::OUTCOME_OK_STALE;

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

/// A request's face towards its answer.
#[derive(Clone)]
pub struct Reply {
    /// Where it goes.
    pub origin: Origin,
    /// The client's name for the request.
    pub request_id: u64,
    /// Keyspace, for the count; 0 for none.
    pub keyspace: u32,
    /// Operation, for the count: an index of `OPERATIONS`.
    pub operation: usize,
}

impl Shard {
    /// Answers a request: `write` fills the payload and gives the head, or the refusal. A head
    /// that is not OK drops what was written.
    pub(super) fn answer(
        &self,
        reply: &Reply,
        write: impl FnOnce(&mut Vec<u8>) -> Result<ResponseHead, (ResponseHead, String)>,
    ) {
        match &reply.origin {
            Origin::Connection(connection) => {
                if connection.finished_request() {
                    let mut outbox = connection.outbox().borrow_mut();
                    self.write_answer(reply, &mut outbox.bytes, write);
                    outbox.wake();
                }
            }
            Origin::Peer { shard, token, .. } => {
                let mut frame = Vec::with_capacity(256);
                self.write_answer(reply, &mut frame, write);
                let message = MeshMessage::Reply {
                    token: *token,
                    frame,
                };
                // A reply must arrive, so it is never given back.
                let _ = self.mesh.post(*shard, message);
            }
        }
    }

    fn write_answer(
        &self,
        reply: &Reply,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<ResponseHead, (ResponseHead, String)>,
    ) {
        let mut writer = ResponseWriter::begin(out, reply.request_id);
        let outcome = match write(writer.payload()) {
            Ok(head) => {
                writer.finish(head);
                if head.flags.is_empty() {
                    usize::from(head.status.code())
                } else {
                    OUTCOME_OK_STALE
                }
            }
            Err((head, explanation)) => {
                writer.finish_with_explanation(head, &explanation);
                usize::from(head.status.code())
            }
        };
        self.keyspaces
            .borrow_mut()
            .count(reply.keyspace, reply.operation, outcome);
    }

    /// Answers with a status and an explanation.
    pub(super) fn refuse(&self, reply: &Reply, status: Status, explanation: &str) {
        self.answer(reply, |_| {
            Err((ResponseHead::status(status), explanation.to_owned()))
        });
    }

    /// Answers what the core refused.
    pub(super) fn refuse_as(&self, reply: &Reply, refusal: Refusal) {
        if let Refusal::NeedsUnlock { ticket } = refusal {
            return self.answer(reply, |payload| {
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
        self.answer(reply, |_| Err((head, explanation.to_owned())));
    }
}
