//! What a seed stands for: shards, keyspaces, clients, and a list of things that they do and that happen to them.

mod draw;
mod extra;
mod newest;
mod others;

pub(super) use draw::plan;

use super::log::LogMood;
use crate::control::plan::{DiskMood, KmsMood};
use crate::history::{Planned, Steps};
use keyway_protocol::Opcode;

/// Principals beside the operator, who are granted rights and lose them.
pub(super) const USERS: u32 = 2;
/// Keys of a keyspace.
pub(super) const KEYS: u8 = 4;

/// Histories from this seed on include everything.
pub const NEWEST_FROM: u64 = 1_000_000;

/// One history.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) shards: u16,
    pub(super) keyspaces: u32,
    /// Keyspaces after those that are not used.
    pub(super) unused: u32,
    pub(super) clients: Vec<Client>,
    /// Settings of the keyspaces at the start.
    pub(super) settings: Vec<(&'static str, u64)>,
    /// One in this number of operations loses the processor; 0: none.
    pub(super) lost_one_in: u64,
    pub(super) steps: Vec<Planned<Step>>,
}

impl Steps for Plan {
    type Step = Step;

    fn steps(&mut self) -> &mut Vec<Planned<Step>> {
        &mut self.steps
    }
}

impl Plan {
    /// Whether it is one of those that are not used.
    pub(super) fn is_unused(&self, keyspace: u32) -> bool {
        (self.keyspaces + 1..=self.keyspaces + self.unused).contains(&keyspace)
    }
}

/// Who is at the other end of a connection, and at which shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// `None`: the operator.
    pub(super) user: Option<u32>,
    pub(super) shard: u16,
}

/// A key: its keyspace, and its number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) keyspace: u32,
    pub(super) number: u8,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    Sign(Key),
    Mac(Key),
    Encrypt(Key),
    Get(Key),
    Derive(Key),
    PublicKey(Key),
    /// A version, 0 for any. What is not `good` was not made with the key.
    Verify {
        key: Key,
        version: u32,
        good: bool,
    },
    Decrypt {
        key: Key,
        version: u32,
        good: bool,
    },
    Generate(Key),
    Import(Key),
    Rotate(Key),
    Revoke(Key),
    RevokeVersion {
        key: Key,
        version: u32,
    },
    Trim {
        key: Key,
        below: u32,
    },
    Delete(Key),
    Refresh(Key),
    /// A page of a shard's keys.
    List {
        keyspace: u32,
        shard: u16,
        listing: u64,
    },
    Lock(u32),
    LockAll,
    LockKms(usize),
    Unlock {
        keyspace: u32,
        watch: bool,
        secret: bool,
    },
    UnlockKms(usize),
    Set {
        keyspace: u32,
        name: &'static str,
        value: u64,
    },
    Grant {
        keyspace: u32,
        who: u32,
    },
    Withdraw {
        keyspace: u32,
        who: u32,
    },
    RotateDek(u32),
    DestroyDeks(u32),
    /// To a KMS.
    Rewrap {
        keyspace: u32,
        kms: usize,
    },
    History(u32),
    Hot(u32),
    Create(usize),
    InitKms(usize),
    Status,
    UnlockStatus {
        keyspace: u32,
        ticket: u64,
    },
    Keyspaces,
    /// As many bytes, to be sent back.
    Ping(usize),
    /// A page of all keyspaces that there were at the start.
    Page {
        walk: u64,
        after: u32,
    },
    /// A request of the first keyspace that names a key if it must not, and none if it must.
    Malformed(Opcode),
    /// A request of the first keyspace whose payload begins with an id that does not exist.
    Unknown(Opcode),
}

/// Where an operation panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanicsIn {
    /// Before anything was done.
    Choice,
    /// Half of a result is written.
    Result,
    /// While the key is sealed.
    Sealing,
}

/// Between shards and control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    ToControl,
    ToShards,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Ask {
        client: usize,
        asks: Asks,
        deadline_us: u32,
        count: u64,
    },
    /// Asks after one of the tickets that were given, the newest ones first.
    AskTicket {
        client: usize,
        keyspace: u32,
        which: usize,
    },
    /// An operation panics.
    Panic {
        client: usize,
        asks: Asks,
        place: PanicsIn,
    },
    /// Many connect to a shard and say nothing; the process has few descriptors.
    Strangers {
        shard: u16,
        count: u32,
        descriptors: u64,
    },
    /// Messages wait in an ordinary lane, and control's takes no more than so many.
    Crowd {
        way: Way,
        us: u64,
        places: usize,
    },
    /// A client's connection is gone.
    Reset {
        client: usize,
    },
    /// A client does not read.
    Unread {
        client: usize,
        us: u64,
    },
    Kms {
        kms: usize,
        mood: KmsMood,
        takes_us: u64,
    },
    Disk {
        mood: DiskMood,
        takes_us: u64,
    },
    Log {
        mood: LogMood,
        takes_us: u64,
    },
    /// A shard's thread does not run.
    Busy {
        shard: u16,
        us: u64,
    },
    /// The machine sleeps, and its clock goes on.
    Sleep {
        us: u64,
    },
    Crash {
        shards: u16,
    },
}
