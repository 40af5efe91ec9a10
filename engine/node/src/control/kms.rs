//! What control knows of KMSes: their names and states, what a failure means, and DEKs that came from them.

use std::collections::{BTreeMap, BTreeSet};

use keyway_core::{Instant, LeaseEvent};
use keyway_protocol::Status;

use crate::messages::{DekBytes, DekCopies};

/// What a failure means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The KMS, or the secret that guards it, refuses.
    Denied,
    /// The key is switched off at the KMS.
    Disabled,
    /// The KMS does not take what the server logs in with.
    Credential,
    /// The KMS has no access to its key before an unlock.
    Locked,
    /// The KMS, or the server's own budget, asks to slow down.
    Throttled {
        /// The wait that was asked for, µs, if one was named.
        retry_after_us: Option<u64>,
    },
    /// No answer, or one that blames the KMS itself.
    Unavailable {
        /// The wait that was asked for, µs, if one was named.
        retry_after_us: Option<u64>,
    },
    /// A record is damaged, or belongs elsewhere.
    Corrupt,
    /// The configuration is wrong.
    Misconfigured,
}

impl FailureClass {
    /// The class in one lower-case word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Disabled => "disabled",
            Self::Credential => "credential",
            Self::Locked => "locked",
            Self::Throttled { .. } => "throttled",
            Self::Unavailable { .. } => "unavailable",
            Self::Corrupt => "corrupt",
            Self::Misconfigured => "misconfigured",
        }
    }

    /// The wait that was asked for before the next try, µs.
    pub const fn retry_after_us(self) -> Option<u64> {
        match self {
            Self::Throttled { retry_after_us } | Self::Unavailable { retry_after_us } => {
                retry_after_us
            }
            _ => None,
        }
    }

    /// Whether a watching unlock goes on after this: somebody may be putting it right.
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Throttled { .. }
            | Self::Unavailable { .. }
            | Self::Credential
            | Self::Denied
            | Self::Disabled => true,
            Self::Locked | Self::Corrupt | Self::Misconfigured => false,
        }
    }
}

/// A call to a KMS that failed. It never carries secret bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsFailure {
    /// What it means.
    pub class: FailureClass,
    /// What it comes from, in a word.
    pub cause: &'static str,
    /// What happened, with the value.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl std::fmt::Display for KmsFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.class.name(), self.what, self.remedy)
    }
}

impl KmsFailure {
    /// A failure that control finds by itself.
    pub(super) fn own(class: FailureClass, what: impl Into<String>, remedy: &str) -> KmsFailure {
        let cause = match class {
            FailureClass::Locked => "locked",
            _ => "settings",
        };
        KmsFailure {
            class,
            cause,
            what: what.into(),
            remedy: remedy.to_owned(),
        }
    }

    /// The catalogue does not say what it should.
    pub(super) fn of_catalogue(why: &dyn std::fmt::Display) -> KmsFailure {
        Self::own(
            FailureClass::Misconfigured,
            why.to_string(),
            "check keyspaces.json",
        )
    }

    /// An operator has locked the keyspace.
    pub(super) fn keyspace_locked() -> KmsFailure {
        Self::own(
            FailureClass::Locked,
            "the keyspace is locked",
            "unlock it: keyway unlock KEYSPACE",
        )
    }

    /// What a shard is to be told of it.
    pub(super) fn lease_event(&self) -> LeaseEvent {
        match self.class {
            FailureClass::Denied => LeaseEvent::Denied,
            FailureClass::Disabled => LeaseEvent::Disabled,
            FailureClass::Locked => LeaseEvent::Locked,
            FailureClass::Throttled { retry_after_us }
            | FailureClass::Unavailable { retry_after_us } => LeaseEvent::Unavailable {
                retry_after_us: retry_after_us.unwrap_or(0),
            },
            FailureClass::Credential | FailureClass::Corrupt | FailureClass::Misconfigured => {
                LeaseEvent::Failed
            }
        }
    }

    /// How an administrator's command ends that the KMS refused.
    pub(super) fn refusal(&self) -> (Status, String) {
        let status = match self.class {
            FailureClass::Denied | FailureClass::Disabled => Status::Forbidden,
            // Nothing changes until somebody unlocks it: who asks again meanwhile only waits for the same words.
            FailureClass::Locked => Status::Conflict,
            FailureClass::Throttled { .. }
            | FailureClass::Unavailable { .. }
            | FailureClass::Credential => Status::Unavailable,
            FailureClass::Corrupt => Status::Internal,
            FailureClass::Misconfigured => Status::BadRequest,
        };
        (status, self.to_string())
    }
}

/// What an unlock of a KMS wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Need {
    /// No secret.
    #[default]
    Nothing,
    /// A passphrase.
    Passphrase,
    /// A PIN.
    Pin,
    /// Shares.
    Shares {
        /// Shares that were given and are waiting for others.
        given: u8,
    },
    /// A key of its own.
    Initialise,
}

impl Need {
    /// In words.
    pub const fn word(self) -> &'static str {
        match self {
            Need::Nothing => "nothing",
            Need::Passphrase => "a passphrase",
            Need::Pin => "a PIN",
            Need::Shares { .. } => "shares",
            Need::Initialise => "a key of its own: `keyway kms init`",
        }
    }

    /// How to give it.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Need::Nothing => "run `keyway unlock`",
            Need::Passphrase => "run `keyway unlock` with --passphrase",
            Need::Pin => "run `keyway unlock` with --pin",
            Need::Shares { .. } => "each holder of a share runs `keyway unlock` with --share",
            Need::Initialise => "run `keyway kms init`",
        }
    }
}

/// How a KMS stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KmsStatus {
    /// It can reach its key now.
    pub is_open: bool,
    /// What an unlock wants.
    pub need: Need,
    /// Its section of the catalogue was checked, or there is nothing to check it against.
    pub is_checked: bool,
}

/// The KMSes by name.
pub struct KmsSet {
    /// How each stands.
    pub status: BTreeMap<String, KmsStatus>,
    /// The KMS of new keyspaces that name none; one of them.
    pub default: String,
    /// Those of which a keyspace that an operator has locked can be unlocked without their secret while they are open.
    pub without_secret: BTreeSet<String>,
}

impl KmsSet {
    /// How the KMS of that name stands.
    ///
    /// Errors: there is none.
    pub(super) fn get(&self, name: &str) -> Result<KmsStatus, KmsFailure> {
        self.status.get(name).copied().ok_or_else(|| {
            let names: Vec<&str> = self.status.keys().map(String::as_str).collect();
            let remedy = format!(
                "use one of {}, or add [kms.{name}] to the configuration and restart",
                names.join(", ")
            );
            KmsFailure::own(
                FailureClass::Misconfigured,
                format!("there is no KMS `{name}`"),
                &remedy,
            )
        })
    }
}

/// A keyspace's DEKs, unwrapped.
pub struct Deks {
    /// When the oldest of the calls was sent. The lease counts from here.
    pub sent_at: Instant,
    /// By rising generation.
    pub deks: DekCopies,
}

impl Deks {
    pub(super) fn generation(&self) -> u32 {
        self.deks.last().map_or(0, |dek| dek.generation)
    }
}

/// A DEK that a KMS has just wrapped, and proven by an unwrap: nobody need ask it for another.
pub struct NewDek {
    /// When the call was sent.
    pub sent_at: Instant,
    /// Its record.
    pub record: Vec<u8>,
    /// The DEK.
    pub dek: Box<DekBytes>,
}

impl From<NewDek> for Deks {
    fn from(new: NewDek) -> Deks {
        Deks {
            sent_at: new.sent_at,
            deks: vec![new.dek],
        }
    }
}
