//! What a work waits for.

use super::effect::KmsAnswer;
use super::in_force::Settlement;
use crate::hot::HotShare;
use crate::messages::{ResealError, ResealPage, UnlockProgress};

/// What resumes a work.
pub(super) enum Event {
    /// The KMS has answered.
    Kms(KmsAnswer),
    /// A change of the catalogue has ended.
    Settled(Settlement),
    /// Every shard has acknowledged.
    Acknowledged,
    /// A shard has answered.
    Shard(ShardAnswer),
    /// The exporter has answered.
    Status(Option<String>),
    /// Its pause is over.
    Rested,
}

/// The answer of a shard to a request.
pub(super) enum ShardAnswer {
    Resealed(Result<ResealPage, ResealError>),
    Progress(UnlockProgress),
    Hot(Option<HotShare>),
    /// The shard has stopped.
    Stopped,
}
