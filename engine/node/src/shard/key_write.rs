//! The state of a write to a key: what it waits for, and what it has found. [`super::key_admin`] takes the steps.

use super::port::{Blob, Generated};
use super::shelf::SealUnder;
use crate::connection::Place;

/// A write that was begun.
pub(crate) struct KeyWrite {
    pub(super) step: Step,
    /// The principal's place among its writes in progress; not for what takes something away.
    pub(super) _place: Option<Place>,
    /// The blob that is to be changed, once it was read.
    pub(super) current: Option<Blob>,
    pub(super) generated: Option<Generated>,
}

/// What a write waits for.
pub(super) enum Step {
    /// Nothing.
    Going,
    /// The keyspace's DEK. The core hands it out in time.
    AwaitingDek,
    /// The key's newest blob.
    Reading,
    /// A secret that takes long to make.
    Generating,
    /// To find out when the key was revoked.
    LookingBack,
    /// The log.
    Putting {
        under: Option<SealUnder>,
        restores: bool,
    },
    /// The log, for a revocation that is in force.
    Revoking,
}

impl KeyWrite {
    /// Returns whether what it asked for is in force, although the log may not have written it.
    pub(crate) fn is_in_force(&self) -> bool {
        matches!(self.step, Step::Revoking)
    }

    /// Returns whether it waits for the DEK, and nothing has been begun.
    pub(crate) fn awaits_dek(&self) -> bool {
        matches!(self.step, Step::AwaitingDek)
    }
}
