//! The KMSes as control sees them: names and states, the meaning of failures, and the DEKs that they returned.

use std::collections::{BTreeMap, BTreeSet};

use keyway_core::{Instant, LeaseEvent};
use keyway_protocol::Status;

use crate::messages::{DekBytes, DekCopies};

/// The meaning of a KMS failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The KMS, or the secret that guards it, refuses.
    Denied,
    /// The key is disabled at the KMS.
    Disabled,
    /// The KMS rejects the server's credential.
    Credential,
    /// The KMS has no access to its key before an unlock.
    Locked,
    /// The KMS, or the server's own budget, limits the rate.
    Throttled {
        /// The requested wait, in µs, if any.
        retry_after_us: Option<u64>,
    },
    /// No answer, or one that blames the KMS itself.
    Unavailable {
        /// The requested wait, in µs, if any.
        retry_after_us: Option<u64>,
    },
    /// A wrapped key is corrupt, or belongs to another keyspace.
    Corrupt,
    /// The configuration is invalid.
    Misconfigured,
}

impl FailureClass {
    /// Returns the class as one lower-case word.
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

    /// Returns the requested wait before the next attempt, in µs.
    pub const fn retry_after_us(self) -> Option<u64> {
        match self {
            Self::Throttled { retry_after_us } | Self::Unavailable { retry_after_us } => {
                retry_after_us
            }
            _ => None,
        }
    }

    /// Returns `true` if an unlock with retries continues after this failure, because an operator may be fixing the
    /// cause.
    pub const fn is_transient(self) -> bool {
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

/// A failed KMS call. It never contains secret bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsFailure {
    /// Its meaning.
    pub class: FailureClass,
    /// Its cause, in one word.
    pub cause: &'static str,
    /// What happened, with the value.
    pub what: String,
    /// The remedy.
    pub remedy: String,
}

impl std::fmt::Display for KmsFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.class.name(), self.what, self.remedy)
    }
}

impl KmsFailure {
    /// Creates a failure that control itself detects.
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

    /// Creates the failure for an invalid catalogue.
    pub(super) fn of_catalogue(why: &dyn std::fmt::Display) -> KmsFailure {
        Self::own(
            FailureClass::Misconfigured,
            why.to_string(),
            "check keyspaces.json",
        )
    }

    /// Creates the failure for a keyspace that an operator has locked.
    pub(super) fn keyspace_locked(remedy: &str) -> KmsFailure {
        Self::own(FailureClass::Locked, "the keyspace is locked", remedy)
    }

    /// Returns the event that shards receive.
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

    /// Returns the status and message of an administrator's command that the KMS refused.
    pub(super) fn refusal(&self) -> (Status, String) {
        let status = match self.class {
            FailureClass::Denied | FailureClass::Disabled => Status::Forbidden,
            // Nothing changes until an operator unlocks it: a retry before that gets the same response.
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

/// What an unlock of a KMS requires.
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
    /// Initialisation: the KMS has no key yet.
    Initialise,
}

impl Need {
    /// Returns the requirement as text.
    pub const fn word(self) -> &'static str {
        match self {
            Need::Nothing => "nothing",
            Need::Passphrase => "a passphrase",
            Need::Pin => "a PIN",
            Need::Shares { .. } => "shares",
            Need::Initialise => "a key of its own",
        }
    }

    /// Returns how to unlock a keyspace whose KMS needs this.
    pub(super) fn remedy_of_keyspace(self, keyspace: &str) -> String {
        match self {
            Need::Nothing => format!("run `keyway unlock {keyspace} --wait`"),
            Need::Passphrase => format!("run `keyway unlock {keyspace} --wait --passphrase`"),
            Need::Pin => format!("run `keyway unlock {keyspace} --wait --pin`"),
            Need::Shares { .. } => {
                format!("each holder of a share runs `keyway unlock {keyspace} --share`")
            }
            Need::Initialise => "create its key: see `keyway kms list`".to_owned(),
        }
    }

    /// Returns how to unlock a KMS that needs this.
    pub fn remedy_of_kms(self, kms: &str) -> String {
        match self {
            Need::Nothing => format!("run `keyway kms unlock {kms}`"),
            Need::Passphrase => format!("run `keyway kms unlock {kms} --passphrase`"),
            Need::Pin => format!("run `keyway kms unlock {kms} --pin`"),
            Need::Shares { .. } => {
                format!("each holder of a share runs `keyway kms unlock {kms} --share`")
            }
            Need::Initialise => {
                format!(
                    "run `keyway kms init {kms} --passphrase`, or with --shares and --threshold"
                )
            }
        }
    }
}

/// The status of a KMS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KmsStatus {
    /// It can access its key now.
    pub is_open: bool,
    /// What an unlock requires.
    pub need: Need,
    /// Its section of the catalogue was checked, or there is nothing to check it against.
    pub is_checked: bool,
}

/// The KMSes by name.
pub struct KmsSet {
    /// The status of each.
    pub status: BTreeMap<String, KmsStatus>,
    /// The KMS of new keyspaces that specify none.
    pub default: String,
    /// KMSes whose locked keyspaces can be unlocked without a secret while the KMS is open.
    pub without_secret: BTreeSet<String>,
}

impl KmsSet {
    /// Returns the status of the KMS with that name.
    ///
    /// Errors: no KMS has that name.
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

/// The unwrapped DEKs of a keyspace.
pub struct Deks {
    /// When the oldest of the calls was sent. The lease counts from this time.
    pub sent_at: Instant,
    /// The DEKs, oldest first.
    pub deks: DekCopies,
}

impl Deks {
    pub(super) fn generation(&self) -> u32 {
        self.deks.last().map_or(0, |dek| dek.generation)
    }
}

/// A DEK that a KMS has just wrapped and verified by an unwrap, so it need not be unwrapped again.
pub struct NewDek {
    /// When the call was sent.
    pub sent_at: Instant,
    /// The wrapped DEK.
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
