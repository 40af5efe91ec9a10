//! The seam that every KMS stands behind: one trait, one file for each provider.
//!
//! A provider does one call at a time and says what went wrong; it never retries, never queues and never counts.
//! All of that is [`Service`](crate::Service)'s, once for all providers. A provider may be called from several tasks
//! at once. A future that is dropped before it is done may leave the call running at the KMS, but never leaves
//! plaintext behind.

use std::pin::Pin;

use crate::{Context, KmsError, Passphrase, SecretKey};

/// Length limit of a wrapped key: what the largest provider returns (a PKCS#11 RSA-wrapped key with its attributes)
/// stays far below.
pub const WRAPPED_BYTES_MAX: usize = 8 * 1024;

/// What a provider's methods return: boxed, so that the trait can be an object.
pub type ProviderFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, KmsError>> + Send + 'a>>;

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
}

/// What an operator gives to unlock a provider.
#[derive(Debug)]
pub enum UnlockSecret {
    /// Nothing.
    Nothing,
    /// A passphrase.
    Passphrase(Passphrase),
}

/// A key management service that wraps and unwraps 32-byte keys.
pub trait Provider: Send + Sync {
    /// The provider's name in settings, logs and metrics, such as `local`.
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

    /// Gets access to the key. A wrong secret is [`Class::Denied`](crate::Class::Denied) and changes nothing. Unlocking
    /// what is unlocked checks the secret again.
    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, ()>;

    /// Wipes the key at once. An unlock that began earlier no longer takes effect.
    fn lock(&self);
}
