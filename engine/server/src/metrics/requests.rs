//! Requests answered, by operation and outcome.

use keyway_protocol::{Opcode, ResponseHead, Status};
use serde_json::{Value, json};

use super::declare::{Additive, Emit, Reading, Sample};

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

impl Additive for RequestCounts {
    fn add(&mut self, other: &Self) {
        for (operation, outcome, count) in other.iter() {
            Self::add(self, operation, outcome, count);
        }
    }
}

impl Reading for RequestCounts {
    const LABELS: &'static [&'static str] = &["operation", "outcome"];

    fn export(&self, emit: &mut Emit<'_>) {
        for (operation, outcome, count) in self.iter() {
            let labels = [operation.name(), outcome.name()];
            emit(&labels, Sample::Number(count as f64));
        }
    }

    fn document(&self) -> Value {
        let rows = self.iter().map(|(operation, outcome, count)| {
            json!({ "operation": operation.name(), "outcome": outcome.name(), "count": count })
        });
        rows.collect()
    }
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

    #[test]
    fn opcodes_are_counted_under_their_own_names_or_with_those_like_them() {
        for opcode in Opcode::ALL {
            let name = CountedOperation::of(*opcode).name();
            assert!(
                [opcode.name(), "key_admin", "other"].contains(&name),
                "{opcode}: {name}"
            );
        }
        assert_eq!(CountedOperation::of(Opcode::KeyList).name(), "key_admin");
        assert_eq!(CountedOperation::of(Opcode::Lock).name(), "other");
    }
}
