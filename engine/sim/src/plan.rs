//! The plan of a seed: the shape of a node, and a list of events.
//!
//! Everything planned is in the list, with its parameters; what depends on the node's own behaviour (how long a load
//! takes, what fails) is drawn where it happens, from a stream of its own. So any part of the list can be left out
//! without changing the rest, which is how a failing history is shrunk.

mod draw;

pub(crate) use draw::plan;

use crate::history::{Planned, Steps};
use keyway_core::{Limits, OnSoftExpiry, Settings};
use std::fmt;

/// From this seed, writes request their DEK through the core. Earlier seeds keep their histories without it.
pub(crate) const WRITES_WAIT_FROM_SEED: u64 = 200_000;

/// A node, and its events.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shape: Shape,
    pub(crate) steps: Vec<Planned<Step>>,
    /// Plants a source of nondeterminism, to test the detection.
    pub(crate) is_nondeterministic: bool,
}

impl Plan {
    /// Returns `true` if passing a key on takes time, loads queue before they begin, and a tick fires few timers. In
    /// every second history: the others are from before this existed.
    pub(crate) fn takes_time(&self) -> bool {
        self.seed % 2 == 1
    }

    /// Returns `true` if writes request their DEK through the core, and wait for it.
    pub(crate) fn writes_wait(&self) -> bool {
        self.seed >= WRITES_WAIT_FROM_SEED
    }

    /// Returns the most timers of waiters and flights that a tick fires.
    pub(crate) fn timers_per_tick(&self) -> usize {
        match self.seed % 8 {
            1 => 1,
            3 => 2,
            5 => 5,
            _ => self.shape.limits.timers_per_tick_max,
        }
    }
}

impl Steps for Plan {
    type Step = Step;

    fn steps(&mut self) -> &mut Vec<Planned<Step>> {
        &mut self.steps
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) shards: u16,
    pub(crate) keyspaces: u8,
    pub(crate) keys: u8,
    /// Number of keys that are in the store initially.
    pub(crate) stored: u8,
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    pub(crate) tick_us: u64,
    /// Most requests in flight between two shards.
    pub(crate) mesh_max: usize,
    /// Most requests in flight on one connection.
    pub(crate) connection_max: usize,
}

/// A key, by its numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name {
    pub(crate) keyspace: u8,
    pub(crate) key: u8,
}

// Short, for readable histories.
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {}/{}", self.keyspace, self.key)
    }
}

/// The client and its connection.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) connection: u8,
    /// The shard that the connection is on.
    pub(crate) via: u16,
    /// Whether the policy allows it.
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

/// The behaviour of the KMS.
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
    /// The answer is lost.
    Loses,
    /// The answer arrives twice.
    Repeats,
}

/// How the store answers loads: one in this many loads; 0 for none.
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
    /// Withdraws one of the requests in flight.
    Leave {
        which: u8,
    },
    Disconnect {
        connection: u8,
    },
    /// Makes the stored blob unopenable.
    Corrupt {
        name: Name,
    },
    /// Removes the stored blob.
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
    /// Sends an unsolicited event of the KMS.
    KmsSays {
        keyspace: u8,
        shard: u16,
        mood: Mood,
    },
    /// Makes the KMS's answers older: they count as sent this much earlier.
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
    /// Seals new blobs under a new generation of the DEK.
    RotateDek {
        keyspace: u8,
    },
    /// Advances the clock while nothing runs.
    Suspend {
        us: u64,
    },
    /// Suspends a shard's thread.
    Stall {
        shard: u16,
        us: u64,
    },
    /// Ends the process, and starts it again.
    Crash,
}

/// Returns the settings of a node without faults, after a history.
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
