//! Measurements of a shard: plain data. The driver adds its own, and the exporter publishes them.

use keyway_core::{Counters, Gauges};
use keyway_protocol::{Opcode, ResponseHead, Status};

/// Operations that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedOperation {
    /// SIGN.
    Sign,
    /// VERIFY.
    Verify,
    /// MAC.
    Mac,
    /// ENCRYPT.
    Encrypt,
    /// DECRYPT.
    Decrypt,
    /// DERIVE.
    Derive,
    /// PUBLIC_KEY.
    PublicKey,
    /// GET.
    Get,
    /// FORCE_REFRESH.
    ForceRefresh,
    /// Those that change or list keys.
    KeyAdmin,
    /// All others, and bytes that name no operation.
    Other,
}

impl CountedOperation {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Sign,
        Self::Verify,
        Self::Mac,
        Self::Encrypt,
        Self::Decrypt,
        Self::Derive,
        Self::PublicKey,
        Self::Get,
        Self::ForceRefresh,
        Self::KeyAdmin,
        Self::Other,
    ];

    /// Returns what an opcode is counted as.
    pub const fn of(opcode: Opcode) -> Self {
        match opcode {
            Opcode::Sign => Self::Sign,
            Opcode::Verify => Self::Verify,
            Opcode::Mac => Self::Mac,
            Opcode::Encrypt => Self::Encrypt,
            Opcode::Decrypt => Self::Decrypt,
            Opcode::Derive => Self::Derive,
            Opcode::PublicKey => Self::PublicKey,
            Opcode::Get => Self::Get,
            Opcode::ForceRefresh => Self::ForceRefresh,
            Opcode::KeyGenerate
            | Opcode::KeyImport
            | Opcode::KeyRotate
            | Opcode::KeyRevoke
            | Opcode::KeyTrim
            | Opcode::KeyDelete
            | Opcode::KeyList => Self::KeyAdmin,
            _ => Self::Other,
        }
    }

    /// Returns the value of the label `operation`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sign => Opcode::Sign.name(),
            Self::Verify => Opcode::Verify.name(),
            Self::Mac => Opcode::Mac.name(),
            Self::Encrypt => Opcode::Encrypt.name(),
            Self::Decrypt => Opcode::Decrypt.name(),
            Self::Derive => Opcode::Derive.name(),
            Self::PublicKey => Opcode::PublicKey.name(),
            Self::Get => Opcode::Get.name(),
            Self::ForceRefresh => Opcode::ForceRefresh.name(),
            Self::KeyAdmin => "key_admin",
            Self::Other => "other",
        }
    }
}

/// How a request ended: the status of its answer. An OK with a stale key is counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedOutcome {
    /// The status of the answer.
    Status(Status),
    /// OK, with a key past its soft TTL.
    OkStale,
}

impl CountedOutcome {
    /// How many there are.
    pub const COUNT: usize = Status::ALL.len() + 1;

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let statuses = Status::ALL.iter().copied().map(Self::Status);
        statuses.chain([Self::OkStale])
    }

    /// Returns the outcome that an answer with this head is counted as.
    pub fn of(head: &ResponseHead) -> Self {
        if head.flags.is_empty() {
            Self::Status(head.status)
        } else {
            Self::OkStale
        }
    }

    /// Returns the value of the label `outcome`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status(status) => status.name(),
            Self::OkStale => "ok_stale",
        }
    }

    fn place(self) -> usize {
        match self {
            Self::Status(status) => usize::from(status.code()),
            Self::OkStale => Self::COUNT - 1,
        }
    }
}

/// Requests answered, by operation and outcome. `None` without any: there may be thousands of keyspaces that no client
/// uses, and each is copied once a second.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts(Option<Box<Table>>);

type Table = [[u64; CountedOutcome::COUNT]; CountedOperation::ALL.len()];

impl RequestCounts {
    /// Counts an answer.
    pub fn count(&mut self, operation: CountedOperation, outcome: CountedOutcome) {
        self.add(operation, outcome, 1);
    }

    /// Counts that many answers.
    pub fn add(&mut self, operation: CountedOperation, outcome: CountedOutcome, count: u64) {
        let table = self.0.get_or_insert_default();
        let cell = &mut table[operation as usize][outcome.place()];
        *cell = cell.saturating_add(count);
    }

    /// Returns the counts that are not 0.
    pub fn iter(&self) -> impl Iterator<Item = (CountedOperation, CountedOutcome, u64)> {
        self.0.iter().flat_map(|table| {
            CountedOperation::ALL
                .into_iter()
                .flat_map(move |operation| {
                    CountedOutcome::all().filter_map(move |outcome| {
                        let count = table[operation as usize][outcome.place()];
                        (count > 0).then_some((operation, outcome, count))
                    })
                })
        })
    }
}

/// Measurements of one shard.
#[derive(Clone, Debug, Default)]
pub struct ShardFigures {
    /// Keyspaces by rising id.
    pub keyspaces: Vec<KeyspaceFigures>,
    /// Open connections.
    pub connections: u64,
    /// Bytes of answers that clients have not taken.
    pub unsent_answer_bytes: u64,
    /// What waits.
    pub waiting: WaitingFigures,
    /// What was counted since the start.
    pub totals: ShardTotals,
    /// How far the warm start is.
    pub warm_start: WarmStartFigures,
}

/// What waits at a shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitingFigures {
    /// Requests that wait for anything.
    pub jobs: u64,
    /// Loads that wait for a read slot.
    pub loads: u64,
    /// Operations in the slow lane.
    pub slow: u64,
}

/// What a shard has counted since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardTotals {
    /// Connections refused at a limit.
    pub connections_refused_total: u64,
    /// Requests handed to control.
    pub control_requests_total: u64,
    /// Connections closed for malformed bytes.
    pub protocol_errors_total: u64,
    /// Requests handed to other shards.
    pub forwards_out_total: u64,
    /// Requests taken from other shards.
    pub forwards_in_total: u64,
    /// Forwards refused because there was no room on the way.
    pub forwards_refused_total: u64,
    /// Panics caught in a handler.
    pub panics_total: u64,
}

/// How far a shard is with loading the keys that were hot in the last run.
#[derive(Clone, Copy, Debug, Default)]
pub struct WarmStartFigures {
    /// Whether all is loaded that can be.
    pub settled: bool,
    /// Keys that were hot.
    pub keys_total: u64,
    /// Of them, keys whose loading has not begun.
    pub keys_left: u64,
}

/// Measurements of a keyspace at one shard.
#[derive(Clone, Debug)]
pub struct KeyspaceFigures {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What the core has counted.
    pub counters: Counters,
    /// The state of its DEK.
    pub gauges: Gauges,
    /// Highest number of waiters since the start.
    pub waiters_max: u64,
    /// Age of the oldest key served since the last snapshot, µs.
    pub oldest_served_age_us: u64,
    /// Requests by operation and outcome.
    pub requests: RequestCounts,
}

/// Something that took so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A load waited for a read slot.
    LoadWait {
        /// How long, µs.
        us: u64,
    },
    /// A load ended, well or not.
    Rehydrated {
        /// Which keyspace.
        keyspace: u32,
        /// How long it took, µs.
        us: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_and_outcome_has_a_place_of_its_own() {
        let mut counts = RequestCounts::default();
        let mut expected = Vec::new();
        for operation in CountedOperation::ALL {
            for outcome in CountedOutcome::all() {
                let count = expected.len() as u64 + 1;
                counts.add(operation, outcome, count);
                expected.push((operation, outcome, count));
            }
        }
        assert_eq!(expected.len(), 11 * (Status::ALL.len() + 1));
        assert_eq!(counts.iter().collect::<Vec<_>>(), expected);
        assert_eq!(CountedOutcome::all().count(), CountedOutcome::COUNT);
    }
}
