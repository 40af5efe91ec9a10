//! What can go wrong, sorted by who can do something about it.

use std::fmt;
use std::time::Duration;

use keyway_protocol::{ProtocolError, Status, decode_ticket};

use crate::answer::Reply;

/// A call that did not succeed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be read.
    Address {
        /// What was given.
        text: String,
    },
    /// The call breaks a rule of the protocol and was not sent.
    Call(ProtocolError),
    /// The server answered, and not with OK.
    Refused(Refusal),
    /// The deadline passed before there was an answer.
    Deadline {
        /// Whether a write may have been done.
        outcome: CallEffect,
        /// What kept the call from being answered, if it is known.
        last: Option<String>,
    },
    /// The connection could not be made, or broke before there was an answer.
    Disconnected {
        /// Whether a write may have been done.
        outcome: CallEffect,
        /// What happened.
        cause: String,
    },
    /// The server's bytes break a rule of the protocol.
    Answer {
        /// Whether a write may have been done.
        outcome: CallEffect,
        /// What is wrong with them.
        cause: String,
    },
}

/// An answer that is not OK.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Why.
    pub status: Status,
    /// When to ask again, if the server said.
    pub after: Option<Duration>,
    /// The ticket of the unlock that is needed, if the status is NEEDS_UNLOCK.
    pub ticket: Option<u64>,
    /// The server's own words; may be empty.
    pub explanation: String,
    /// Whether a write may have been done.
    pub outcome: CallEffect,
}

/// Who can do something about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The caller: the call itself is wrong, or not allowed, or what it names is not there.
    Caller,
    /// The operator of the keys: the key or its keyspace is locked, revoked or broken.
    Key,
    /// The server or what it depends on: it is overloaded, cannot reach its KMS, or has a fault.
    Server,
    /// The network in between, or no server listens.
    Network,
}

/// What a failed call may still have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEffect {
    /// It has changed nothing.
    NotDone,
    /// It is a write that may have been done: check before sending it again.
    Unknown,
    /// What it takes away is in force on the server, but could not be written: a restart would undo it.
    InForce,
}

impl Error {
    /// The status that the server answered with, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            _ => None,
        }
    }

    /// The ticket of the unlock that is needed, if that is the matter.
    #[must_use]
    pub fn ticket(&self) -> Option<u64> {
        match self {
            Self::Refused(refusal) => refusal.ticket,
            _ => None,
        }
    }

    /// Who can do something about it.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Address { .. } | Self::Call(_) => Blame::Caller,
            Self::Deadline { .. } | Self::Disconnected { .. } => Blame::Network,
            Self::Answer { .. } => Blame::Server,
            Self::Refused(refusal) => match refusal.status {
                Status::NeedsUnlock | Status::Invalid | Status::Revoked => Blame::Key,
                Status::NotFound
                | Status::Forbidden
                | Status::BadRequest
                | Status::Unsupported
                | Status::DeadlineExceeded
                | Status::Mismatch
                | Status::Conflict
                | Status::NoKeyspace => Blame::Caller,
                Status::Ok
                | Status::Retry
                | Status::Unavailable
                | Status::Overloaded
                | Status::Internal
                | Status::NotPersisted => Blame::Server,
            },
        }
    }

    /// Whether the same call can succeed later without anybody changing anything. A write whose
    /// outcome is unknown says no: look first.
    #[must_use]
    pub fn retry_can_help(&self) -> bool {
        if self.outcome() == CallEffect::Unknown {
            return false;
        }
        match self {
            Self::Address { .. } | Self::Call(_) | Self::Answer { .. } => false,
            Self::Deadline { .. } | Self::Disconnected { .. } => true,
            Self::Refused(refusal) => matches!(
                refusal.status,
                Status::Retry
                    | Status::Unavailable
                    | Status::Overloaded
                    | Status::DeadlineExceeded
                    | Status::Internal
                    | Status::NotPersisted
            ),
        }
    }

    /// Returns whether the call may still have been done.
    #[must_use]
    pub fn outcome(&self) -> CallEffect {
        match self {
            Self::Address { .. } | Self::Call(_) => CallEffect::NotDone,
            Self::Refused(Refusal { outcome, .. })
            | Self::Deadline { outcome, .. }
            | Self::Disconnected { outcome, .. }
            | Self::Answer { outcome, .. } => *outcome,
        }
    }
}

impl Refusal {
    pub(crate) fn new(reply: &Reply, is_write: bool) -> Self {
        let ticket = match reply.status {
            Status::NeedsUnlock => decode_ticket(&reply.payload).ok(),
            _ => None,
        };
        // These two say nothing about how far the server came.
        let may_be_done = matches!(reply.status, Status::DeadlineExceeded | Status::Internal);
        Self {
            status: reply.status,
            after: (reply.after_us > 0).then(|| Duration::from_micros(reply.after_us.into())),
            ticket,
            explanation: match ticket {
                Some(_) => String::new(),
                None => String::from_utf8_lossy(&reply.payload).into_owned(),
            },
            outcome: match reply.status {
                Status::NotPersisted => CallEffect::InForce,
                _ => CallEffect::of_write(is_write && may_be_done),
            },
        }
    }
}

impl CallEffect {
    pub(crate) fn of_write(may_be_done: bool) -> Self {
        if may_be_done {
            Self::Unknown
        } else {
            Self::NotDone
        }
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Self::Call(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { text } => {
                write!(
                    f,
                    "cannot read the address {text:?}: write HOST:PORT or unix:/PATH"
                )
            }
            Self::Call(error) => write!(f, "not sent: {error}"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Deadline { last: None, .. } => f.write_str("no answer within the deadline"),
            Self::Deadline {
                last: Some(last), ..
            } => write!(f, "no answer within the deadline: {last}"),
            Self::Disconnected { cause, .. } => f.write_str(cause),
            Self::Answer { cause, .. } => {
                write!(
                    f,
                    "the answer cannot be read: {cause}; is it a Keyway server?"
                )
            }
        }?;
        match self.outcome() {
            CallEffect::NotDone | CallEffect::InForce => Ok(()),
            CallEffect::Unknown => f.write_str("; it may have been done, look before asking again"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.status.name().to_ascii_uppercase())?;
        match (self.ticket, self.explanation.as_str()) {
            (Some(ticket), _) => write!(f, ": unlock the keyspace (ticket {ticket})"),
            (None, "") => write!(f, ": {}", remedy(self.status)),
            (None, explanation) => write!(f, ": {explanation}"),
        }
    }
}

/// What to say when the server says nothing.
fn remedy(status: Status) -> &'static str {
    match status {
        Status::Ok => "done",
        Status::Retry => "the key is being loaded, ask again",
        Status::NeedsUnlock => "unlock the keyspace",
        Status::Unavailable => "the KMS or the store cannot be reached, ask again later",
        Status::Overloaded => "the server is overloaded, ask again more slowly",
        Status::NotFound => "there is no such key",
        Status::Invalid => "the stored key cannot be opened",
        Status::Revoked => "the key has been revoked",
        Status::Forbidden => "the policy or the key's usage does not allow this",
        Status::BadRequest => "the request breaks a rule of the protocol",
        Status::Unsupported => "this key or this server cannot do that",
        Status::DeadlineExceeded => "the deadline had passed, allow more time",
        Status::Mismatch => "it does not verify",
        Status::Conflict => "it exists already",
        Status::NoKeyspace => "there is no such keyspace, or you may not use it",
        Status::Internal => "the server failed, its log says why",
        Status::NotPersisted => "in force, but not written: a restart would undo it, ask again",
    }
}

impl std::error::Error for Error {}
