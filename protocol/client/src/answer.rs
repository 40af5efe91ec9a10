//! What came back.

use keyway_protocol::{ResponseFlags, ResponseFrame, Status};

use crate::Secret;
use crate::error::Refusal;

/// An OK answer: the value, and what the server says about the key that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What was asked for.
    pub value: T,
    /// The version of the key that was used or made; 0 if there was none.
    pub key_version: u32,
    /// Whether the key was past its soft TTL.
    pub stale: bool,
    /// Whether another shard than the one asked gave the answer.
    pub forwarded: bool,
    /// How long before the answer the key had been loaded, in ms; `u32::MAX` for longer.
    pub key_age_ms: u32,
}

impl<T> Answer<T> {
    pub(crate) fn map<U>(self, to: impl FnOnce(T) -> U) -> Answer<U> {
        Answer {
            value: to(self.value),
            key_version: self.key_version,
            stale: self.stale,
            forwarded: self.forwarded,
            key_age_ms: self.key_age_ms,
        }
    }
}

/// An answer of any status, out of its frame.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: Status,
    pub(crate) flags: ResponseFlags,
    pub(crate) key_version: u32,
    pub(crate) after_us: u32,
    pub(crate) key_age_ms: u32,
    pub(crate) payload: Secret,
}

impl Reply {
    pub(crate) fn from_frame(frame: &ResponseFrame<'_>) -> Self {
        Self {
            status: frame.status,
            flags: frame.flags,
            key_version: frame.key_version,
            after_us: frame.after_us,
            key_age_ms: frame.key_age_ms,
            payload: Secret::new(frame.payload.to_vec()),
        }
    }

    /// This answer if it is OK, else what it says.
    pub(crate) fn ok(self) -> Result<Self, String> {
        match self.status {
            Status::Ok => Ok(self),
            _ => Err(Refusal::new(&self, false).to_string()),
        }
    }

    pub(crate) fn with_value<T>(&self, value: T) -> Answer<T> {
        Answer {
            value,
            key_version: self.key_version,
            stale: self.flags.contains(ResponseFlags::STALE),
            forwarded: self.flags.contains(ResponseFlags::FORWARDED),
            key_age_ms: self.key_age_ms,
        }
    }
}
