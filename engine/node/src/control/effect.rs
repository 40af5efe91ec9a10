//! What control requests from its driver: messages to shards, KMS calls, writes, and events for the exporter and the log.

use zeroize::Zeroizing;

use super::kms::{Deks, KmsFailure, NewDek};
use super::report::Report;
use crate::catalogue::{Catalogue, WrappedDek};
use crate::figures::{CatalogueFigures, HotSnapshot, SettingsSnapshot};
use crate::ids::{CallId, QuestionId, WriteId};
use crate::messages::{Lane, Secret, ToShard};

/// One effect. The driver performs effects in order. It has no `Debug`, since it can contain a secret.
pub enum ControlEffect {
    /// Sends a message to a shard. Messages of one lane keep their order.
    Tell {
        /// The receiving shard.
        shard: u16,
        /// The lane.
        lane: Lane,
        /// The message.
        message: ToShard,
    },
    /// Calls a KMS. Answered by exactly one [`Control::handle_kms`](super::Control::handle_kms), even after a panic.
    Kms {
        /// Identifies the answer.
        call: CallId,
        /// The name of the KMS.
        kms: String,
        /// The request.
        request: KmsRequest,
    },
    /// Makes a KMS wipe its key, PIN or token and abort its calls immediately. Not answered.
    LockKms {
        /// The name of the KMS.
        kms: String,
    },
    /// Makes a KMS send its next calls immediately, without waiting for a backoff. Not answered.
    Hurry {
        /// The name of the KMS.
        kms: String,
    },
    /// Writes the catalogue durably. Answered by exactly one [`Control::handle_saved`](super::Control::handle_saved). One
    /// write is in progress at a time.
    Save {
        /// Identifies the answer.
        write: WriteId,
        /// The catalogue to write.
        catalogue: Catalogue,
    },
    /// Writes the list of hot keys for the next start. Answered by one
    /// [`Control::handle_hot_keys_saved`](super::Control::handle_hot_keys_saved). One write is in progress at a time.
    SaveHotKeys {
        /// The text of the file.
        text: String,
    },
    /// Requests a page of STATUS from the exporter. Answered by one
    /// [`Control::handle_status`](super::Control::handle_status).
    Status {
        /// Identifies the answer.
        question: QuestionId,
        /// The row after which the page begins; 0 for the first page.
        after: u64,
    },
    /// Sends values to the exporter.
    Figures(ControlFigures),
    /// Writes a log line.
    Report(Report),
}

/// Values for the exporter.
#[derive(Clone, Debug)]
pub enum ControlFigures {
    /// Outcomes of changes of keyspaces.
    Catalogue(CatalogueFigures),
    /// For the live page: every keyspace's settings.
    Settings(Vec<SettingsSnapshot>),
    /// For the live page: the hot keys of a keyspace.
    Hot(HotSnapshot),
}

/// How a failure to create the first seal of a KMS's section of the catalogue is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSeal {
    /// An error: what follows must be sealed.
    Needed,
    /// Not an error: the KMS may have the right to unwrap only.
    Optional,
}

/// A request to a KMS. It has no `Debug`, since it can contain a secret.
pub enum KmsRequest {
    /// Check the KMS's section of the catalogue against its seal.
    Check(FirstSeal),
    /// Unwrap these DEKs of a keyspace, after the section was checked.
    Unwrap {
        /// The keyspace id.
        keyspace: u32,
        /// Its DEKs, oldest first.
        deks: Vec<WrappedDek>,
    },
    /// Generate a DEK, and verify by an unwrap that it can be recovered.
    NewDek {
        /// The keyspace id.
        keyspace: u32,
        /// The generation of the DEK.
        generation: u32,
    },
    /// Unwrap DEKs with another KMS, and wrap them with this one, which verifies each by an unwrap. Both sections are
    /// checked.
    Move {
        /// The keyspace id.
        keyspace: u32,
        /// The KMS that wraps them now.
        from: String,
        /// The DEKs in use, oldest first.
        in_use: Vec<WrappedDek>,
        /// The retired DEKs.
        retired: Vec<WrappedDek>,
    },
    /// Unlock the KMS.
    Open {
        /// The keyspace to be unlocked, if the request is for one.
        keyspace: Option<u32>,
        /// The secret that the KMS needs.
        secret: Secret,
    },
    /// Initialise the KMS: generate its own key.
    Initialise {
        /// Number of shares to create; 0 for none.
        shares: u8,
        /// Number of shares that open it.
        threshold: u8,
        /// The passphrase that protects the key, if it is not split into shares.
        passphrase: Zeroizing<Vec<u8>>,
    },
}

/// The answer of a KMS: the same variant as the request. It has no `Debug`, since it can contain a secret.
pub enum KmsAnswer {
    /// Whether a server wrote the section.
    Checked(Result<(), KmsFailure>),
    /// The DEKs.
    Unwrapped(Result<Deks, KmsFailure>),
    /// The new DEK, wrapped and unwrapped.
    Made(Result<NewDek, KmsFailure>),
    /// The DEKs in use, and all DEKs as this KMS wraps them.
    Moved(Result<(Deks, Vec<WrappedDek>), KmsFailure>),
    /// How far the KMS is unlocked.
    Opened(Result<Unlocked, KmsFailure>),
    /// The payload of the response to KMS_INIT, which contains the shares, and their number.
    Initialised(Result<(Zeroizing<Vec<u8>>, usize), KmsFailure>),
}

/// How far a correct secret has unlocked a KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// It is open.
    Open,
    /// It needs more shares.
    MoreShares {
        /// Shares given so far.
        given: u8,
        /// Shares required.
        threshold: u8,
    },
}

impl KmsRequest {
    /// Returns the answer to this request that reports the failure.
    pub fn failed(&self, failure: KmsFailure) -> KmsAnswer {
        self.failing()(failure)
    }

    /// Returns a function that builds the failure answer, for use after the request was consumed.
    pub fn failing(&self) -> fn(KmsFailure) -> KmsAnswer {
        match self {
            KmsRequest::Check(_) => |failure| KmsAnswer::Checked(Err(failure)),
            KmsRequest::Unwrap { .. } => |failure| KmsAnswer::Unwrapped(Err(failure)),
            KmsRequest::NewDek { .. } => |failure| KmsAnswer::Made(Err(failure)),
            KmsRequest::Move { .. } => |failure| KmsAnswer::Moved(Err(failure)),
            KmsRequest::Open { .. } => |failure| KmsAnswer::Opened(Err(failure)),
            KmsRequest::Initialise { .. } => |failure| KmsAnswer::Initialised(Err(failure)),
        }
    }
}
