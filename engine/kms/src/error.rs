//! Failures of a KMS, classified by what the caller should do.
//!
//! Every provider maps its own errors to one [`Class`], and its callers use nothing else. A message has two parts: what
//! happened (with the value), and the remedy.

use std::fmt;
use std::time::Duration;

use crate::Cause;

/// What a failure means to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The KMS, or the secret that guards it, refuses: wrong passphrase, missing permission. A retry does not help until
    /// an operator acts.
    Denied,
    /// The key exists at the KMS and is disabled there.
    Disabled,
    /// The KMS rejects the login: a token, key pair, certificate or PIN that has expired, was replaced or is unknown.
    /// This does not show that Keyway has lost its right to the key, so nothing is purged, and it is retried.
    Credential,
    /// The provider has no access to its key yet: it needs [`unlock`](crate::Provider::unlock).
    Locked,
    /// The KMS, or Keyway's own budget, limits the rate.
    Throttled {
        /// The requested wait, if any.
        retry_after: Option<Duration>,
    },
    /// No answer, or an answer that blames the KMS itself.
    Unavailable {
        /// The requested wait, if any.
        retry_after: Option<Duration>,
    },
    /// The wrapped key or the KEK file is corrupt, or bound to another context.
    Corrupt,
    /// The configuration is invalid: a missing file, loose permissions, an impossible limit.
    Misconfigured,
}

impl Class {
    /// Returns `true` if the same call can succeed later without an operator's action.
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

    /// Returns the requested wait before the next attempt.
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

    /// Returns the class in one lower-case word, for logs and metric labels.
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

    /// Returns the cause of a failure whose provider named none.
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

/// A failed KMS call. It never contains secret bytes. Cloning it for every caller that shared the call is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsError {
    class: Class,
    cause: Cause,
    what: String,
    remedy: String,
}

impl KmsError {
    /// Creates an error. `what` describes what happened and names the value; `remedy` describes what to do. Both are
    /// sentences without a full stop.
    pub fn new(class: Class, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            class,
            cause: class.usual_cause(),
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Returns the same failure with `cause`.
    #[must_use]
    pub fn from_cause(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }

    /// Returns the same failure with another class.
    #[must_use]
    pub(crate) fn with_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// Returns the cause.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns the class.
    pub fn class(&self) -> Class {
        self.class
    }

    /// Returns what happened, with the value.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Returns the remedy.
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
