//! The cause of a failure, as one word: for metric labels, status documents and alerts.

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident = $name:literal,)*) => {
        /// The cause of a failed KMS call, as far as the provider reported it. [`Class`](crate::Class) determines what is
        /// done; this is for operators.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$cause,)*];

            /// Returns the cause in one lower-case word, for metric labels.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$cause => $name,)*
                }
            }
        }
    };
}

causes! {
    /// The KMS's policy does not allow it.
    Policy = "policy",
    /// The key is disabled at the KMS, or will be deleted.
    KeyDisabled = "key_disabled",
    /// There is no such key.
    KeyMissing = "key_missing",
    /// A key of that name exists, but did not wrap this DEK.
    KeyRemade = "key_remade",
    /// The key version that wrapped the DEK may no longer decrypt.
    KeyVersionTooOld = "key_version_too_old",
    /// The key is of the wrong kind.
    KeyUnsuitable = "key_unsuitable",
    /// There is no engine, or no namespace, at the configured path.
    MountMissing = "mount_missing",
    /// The KMS is sealed.
    Sealed = "sealed",
    /// The node that answered is on standby.
    Standby = "standby",
    /// The KMS's name has no address.
    NoSuchHost = "no_such_host",
    /// Nothing listens at the address.
    ConnectionRefused = "connection_refused",
    /// The connection ended before there was an answer.
    ConnectionLost = "connection_lost",
    /// No answer in time.
    TimedOut = "timed_out",
    /// The KMS reported an internal failure.
    ServerError = "server_error",
    /// Something other than the KMS answered.
    NotTheKms = "not_the_kms",
    /// The certificate of the KMS has expired, or is not valid yet.
    ServerCertificateExpired = "server_certificate_expired",
    /// The certificate of the KMS is not trusted.
    ServerCertificateUntrusted = "server_certificate_untrusted",
    /// The KMS rejects Keyway's client certificate.
    ClientCertificate = "client_certificate",
    /// The KMS limits the rate.
    Throttled = "throttled",
    /// Keyway's own budget is exhausted.
    OverBudget = "over_budget",
    /// The KMS refuses Keyway's login.
    LoginRefused = "login_refused",
    /// Keyway's token has expired or was revoked.
    TokenEnded = "token_ended",
    /// There are no credentials.
    CredentialsMissing = "credentials_missing",
    /// Keyway's credentials have expired.
    CredentialsExpired = "credentials_expired",
    /// The credentials are unknown to the KMS.
    CredentialsUnknown = "credentials_unknown",
    /// This machine's clock is wrong.
    Clock = "clock",
    /// The provider must be unlocked with its secret.
    Locked = "locked",
    /// The secret that was given is wrong.
    WrongSecret = "wrong_secret",
    /// The token's PIN is locked.
    PinLocked = "pin_locked",
    /// The token is missing.
    TokenAbsent = "token_absent",
    /// The token or its module fails.
    TokenFails = "token_fails",
    /// The module cannot be loaded.
    ModuleUnusable = "module_unusable",
    /// A file named in the settings is missing, corrupt, or accessible to others.
    File = "file",
    /// A wrapped key is corrupt, or belongs elsewhere.
    RecordDamaged = "record_damaged",
    /// A setting is wrong.
    Settings = "settings",
    /// The cause is unknown.
    Unknown = "unknown",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_fit_a_label() {
        let names: std::collections::BTreeSet<_> = Cause::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(names.iter().all(|name| name.bytes().all(fits)));
    }
}
