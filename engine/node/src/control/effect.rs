//! What control has done for it: messages to shards, calls to KMSes, writes, and what is told to the exporter and the log.

use zeroize::Zeroizing;

use super::kms::{Deks, KmsFailure, NewDek};
use super::report::Report;
use crate::catalogue::{Catalogue, WrappedDek};
use crate::figures::{CatalogueFigures, HotSnapshot, SettingsSnapshot};
use crate::ids::{CallId, QuestionId, WriteId};
use crate::messages::{Lane, Secret, ToShard};

/// One thing to do. The driver does them in their order. It has no `Debug`, since it can hold a secret.
pub enum ControlEffect {
    /// Send a message to a shard. Messages of one lane keep their order.
    Tell {
        /// Which shard.
        shard: u16,
        /// On which lane.
        lane: Lane,
        /// What.
        message: ToShard,
    },
    /// Call a KMS; answered by exactly one [`Control::handle_kms`](super::Control::handle_kms), whatever happens.
    Kms {
        /// Named in the answer.
        call: CallId,
        /// The KMS's name.
        kms: String,
        /// What to ask.
        request: KmsRequest,
    },
    /// Have a KMS forget its key, PIN or token, and end what it is being asked, at once. Not answered.
    LockKms {
        /// The KMS's name.
        kms: String,
    },
    /// Have a KMS make its next calls at once, whatever is waited for after failures. Not answered.
    Hurry {
        /// The KMS's name.
        kms: String,
    },
    /// Write the catalogue durably; answered by exactly one [`Control::handle_saved`](super::Control::handle_saved).
    /// There is one at a time.
    Save {
        /// Named in the answer.
        write: WriteId,
        /// What to write.
        catalogue: Catalogue,
    },
    /// Write the list of hot keys for the next start; answered by one
    /// [`Control::handle_hot_keys_saved`](super::Control::handle_hot_keys_saved). There is one at a time.
    SaveHotKeys {
        /// The file's text.
        text: String,
    },
    /// Have the exporter make a page of STATUS; answered by one [`Control::handle_status`](super::Control::handle_status).
    Status {
        /// Named in the answer.
        question: QuestionId,
        /// The row behind which it begins, 0 for the first page.
        after: u64,
    },
    /// Tell the exporter.
    Figures(ControlFigures),
    /// Write a line into the log.
    Report(Report),
}

/// For the exporter.
#[derive(Clone, Debug)]
pub enum ControlFigures {
    /// What has become of changes of keyspaces.
    Catalogue(CatalogueFigures),
    /// For the live page: every keyspace's settings.
    Settings(Vec<SettingsSnapshot>),
    /// For the live page: the hot keys of a keyspace.
    Hot(HotSnapshot),
}

/// How far a failure to make the first seal of a KMS's section of the catalogue matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSeal {
    /// What follows has to be sealed.
    Needed,
    /// The KMS may unwrap only.
    Optional,
}

/// What a KMS is asked. It has no `Debug`, since it can hold a secret.
pub enum KmsRequest {
    /// Check the KMS's section of the catalogue against its seal.
    Check(FirstSeal),
    /// Unwrap these DEKs of a keyspace, after the section was checked.
    Unwrap {
        /// Which keyspace.
        keyspace: u32,
        /// Its DEKs by rising generation.
        deks: Vec<WrappedDek>,
    },
    /// Make a DEK, and prove by an unwrap that it comes back.
    NewDek {
        /// For which keyspace.
        keyspace: u32,
        /// Its generation.
        generation: u32,
    },
    /// Unwrap DEKs at another KMS, and wrap them at this one, which proves each by an unwrap. Both sections are checked.
    Move {
        /// Whose DEKs.
        keyspace: u32,
        /// The KMS that has wrapped them so far.
        from: String,
        /// Those in use, by rising generation.
        in_use: Vec<WrappedDek>,
        /// Those that are retired.
        retired: Vec<WrappedDek>,
    },
    /// Unlock the KMS.
    Open {
        /// For which keyspace, if for one.
        keyspace: Option<u32>,
        /// What it needs.
        secret: Secret,
    },
    /// Make the KMS's own key.
    Initialise {
        /// Shares to make; 0 for none.
        shares: u8,
        /// Shares that open it.
        threshold: u8,
        /// What protects the key, if no shares do.
        passphrase: Zeroizing<Vec<u8>>,
    },
}

/// What a KMS has answered: the variant of the request. It has no `Debug`, since it can hold a secret.
pub enum KmsAnswer {
    /// The section is what a server has written.
    Checked(Result<(), KmsFailure>),
    /// The DEKs.
    Unwrapped(Result<Deks, KmsFailure>),
    /// The new DEK.
    Made(Result<NewDek, KmsFailure>),
    /// The DEKs in use, and the new records of all of them.
    Moved(Result<(Deks, Vec<WrappedDek>), KmsFailure>),
    /// Whether it is open now.
    Opened(Result<Unlocked, KmsFailure>),
    /// The payload of the answer to KMS_INIT, with shares in it, and their number.
    Initialised(Result<(Zeroizing<Vec<u8>>, usize), KmsFailure>),
}

/// How far a KMS is unlocked by a secret that was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// It is open.
    Open,
    /// It is not yet.
    MoreShares {
        /// Shares so far.
        given: u8,
        /// Shares that it takes.
        threshold: u8,
    },
}

impl KmsRequest {
    /// The answer to it that says that it failed.
    pub fn failed(&self, failure: KmsFailure) -> KmsAnswer {
        self.failing()(failure)
    }

    /// What makes that answer, for when the request has been used up.
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
