//! What shards and control say to each other: plain data, which can be sent, delayed and replayed.
//!
//! ```text
//! shard ── ToControl: requests, and what it acknowledges ──▶ control
//!       ◀── ToShard: changes, leases, questions, answers ──
//! ```
//!
//! Each way has an emergency lane, which is read first, and an ordinary one. On a lane messages keep their order; an
//! emergency overtakes what is ordinary.
//!
//! A change is acknowledged in up to three steps, none of which waits for another: [`ToControl::Acted`] when the shard
//! acts by it, [`ToControl::Wiped`] when nothing of a locked keyspace is left, [`ToControl::Confirmed`] when nothing that
//! was sealed under an older DEK is still to be written to the shard's log.

use keyway_core::{Instant, LeaseEvent};
use keyway_protocol::{HotBy, Opcode, Status, UnlockKind};
use zeroize::Zeroizing;

use crate::catalogue::SettingsChange;
use crate::hot::HotShare;
use crate::ids::{Epoch, QuestionId, Revision};
use crate::keyspace_change::KeyspaceChange;
use crate::policy::Principal;

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Read first. For what takes something away, and its answer.
    Emergency,
    /// For everything else.
    Ordinary,
}

/// A key that is hot: its name, never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotKey {
    /// Its keyspace.
    pub keyspace: u32,
    /// Its id.
    pub key_id: Box<[u8]>,
}

/// From a shard. It has no `Debug`, since it can hold a secret.
pub enum ToControl {
    /// An administrator's request; answered by [`ToShard::Answer`].
    Request(Request),
    /// The DEKs of a keyspace; answered by [`ToShard::Lease`] to every shard.
    Unwrap {
        /// Which keyspace.
        keyspace: u32,
    },
    /// A blob is sealed under a DEK that is not in use any more: it may be among the retired ones. Not answered; if it
    /// is, it comes with the next [`ToShard::Lease`].
    Revive {
        /// Which keyspace.
        keyspace: u32,
        /// The DEK's generation.
        generation: u32,
    },
    /// The shard's hottest keys, hottest first, for the next start; not answered.
    Hottest {
        /// Its keys.
        keys: Vec<HotKey>,
    },
    /// The shard acts by the change of this revision, or a newer one.
    Acted {
        /// Which keyspace.
        keyspace: u32,
        /// The change's revision.
        revision: Revision,
    },
    /// The keyspace is locked, and nothing of it is left.
    Wiped {
        /// Which keyspace.
        keyspace: u32,
        /// Of the lock.
        epoch: Epoch,
    },
    /// Nothing that is sealed under a DEK older than this is still to be written to the shard's log, and nothing will be.
    Confirmed {
        /// Which keyspace.
        keyspace: u32,
        /// The DEK's generation.
        generation: u32,
    },
    /// The answer to [`ToShard::Reseal`].
    Resealed {
        /// Of the question.
        question: QuestionId,
        /// How it went.
        page: Result<ResealPage, ResealError>,
    },
    /// The answer to [`ToShard::Progress`].
    Progress {
        /// Of the question.
        question: QuestionId,
        /// How far.
        progress: UnlockProgress,
    },
    /// The answer to [`ToShard::Hot`].
    Hot {
        /// Of the question.
        question: QuestionId,
        /// Which keys; `None` if the shard does not know the keyspace.
        share: Option<HotShare>,
    },
}

impl ToControl {
    /// Whether a shard keeps the message while the lane is full. The others are refused or tried again anyway.
    pub fn must_deliver(&self) -> bool {
        match self {
            ToControl::Acted { .. }
            | ToControl::Wiped { .. }
            | ToControl::Confirmed { .. }
            | ToControl::Resealed { .. }
            | ToControl::Progress { .. }
            | ToControl::Hot { .. } => true,
            ToControl::Request(_)
            | ToControl::Unwrap { .. }
            | ToControl::Revive { .. }
            | ToControl::Hottest { .. } => false,
        }
    }
}

/// An administrator's request.
pub struct Request {
    /// The shard's name for it.
    pub token: u64,
    /// Who asks.
    pub who: Principal,
    /// At this time or later it does not begin; the clock is the same on all cores.
    pub deadline: Option<Instant>,
    /// What.
    pub command: Command,
}

/// An administrator's command. It has no `Debug`, since it can hold a secret.
pub enum Command {
    /// Make a keyspace.
    Create {
        /// Its name.
        name: String,
        /// The KMS that wraps its DEKs, if not the default one.
        kms: Option<String>,
        /// Its settings and grants.
        change: SettingsChange,
    },
    /// Change settings and grants.
    Set {
        /// Which keyspace.
        keyspace: u32,
        /// The change.
        change: SettingsChange,
    },
    /// What was changed of a keyspace.
    History {
        /// Which keyspace.
        keyspace: u32,
    },
    /// List those with an id above `after` that `visible` names.
    List {
        /// Greatest id not to list.
        after: u32,
        /// Ids that the principal may see, rising.
        visible: Vec<u32>,
    },
    /// Wipe the keyspace's keys everywhere, and its DEK, until an unlock.
    Lock {
        /// Which keyspace.
        keyspace: u32,
    },
    /// Start an unlock.
    Unlock {
        /// Which keyspace.
        keyspace: u32,
        /// What the provider needs.
        secret: Secret,
        /// Keep trying until the KMS answers.
        watch: bool,
    },
    /// How an unlock goes.
    UnlockStatus {
        /// Which keyspace.
        keyspace: u32,
        /// Its ticket.
        ticket: u64,
    },
    /// Give a keyspace a new DEK, and seal its blobs under it.
    Rotate {
        /// Which keyspace.
        keyspace: u32,
    },
    /// Destroy a keyspace's retired DEKs.
    DestroyDeks {
        /// Which keyspace.
        keyspace: u32,
    },
    /// Move a keyspace's DEKs to another KMS.
    Rewrap {
        /// Which keyspace.
        keyspace: u32,
        /// The KMS's name.
        kms: String,
    },
    /// Which keys are hot.
    Hot {
        /// Of which keyspace.
        keyspace: u32,
        /// In which order.
        by: HotBy,
        /// Keys wanted, at most.
        keys_max: usize,
    },
    /// Make a KMS's own key where there is none.
    Initialise {
        /// The KMS's name.
        kms: String,
        /// Shares to make; 0 for none.
        shares: u8,
        /// Shares that open it.
        threshold: u8,
        /// What protects the key, if no shares do.
        passphrase: Zeroizing<Vec<u8>>,
    },
    /// Unlock a KMS, for no keyspace in particular.
    UnlockKms {
        /// The KMS's name.
        kms: String,
        /// What the provider needs.
        secret: Secret,
    },
    /// Wipe what a KMS holds in memory, and lock the keyspaces that it wraps.
    LockKms {
        /// The KMS's name.
        kms: String,
    },
    /// Lock every keyspace and every KMS.
    LockAll,
    /// A page of everything, as JSON.
    Status {
        /// The row behind which it begins, 0 for the first page.
        after: u64,
    },
}

impl Command {
    /// The lane on which the command goes to control, and its answer back. What may take something away overtakes
    /// everything else.
    pub fn lane(&self) -> Lane {
        match self {
            Command::Lock { .. } | Command::LockKms { .. } | Command::LockAll => Lane::Emergency,
            Command::Set { change, .. } if change.may_take_away() => Lane::Emergency,
            _ => Lane::Ordinary,
        }
    }

    /// The operation that it carries out.
    pub fn opcode(&self) -> Opcode {
        match self {
            Command::Create { .. } => Opcode::KeyspaceCreate,
            Command::Set { .. } => Opcode::KeyspaceSet,
            Command::History { .. } => Opcode::KeyspaceHistory,
            Command::List { .. } => Opcode::KeyspaceList,
            Command::Lock { .. } => Opcode::Lock,
            Command::Unlock { .. } => Opcode::Unlock,
            Command::Rotate { .. } => Opcode::KeyspaceRotate,
            Command::DestroyDeks { .. } => Opcode::KeyspaceDestroyDeks,
            Command::Rewrap { .. } => Opcode::KeyspaceRewrap,
            Command::Hot { .. } => Opcode::KeyspaceHot,
            Command::Initialise { .. } => Opcode::KmsInit,
            Command::UnlockKms { .. } => Opcode::KmsUnlock,
            Command::LockKms { .. } => Opcode::KmsLock,
            Command::LockAll => Opcode::LockAll,
            Command::UnlockStatus { .. } => Opcode::UnlockStatus,
            Command::Status { .. } => Opcode::Status,
        }
    }

    /// Whether it changes nothing, so that it can still be refused when its answer is there.
    pub fn only_reads(&self) -> bool {
        matches!(
            self,
            Command::History { .. } | Command::Hot { .. } | Command::UnlockStatus { .. }
        )
    }

    /// The keyspace whose policy grants the right to it. Without one only those who may do everything have it; a list
    /// shows anybody what he may see.
    pub fn keyspace(&self) -> Option<u32> {
        match self {
            Command::Set { keyspace, .. }
            | Command::History { keyspace }
            | Command::Lock { keyspace }
            | Command::Unlock { keyspace, .. }
            | Command::UnlockStatus { keyspace, .. }
            | Command::Rotate { keyspace }
            | Command::DestroyDeks { keyspace }
            | Command::Rewrap { keyspace, .. }
            | Command::Hot { keyspace, .. } => Some(*keyspace),
            Command::Create { .. }
            | Command::List { .. }
            | Command::Initialise { .. }
            | Command::UnlockKms { .. }
            | Command::LockKms { .. }
            | Command::LockAll
            | Command::Status { .. } => None,
        }
    }
}

/// Secret bytes for a KMS, as they came over the wire; wiped when dropped.
pub struct Secret {
    /// What they are.
    pub kind: UnlockKind,
    /// May be empty.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Send a PIN even as the last attempt that the token allows.
    pub force: bool,
}

/// A DEK that is sent to a shard.
#[derive(Clone)]
pub struct DekBytes {
    /// Its generation.
    pub generation: u32,
    /// Wiped when dropped.
    pub bytes: Zeroizing<[u8; 32]>,
}

/// A keyspace's DEKs by rising generation. Boxed, since a secret that moves leaves a copy behind.
pub type DekCopies = Vec<Box<DekBytes>>;

impl std::fmt::Debug for DekBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DekBytes(generation {})", self.generation)
    }
}

/// How far a keyspace is unlocked at a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlockProgress {
    /// The ticket that the shard puts into NEEDS_UNLOCK.
    pub ticket: u64,
    /// The keyspace may be used: it is not locked, and there is a lease.
    pub is_open: bool,
    /// No key that was in use is left to be loaded.
    pub is_reloaded: bool,
    /// Keys that were loaded again by the last unlock.
    pub keys_reloaded: u64,
}

impl UnlockProgress {
    /// Returns whether the shard is still loading keys that were in use.
    pub fn is_loading(&self) -> bool {
        self.is_open && !self.is_reloaded
    }
}

/// What a page's blobs are looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResealWork {
    /// Only to count those under an older DEK.
    Count,
    /// To reseal them.
    Reseal,
}

/// What one page of a shard's log held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResealPage {
    /// Where the next page begins; empty at the end.
    pub cursor: Vec<u8>,
    /// The shard's seal floor when it looked.
    pub floor: u32,
    /// Blobs under an older DEK.
    pub found: u64,
    /// Those that are sealed under the newest one now, by this pass or by what came before it.
    pub resealed: u64,
    /// Those that cannot be opened, or not yet: their DEK is a retired one.
    pub unreadable: u64,
}

/// Why a page could not be resealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResealError {
    /// A DEK that is needed is not in memory.
    DekMissing,
    /// The shard has too much to do.
    Overloaded,
    /// Something else, for the log.
    Other(String),
}

/// To a shard. It has no `Debug`, since it can hold a secret.
pub enum ToShard {
    /// A keyspace is new or has changed. Acknowledged: see the module.
    Keyspace(Box<KeyspaceChange>),
    /// The KMS has answered.
    Lease {
        /// Which keyspace.
        keyspace: u32,
        /// When it was asked. An answer of an older epoch than the keyspace's is dropped.
        epoch: Epoch,
        /// What it said.
        event: LeaseEvent,
        /// The DEKs of all generations, if they were granted.
        deks: DekCopies,
        /// What NEEDS_UNLOCK carries once this lease is over; 0 if none was granted.
        ticket: u64,
    },
    /// Work through one page of a keyspace's blobs that are not sealed under the DEK of `generation`.
    Reseal {
        /// Named in the answer.
        question: QuestionId,
        /// Which keyspace.
        keyspace: u32,
        /// The newest generation.
        generation: u32,
        /// What to do with them.
        work: ResealWork,
        /// Where the page begins; empty for the first.
        cursor: Vec<u8>,
    },
    /// How far a keyspace is unlocked.
    Progress {
        /// Named in the answer.
        question: QuestionId,
        /// Which keyspace.
        keyspace: u32,
    },
    /// Which of the shard's keys are hot.
    Hot {
        /// Named in the answer.
        question: QuestionId,
        /// Of which keyspace.
        keyspace: u32,
        /// In which order.
        by: HotBy,
        /// Keys wanted, at most.
        keys_max: usize,
    },
    /// The answer to a [`ToControl::Request`].
    Answer {
        /// The shard's name for the request.
        token: u64,
        /// How it ended.
        status: Status,
        /// The payload, which may be secret, or an explanation.
        payload: Zeroizing<Vec<u8>>,
    },
}

/// What travels between shards. It has no `Debug`, since it can hold a secret.
pub enum ToPeer {
    /// A request for its owner.
    Forward {
        /// The sender's name for it.
        token: u64,
        /// Who asks.
        who: Principal,
        /// After this the answer is of no use; the clock is the same on all cores.
        deadline: Option<Instant>,
        /// The owner takes what takes something away first.
        lane: Lane,
        /// The whole request frame.
        frame: Vec<u8>,
    },
    /// The answer.
    Reply {
        /// The asker's name for the request.
        token: u64,
        /// The end of the key that was used: the answer does not leave the node at that time or later.
        good_until: Instant,
        /// The whole response frame.
        frame: Vec<u8>,
    },
}

impl ToPeer {
    /// Returns whether it is a request that takes something away.
    pub fn is_emergency(&self) -> bool {
        matches!(
            self,
            ToPeer::Forward {
                lane: Lane::Emergency,
                ..
            }
        )
    }
}
