//! What a seed stands for: the shape of a node, and a list of things that happen to it.
//!
//! All that is planned is in the list, with its parameters; what depends on the node's own doings
//! (how long a load takes, what fails) is drawn where it happens, from a stream of its own. So any
//! part of the list can be left out, and the rest stays what it was: that is how a failing history
//! is shrunk.

mod draw;

pub(crate) use draw::plan;

use keyway_core::{Limits, OnSoftExpiry, Settings};
use std::fmt;

/// From this seed on writes ask for their DEK through the core. The seeds before keep the histories that they had
/// without.
pub(crate) const WRITES_WAIT_FROM_SEED: u64 = 200_000;

/// A node, and what happens to it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) steps: Vec<Planned>,
    /// Plants a source of nondeterminism, to test those who look for one.
    pub(crate) is_nondeterministic: bool,
}

impl Plan {
    /// Whether handing out a key takes time, loads queue before they begin, and a tick fires few timers. In every second
    /// history: the others are those of before there was such a thing.
    pub(crate) fn takes_time(&self) -> bool {
        self.seed % 2 == 1
    }

    /// Whether writes ask for their DEK through the core, and wait for it.
    pub(crate) fn writes_wait(&self) -> bool {
        self.seed >= WRITES_WAIT_FROM_SEED
    }

    /// Timers of waiters and flights that a tick fires, at most.
    pub(crate) fn timers_per_tick(&self) -> usize {
        match self.seed % 8 {
            1 => 1,
            3 => 2,
            5 => 5,
            _ => self.shape.limits.timers_per_tick_max,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Planned {
    /// Its place in the whole list: what it draws depends on it.
    pub(crate) number: u64,
    /// µs after the step before.
    pub(crate) after_us: u64,
    pub(crate) step: Step,
}

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) shards: u16,
    pub(crate) keyspaces: u8,
    pub(crate) keys: u8,
    /// Of the keys, those that are in the store from the start.
    pub(crate) stored: u8,
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    pub(crate) tick_us: u64,
    /// Requests under way between two shards, at most.
    pub(crate) mesh_max: usize,
    /// Requests under way on one connection, at most.
    pub(crate) connection_max: usize,
}

/// A key, by its numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) keyspace: u8,
    pub(crate) key: u8,
}

// Short, for histories that a person reads.
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}/{}", self.keyspace, self.key)
    }
}

/// Who asks, and where.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) connection: u8,
    /// The shard that the connection is on.
    pub(crate) via: u16,
    /// Whether the policy lets it.
    pub(crate) allowed: bool,
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = if self.allowed { "" } else { " (not allowed)" };
        write!(
            f,
            "connection {} on shard {}{may}",
            self.connection, self.via
        )
    }
}

/// What the KMS does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Good,
    Denies,
    Disabled,
    Locked,
    Unavailable,
    Fails,
    /// The answer is a grant, with a DEK that opens nothing.
    WrongKey,
    /// The answer never comes.
    Loses,
    /// The answer comes twice.
    Repeats,
}

/// How the store answers loads. One in so many loads; 0: none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StoreMood {
    pub(crate) fails_one_in: u64,
    pub(crate) panics_one_in: u64,
    pub(crate) loses_dek_one_in: u64,
    pub(crate) stale_one_in: u64,
    pub(crate) slow_one_in: u64,
    pub(crate) repeats_one_in: u64,
    pub(crate) load_us: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Request {
        by: Caller,
        name: Name,
        deadline_us: Option<u64>,
        slow: bool,
        count: u8,
    },
    Force {
        by: Caller,
        name: Name,
        deadline_us: Option<u64>,
    },
    Put {
        by: Caller,
        name: Name,
        not_after_us: Option<u64>,
    },
    Revoke {
        by: Caller,
        name: Name,
    },
    /// One of the requests under way is taken back.
    Leave {
        which: u8,
    },
    Disconnect {
        connection: u8,
    },
    /// The stored blob no longer opens.
    Corrupt {
        name: Name,
    },
    /// The stored blob is gone.
    Lose {
        name: Name,
    },
    Lock {
        keyspace: u8,
    },
    Unlock {
        keyspace: u8,
    },
    Kms {
        mood: Mood,
        takes_us: u64,
    },
    /// The KMS says something without having been asked.
    KmsSays {
        keyspace: u8,
        shard: u16,
        mood: Mood,
    },
    /// The KMS's answers so far are worth less than a lease: they come as if sent so long ago.
    KmsLate {
        us: u64,
    },
    Store {
        mood: StoreMood,
    },
    Settings {
        keyspace: u8,
        settings: Settings,
    },
    Hot {
        name: Name,
    },
    /// New blobs are sealed under a new generation of the DEK.
    RotateDek {
        keyspace: u8,
    },
    /// The clock jumps, and nothing ran meanwhile.
    Suspend {
        us: u64,
    },
    /// A shard's thread does not run.
    Stall {
        shard: u16,
        us: u64,
    },
    /// The process dies, and starts again.
    Crash,
}

/// The settings of a node on which everything goes well, after a history.
pub(crate) fn calm_settings() -> Settings {
    Settings {
        soft_ttl_ms: 400,
        hard_ttl_ms: 20_000,
        dek_lease_ms: 30_000,
        refresh_window_ms: Some(160),
        low_water_pct: 5,
        max_in_flight: 64,
        sign_wait_budget_us: 3_000,
        on_soft_expiry: OnSoftExpiry::Wait,
        jitter_pct: 10,
        delete_wait_ms: 0,
    }
}
