//! The seam that every KMS stands behind: one trait, one file for each provider.
//!
//! A provider does one call at a time and says what went wrong; it never retries, never queues and never counts.
//! All of that is [`Service`](crate::Service)'s, once for all providers. A provider may be called from several tasks
//! at once. A future that is dropped before it is done may leave the call running at the KMS, but never leaves
//! plaintext behind.

use std::time::Duration;

use crate::{Class, Context, Counters, KmsError, Passphrase, Pin, SecretKey, Share};

/// Length limit of a wrapped key: what the largest provider returns (a PKCS#11 RSA-wrapped key with its attributes)
/// stays far below.
pub const WRAPPED_BYTES_MAX: usize = 8 * 1024;

/// What a provider's methods return: boxed, so that the trait can be an object.
pub type ProviderFuture<'a, T> =
    std::pin::Pin<Box<dyn Future<Output = Result<T, KmsError>> + Send + 'a>>;

/// A wrapped key, as it is stored. It holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wrapped(pub Vec<u8>);

/// Whether a provider can reach its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderState {
    /// Wants [`Provider::unlock`] first.
    Locked,
    /// Can wrap and unwrap.
    Unlocked,
}

/// What a provider wants from the operator who unlocks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlockNeed {
    /// Nothing: [`UnlockSecret::Nothing`] does.
    Nothing,
    /// A passphrase.
    Passphrase,
    /// A token's PIN.
    Pin,
    /// Shares of its secret, one after the other.
    Shares {
        /// Different shares that it has been given since it was locked.
        given: u8,
        /// How many open it.
        threshold: u8,
    },
    /// To be made first: [`Provider::initialise`].
    Initialise,
}

/// What an operator gives to unlock a provider.
#[derive(Debug)]
pub enum UnlockSecret {
    /// Nothing.
    Nothing,
    /// A passphrase.
    Passphrase(Passphrase),
    /// A token's PIN. It is not sent if it could be the last attempt that the token allows.
    Pin(Pin),
    /// A token's PIN, even as the last attempt that the token allows: a wrong one locks the token.
    ForcedPin(Pin),
    /// One share of several.
    Share(Share),
}

impl UnlockSecret {
    /// What it is, in words for a message.
    pub const fn what(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Passphrase(_) => "a passphrase",
            Self::Pin(_) | Self::ForcedPin(_) => "a PIN",
            Self::Share(_) => "a share",
        }
    }
}

/// How an unlock ended that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unlocked {
    /// The provider can reach its key.
    Open,
    /// The share is right, and more are needed.
    MoreShares {
        /// Different shares given so far.
        given: u8,
        /// How many open it.
        threshold: u8,
    },
}

/// How the secret of a new KEK is kept.
#[derive(Debug)]
pub enum Initialise {
    /// Under a passphrase.
    Passphrase(Passphrase),
    /// In `count` shares, of which any `threshold` open it. `2 <= threshold <= count <= 16`, or 1 of 1.
    Shares {
        /// Shares to make.
        count: u8,
        /// Shares that open it.
        threshold: u8,
    },
}

/// A DEK that the KMS made itself.
#[derive(Debug)]
pub struct Generated {
    /// The secret.
    pub dek: SecretKey,
    /// Its wrapped form.
    pub wrapped: Wrapped,
}

/// A key management service that wraps and unwraps 32-byte keys.
pub trait Provider: Send + Sync {
    /// The kind of provider, as settings, logs and metrics name it: `local`, `vault`, `aws`, `pkcs11`.
    fn name(&self) -> &'static str;

    /// Whether the provider can reach its key now.
    fn state(&self) -> ProviderState;

    /// Whether the key-encryption key lies unprotected on this machine, as with `--dev`.
    fn is_unprotected(&self) -> bool;

    /// What [`Provider::unlock`] wants.
    fn unlock_need(&self) -> UnlockNeed;

    /// Wraps `dek`, bound to `context`.
    fn wrap<'a>(&'a self, context: &'a Context, dek: &'a SecretKey) -> ProviderFuture<'a, Wrapped>;

    /// Unwraps what [`Provider::wrap`] returned under the same context. Another context, or one changed bit, is
    /// [`Class::Corrupt`](crate::Class::Corrupt).
    fn unwrap<'a>(
        &'a self,
        context: &'a Context,
        wrapped: &'a [u8],
    ) -> ProviderFuture<'a, SecretKey>;

    /// Lets the KMS make a DEK and wrap it, in one call. `None`: this one does not offer it.
    fn generate<'a>(&'a self, context: &'a Context) -> Option<ProviderFuture<'a, Generated>> {
        let _ = context;
        None
    }

    /// Makes the provider's key where there is none yet, and leaves the provider unlocked. Returns the shares, if the
    /// secret is kept in shares: this is the only time that they are shown.
    fn initialise(&self, how: Initialise) -> ProviderFuture<'_, Vec<Share>> {
        drop(how);
        let name = self.name();
        Box::pin(async move {
            Err(KmsError::new(
                Class::Misconfigured,
                format!("a KMS of provider {name} keeps its key itself"),
                "make the key there; `keyway kms init` is for the local provider",
            ))
        })
    }

    /// Gets access to the key. A wrong secret is [`Class::Denied`](crate::Class::Denied) and changes nothing. Unlocking
    /// what is unlocked checks the secret again.
    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, Unlocked>;

    /// Wipes the key at once, with all that leads to it: tokens, cached credentials, shares that wait, sessions. It ends
    /// a login here, and revokes nothing at the KMS. An unlock that began earlier no longer takes effect.
    fn lock(&self);

    /// Does what is due although no call is made, such as renewing a login at half of its time. Returns after how long
    /// to come again. `None`: this one has nothing to look after.
    fn tend(&self) -> Option<ProviderFuture<'_, Duration>> {
        None
    }

    /// Forgets what it waits for after refusals: an operator wants the next call to be made.
    fn hurry(&self) {}

    /// Calls that it makes for itself, such as logins.
    fn own_calls(&self) -> Counters {
        Counters::default()
    }

    /// How many of these it will make in an hour, as things are.
    fn own_calls_per_hour(&self) -> f64 {
        0.0
    }

    /// The version of the KMS's key that wrapped this, where keys have versions.
    fn key_version(&self, wrapped: &[u8]) -> Option<u32> {
        let _ = wrapped;
        None
    }

    /// The newest version of the key that it has seen.
    fn newest_key_version(&self) -> Option<u32> {
        None
    }
}
