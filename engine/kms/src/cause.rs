//! What a failure comes from, in one word: for metric labels, status documents and alerts.

macro_rules! causes {
    ($($(#[$doc:meta])* $cause:ident = $name:literal,)*) => {
        /// What a failed KMS call comes from, as far as the provider said. [`Class`](crate::Class) decides what is done;
        /// this is for people.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Cause {
            $($(#[$doc])* $cause,)*
        }

        impl Cause {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$cause,)*];

            /// The cause in one lower-case word, for metric labels.
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
    /// The key is switched off at the KMS, or will be deleted.
    KeyDisabled = "key_disabled",
    /// There is no such key.
    KeyMissing = "key_missing",
    /// A key of the name exists and did not wrap this DEK.
    KeyRemade = "key_remade",
    /// The key version that wrapped the DEK may no longer decrypt.
    KeyVersionTooOld = "key_version_too_old",
    /// The key is of the wrong kind.
    KeyUnsuitable = "key_unsuitable",
    /// There is no engine, or no such namespace, where the settings say.
    MountMissing = "mount_missing",
    /// The KMS is sealed.
    Sealed = "sealed",
    /// The node that answered does not serve.
    Standby = "standby",
    /// The KMS's name has no address.
    NoSuchHost = "no_such_host",
    /// Nothing listens at the address.
    ConnectionRefused = "connection_refused",
    /// The connection ended before there was an answer.
    ConnectionLost = "connection_lost",
    /// No answer in time.
    TimedOut = "timed_out",
    /// The KMS says that it failed.
    ServerError = "server_error",
    /// Another program answered in the KMS's place.
    NotTheKms = "not_the_kms",
    /// The certificate of the KMS has ended, or has not begun.
    ServerCertificateExpired = "server_certificate_expired",
    /// The certificate of the KMS is not trusted.
    ServerCertificateUntrusted = "server_certificate_untrusted",
    /// The KMS does not take our client certificate.
    ClientCertificate = "client_certificate",
    /// The KMS asks us to slow down.
    Throttled = "throttled",
    /// Our own budget leaves no room.
    OverBudget = "over_budget",
    /// The KMS refuses our login.
    LoginRefused = "login_refused",
    /// Our token has ended or was revoked.
    TokenEnded = "token_ended",
    /// There are no credentials.
    CredentialsMissing = "credentials_missing",
    /// Our credentials have ended.
    CredentialsExpired = "credentials_expired",
    /// The KMS does not know our credentials.
    CredentialsUnknown = "credentials_unknown",
    /// This machine's clock is wrong.
    Clock = "clock",
    /// The provider waits for its secret.
    Locked = "locked",
    /// The secret that was given is wrong.
    WrongSecret = "wrong_secret",
    /// The token's PIN is locked.
    PinLocked = "pin_locked",
    /// The token is not there.
    TokenAbsent = "token_absent",
    /// The token or its module fails.
    TokenFails = "token_fails",
    /// The module cannot be loaded.
    ModuleUnusable = "module_unusable",
    /// A file that the settings name is missing, damaged, or open to others.
    File = "file",
    /// A wrapped key is damaged, or belongs elsewhere.
    RecordDamaged = "record_damaged",
    /// A setting is wrong.
    Settings = "settings",
    /// It is not known.
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
