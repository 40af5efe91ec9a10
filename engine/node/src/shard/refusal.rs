//! Refusals to answers.

use std::borrow::Cow;

use keyway_core::Refusal;
use keyway_protocol::{ResponseHead, Status};

use super::governed::Keyspaces;
use super::outputs::Outputs;
use super::permit::Denied;
use super::port::WriteError;
use super::responder::Responder;

/// When to ask again after the store could not be read or written, µs.
const STORE_AFTER_US: u32 = 1_000_000;

/// The refusal of a request for which a shard has no room.
pub(crate) const fn overloaded(after_us: u64) -> Refusal {
    Refusal::Overloaded { after_us }
}

/// Why a write was not done.
pub(crate) enum WriteRefusal {
    /// The right to it was withdrawn.
    Denied(Denied),
    /// It may not begin any more: its deadline has passed, or its keyspace was locked.
    Refused(Refusal),
    /// Anything else.
    Error(WriteError),
}

impl From<WriteError> for WriteRefusal {
    fn from(error: WriteError) -> Self {
        WriteRefusal::Error(error)
    }
}

impl From<Denied> for WriteRefusal {
    fn from(denied: Denied) -> Self {
        WriteRefusal::Denied(denied)
    }
}

impl From<Refusal> for WriteRefusal {
    fn from(refusal: Refusal) -> Self {
        WriteRefusal::Refused(refusal)
    }
}

fn hinted(status: Status, after_us: u64) -> ResponseHead {
    ResponseHead {
        after_us: u32::try_from(after_us).unwrap_or(u32::MAX),
        ..ResponseHead::status(status)
    }
}

impl Outputs {
    /// Answers what was denied.
    pub(crate) fn deny(&mut self, responder: Responder, (status, explanation): Denied) {
        self.refuse(responder, status, explanation.into());
    }

    /// Answers what the core refused.
    pub(crate) fn refuse_as(
        &mut self,
        governed: &mut Keyspaces,
        responder: Responder,
        refusal: Refusal,
    ) {
        if let Refusal::NeedsUnlock { ticket: episode } = refusal {
            let keyspace = responder.count.keyspace;
            let ticket = keyspace.map_or(0, |at| governed[at].needs_unlock(episode));
            return self.answer(responder, |payload| {
                keyway_protocol::encode_ticket(ticket, payload);
                Ok(ResponseHead::status(Status::NeedsUnlock))
            });
        }
        let (head, explanation) = explain(refusal);
        self.answer(responder, |_| Err((head, Cow::Borrowed(explanation))));
    }

    /// Answers a write that was not done.
    pub(crate) fn refuse_write(
        &mut self,
        governed: &mut Keyspaces,
        responder: Responder,
        refusal: WriteRefusal,
    ) {
        let error = match refusal {
            WriteRefusal::Denied(denied) => return self.deny(responder, denied),
            WriteRefusal::Refused(refusal) => {
                return self.refuse_as(governed, responder, refusal);
            }
            WriteRefusal::Error(error) => error,
        };
        let refusal = match error {
            WriteError::DekMissing => Some(Refusal::Unavailable { after_us: 100_000 }),
            WriteError::NotFound => Some(Refusal::NotFound),
            WriteError::Revoked => Some(Refusal::Revoked),
            _ => None,
        };
        if let Some(refusal) = refusal {
            return self.refuse_as(governed, responder, refusal);
        }
        let (head, explanation) = match error {
            WriteError::Overloaded(why) => (hinted(Status::Overloaded, 10_000), why),
            WriteError::Store(why) => (hinted(Status::Unavailable, STORE_AFTER_US.into()), why),
            WriteError::Conflict(why) => (ResponseHead::status(Status::Conflict), why),
            WriteError::Bad(why) => (ResponseHead::status(Status::BadRequest), why),
            WriteError::Invalid(why) => (ResponseHead::status(Status::Invalid), why),
            WriteError::NotPersisted(why) => (ResponseHead::status(Status::NotPersisted), why),
            WriteError::Unknown(why) => (ResponseHead::status(Status::Internal), why),
            WriteError::DekMissing | WriteError::NotFound | WriteError::Revoked => return,
        };
        self.answer(responder, |_| Err((head, Cow::Owned(explanation))));
    }
}

fn explain(refusal: Refusal) -> (ResponseHead, &'static str) {
    match refusal {
        Refusal::NotFound => (
            ResponseHead::status(Status::NotFound),
            "there is no such key",
        ),
        Refusal::Invalid => (
            ResponseHead::status(Status::Invalid),
            "the stored key cannot be used: it is past its not_after, or its blob does not open \
             (the server's log says which); use another key, or restore the blob log from a backup",
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
    }
}
