//! What shards ask of the control thread, and what it tells them.

use keyway_core::{Instant, LeaseEvent, Settings};
use keyway_protocol::{HotBy, Opcode, Status, UnlockKind};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use super::lanes::Lane;
use crate::authorise::{Policy, Principal};
use crate::rehydrator::{ResealPage, ResealWork, WriteError};
use crate::shard::hot::HotShare;

/// Messages that wait for the control thread before more are refused.
pub const REQUESTS_MAX: usize = 4_096;

/// Messages that wait for a shard. Shards look every millisecond, and the control thread has at
/// most a few to say for each keyspace.
pub const EVENTS_MAX: usize = 16_384;

/// The same for the emergency lanes of both. A keyspace has a few messages on its way there, at most.
pub const EMERGENCIES_MAX: usize = 16_384;

/// Whom to answer: a request that waits at a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The shard.
    pub shard: u16,
    /// Its name for the request.
    pub token: u64,
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
pub enum ControlRequest {
    /// The DEKs of a keyspace; answered by [`ControlEvent::Lease`] to every shard.
    Unwrap {
        /// Which keyspace.
        keyspace: u32,
    },
    /// A blob is sealed under a DEK that is not in use any more: it may be among the retired ones. Not answered; if it
    /// is, it comes with the next [`ControlEvent::Lease`].
    Revive {
        /// Which keyspace.
        keyspace: u32,
        /// The DEK's generation.
        generation: u32,
    },
    /// A shard's hottest keys, hottest first, for the next start; not answered.
    Hottest {
        /// Which shard.
        shard: u16,
        /// Its keys.
        keys: Vec<HotKey>,
    },
    /// An administrator's request; answered by [`ControlEvent::Answer`].
    Admin {
        /// Whom to answer.
        reply_to: ReplyTo,
        /// Who asks.
        who: Principal,
        /// At this time or later it does not begin; the clock is the same on all cores.
        deadline: Option<Instant>,
        /// What.
        command: Command,
    },
}

/// An administrator's request. It has no `Debug`, since it can hold a secret.
pub enum Command {
    /// Make a keyspace.
    Create {
        /// Its name.
        name: String,
        /// Settings lines.
        lines: String,
    },
    /// Change settings.
    Set {
        /// Which keyspace.
        keyspace: u32,
        /// Settings lines; `for_ms=N` among them makes all of them last so long.
        lines: String,
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
        /// Ids that the principal may see.
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
        /// What `secret` is.
        kind: UnlockKind,
        /// What the provider needs; may be empty.
        secret: Zeroizing<Vec<u8>>,
        /// Keep trying until the KMS answers.
        watch: bool,
        /// Send a PIN even as the last attempt that the token allows.
        force: bool,
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
        /// What `secret` is.
        kind: UnlockKind,
        /// What the provider needs; may be empty.
        secret: Zeroizing<Vec<u8>>,
        /// As in [`Command::Unlock`].
        force: bool,
    },
    /// Wipe what a KMS holds in memory, and lock the keyspaces that it wraps.
    LockKms {
        /// The KMS's name.
        kms: String,
    },
    /// Lock every keyspace and every KMS.
    LockAll,
    /// How an unlock goes.
    UnlockStatus {
        /// Which keyspace.
        keyspace: u32,
        /// Its ticket.
        ticket: u64,
    },
    /// A page of everything, as JSON.
    Status {
        /// The row behind which it begins, 0 for the first page.
        after: u64,
    },
}

impl Command {
    /// The lane on which the command goes to the control thread, and its answer back. What may take something away
    /// overtakes everything else.
    pub fn lane(&self) -> Lane {
        match self {
            Command::Lock { .. } | Command::LockKms { .. } | Command::LockAll => Lane::Emergency,
            Command::Set { lines, .. } if lines.lines().any(|line| line.starts_with("allow:")) => {
                Lane::Emergency
            }
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

    /// The keyspace whose policy grants the right to it. Without one only those who may do everything have it; a list
    /// shows anybody what he may see.
    pub fn keyspace(&self) -> Option<u32> {
        match self {
            Command::Set { keyspace, .. }
            | Command::History { keyspace }
            | Command::Lock { keyspace }
            | Command::Unlock { keyspace, .. }
            | Command::Rotate { keyspace }
            | Command::DestroyDeks { keyspace }
            | Command::Rewrap { keyspace, .. }
            | Command::Hot { keyspace, .. }
            | Command::UnlockStatus { keyspace, .. } => Some(*keyspace),
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

/// A keyspace as a shard needs it.
#[derive(Clone, Debug)]
pub struct KeyspaceConfig {
    /// Its id.
    pub id: u32,
    /// Which of two configurations is newer; 0 at the start.
    pub revision: u64,
    /// What NEEDS_UNLOCK carries, in a keyspace that the shard has not known before.
    pub ticket: u64,
    /// Its name.
    pub name: String,
    /// Settings in force.
    pub settings: Settings,
    /// Who may do what.
    pub policy: Policy,
    /// Locked by an operator.
    pub locked: bool,
    /// The newest DEK that is written down: no blob is sealed under an older one.
    pub seal_floor: u32,
}

/// A DEK on its way to a shard.
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

/// To a shard. It has no `Debug`, since it can hold a secret.
pub enum ControlEvent {
    /// A keyspace is new or has changed.
    Keyspace {
        /// As it is now.
        config: Box<KeyspaceConfig>,
        /// Told when the shard acts by it.
        done: oneshot::Sender<()>,
    },
    /// The KMS has answered.
    Lease {
        /// Which keyspace.
        keyspace: u32,
        /// What it said.
        event: LeaseEvent,
        /// The DEKs of all generations, if they were granted.
        deks: DekCopies,
        /// What NEEDS_UNLOCK carries once this lease is over; 0 if none was granted.
        ticket: u64,
    },
    /// There is a newer DEK: nothing is to be sealed under an older one any more.
    SealFloor {
        /// Which keyspace.
        keyspace: u32,
        /// The newest generation that is written down.
        generation: u32,
        /// Told when nothing that was sealed under an older one is on its way into the shard's log.
        done: oneshot::Sender<()>,
    },
    /// Older DEKs are not needed any more.
    Retire {
        /// Which keyspace.
        keyspace: u32,
        /// The oldest generation that is.
        generation: u32,
    },
    /// Work through one page of a keyspace's blobs that are not sealed under the DEK of `generation`.
    Reseal {
        /// Which keyspace.
        keyspace: u32,
        /// The newest generation.
        generation: u32,
        /// What to do with them.
        work: ResealWork,
        /// Where the page begins; empty for the first.
        cursor: Vec<u8>,
        /// Told how it went.
        answer: oneshot::Sender<Result<ResealPage, WriteError>>,
    },
    /// Purge a keyspace.
    Lock {
        /// Which keyspace.
        keyspace: u32,
        /// Void if the shard has carried out a newer lock or unlock.
        revision: u64,
        /// Told when nothing of it is left.
        done: oneshot::Sender<()>,
    },
    /// A keyspace may be used again.
    Unlock {
        /// Which keyspace.
        keyspace: u32,
        /// Void if the shard has carried out a newer lock or unlock.
        revision: u64,
        /// Told when the shard has opened it, or knows better.
        done: oneshot::Sender<()>,
    },
    /// How far a keyspace is unlocked.
    UnlockProgress {
        /// Which keyspace.
        keyspace: u32,
        /// Told how far.
        answer: oneshot::Sender<UnlockProgress>,
    },
    /// Which of the shard's keys are hot.
    Hot {
        /// Of which keyspace.
        keyspace: u32,
        /// In which order.
        by: HotBy,
        /// Keys wanted, at most.
        keys_max: usize,
        /// Told which. Dropped if the shard does not know the keyspace.
        answer: oneshot::Sender<HotShare>,
    },
    /// The answer to a [`ControlRequest::Admin`].
    Answer {
        /// The shard's name for the request.
        token: u64,
        /// How it ended.
        status: Status,
        /// The payload, which may be secret, or an explanation.
        payload: Zeroizing<Vec<u8>>,
    },
}
