//! What can go wrong at a KMS, sorted by what the caller should do about it.
//!
//! Every provider maps its own errors to one [`Class`]; nothing above the provider looks at anything else. A
//! message has two halves: what happened (with the value), and the remedy.

use std::fmt;
use std::time::Duration;

use crate::Cause;

/// What a failure means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The KMS, or the secret that guards it, refuses us: wrong passphrase, missing permission. Asking again changes
    /// nothing until somebody acts.
    Denied,
    /// The key exists at the KMS and is switched off there.
    Disabled,
    /// The KMS does not take what we log in with: a token, key pair, certificate or PIN that has ended, was replaced or
    /// is not known there. It says nothing of our right to the key, so nothing is purged for it, and it is tried again.
    Credential,
    /// The provider has no access to its key yet: it wants [`unlock`](crate::Provider::unlock).
    Locked,
    /// The KMS, or our own budget, asks us to slow down.
    Throttled {
        /// The wait that was asked for, if one was named.
        retry_after: Option<Duration>,
    },
    /// No answer, or an answer that blames the KMS itself.
    Unavailable {
        /// The wait that was asked for, if one was named.
        retry_after: Option<Duration>,
    },
    /// The wrapped key or the KEK file is damaged, or bound to another context.
    Corrupt,
    /// The set-up is wrong: a missing file, loose permissions, an impossible limit.
    Misconfigured,
}

impl Class {
    /// Whether the same call can succeed a little later without anybody acting.
    pub const fn is_retryable(self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable { .. } => true,
            Self::Denied
            | Self::Disabled
            | Self::Credential
            | Self::Locked
            | Self::Corrupt
            | Self::Misconfigured => false,
        }
    }

    /// The wait that was asked for before the next try.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } | Self::Unavailable { retry_after } => retry_after,
            Self::Denied
            | Self::Disabled
            | Self::Credential
            | Self::Locked
            | Self::Corrupt
            | Self::Misconfigured => None,
        }
    }

    /// The class in one lower-case word, for logs and metric labels.
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

    /// The cause of a failure whose provider named none.
    const fn usual_cause(self) -> Cause {
        match self {
            Self::Denied => Cause::Policy,
            Self::Disabled => Cause::KeyDisabled,
            Self::Credential => Cause::LoginRefused,
            Self::Locked => Cause::Locked,
            Self::Throttled { .. } => Cause::Throttled,
            Self::Unavailable { .. } => Cause::Unknown,
            Self::Corrupt => Cause::RecordDamaged,
            Self::Misconfigured => Cause::Settings,
        }
    }
}

/// A failed KMS call. It never carries secret bytes. It is cheap enough to clone for every caller that shared the
/// call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsError {
    class: Class,
    cause: Cause,
    what: String,
    remedy: String,
}

impl KmsError {
    /// `what` says what happened and names the value; `remedy` says what to do. Both are sentences without a full
    /// stop.
    pub fn new(class: Class, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            class,
            cause: class.usual_cause(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// The same failure, from `cause`.
    #[must_use]
    pub fn from_cause(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// The same failure, with another meaning to the caller.
    #[must_use]
    pub(crate) fn with_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// What the failure comes from.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// What the failure means to the caller.
    pub fn class(&self) -> Class {
        self.class
    }

    /// What happened, with the value.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What to do about it.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Shorthand for [`Class::is_retryable`].
    pub fn is_retryable(&self) -> bool {
        self.class.is_retryable()
    }
}

impl fmt::Display for KmsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.class.name(), self.what, self.remedy)
    }
}

impl std::error::Error for KmsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_throttling_and_outages_are_retryable() {
        let wait = Some(Duration::from_secs(1));
        let table = [
            (Class::Denied, false),
            (Class::Disabled, false),
            (Class::Credential, false),
            (Class::Locked, false),
            (Class::Throttled { retry_after: wait }, true),
            (Class::Unavailable { retry_after: wait }, true),
            (Class::Corrupt, false),
            (Class::Misconfigured, false),
        ];
        for (class, retryable) in table {
            assert_eq!(class.is_retryable(), retryable, "{}", class.name());
            assert_eq!(
                class.retry_after(),
                if retryable { wait } else { None },
                "{}",
                class.name()
            );
        }
    }

    #[test]
    fn a_message_gives_class_what_and_remedy() {
        let error = KmsError::new(
            Class::Corrupt,
            "the tag of KEK version 3 is wrong",
            "restore the file",
        );
        assert_eq!(
            error.to_string(),
            "corrupt: the tag of KEK version 3 is wrong; restore the file"
        );
    }
}
