//! KMS providers and the seam they share.
//!
//! ```text
//!              unwrap_dek, new_dek                     wrap, unwrap, unlock, lock
//!  KMS thread ─────────────────────▶ Service ─────────────────────────────────────▶ dyn Provider
//!  (tokio)                            │ one call for many callers                    ├─ Local, Vault, Aws, Pkcs11
//!                                     │ rate, concurrency, time limit
//!                                     │ retries, breaker, counts
//! ```
//!
//! - [`Provider`] is the seam: one trait, one file for each KMS. It makes one call and classifies its error.
//! - [`Local`] is the embedded default: a KEK file under a passphrase, or under a secret in shares.
//! - [`TransitProvider`] is the transit engine of Vault or OpenBao, [`Aws`] is AWS KMS, [`Pkcs11`] is a key on a token or HSM.
//! - [`Service`] is the process-wide entrance. Everybody who needs a DEK asks it, and nobody asks a provider.
//! - [`PassphraseSource`] reads a passphrase from where secrets may lie, and from nowhere else.
//!
//! The crate knows nothing of stores, sockets or shards. Its futures want a tokio runtime with time enabled; any
//! flavour will do.

#![forbid(unsafe_code)]

#[cfg(feature = "aws")]
mod aws;
mod cause;
mod context;
mod error;
mod group;
mod hex;
mod local;
mod passphrase;
mod passphrase_source;
mod pin;
mod pkcs11;
mod private_file;
mod provider;
mod record;
mod secret;
mod service;
mod share;
mod shares;
mod stamp;
mod tag;
mod vault;

#[cfg(feature = "aws")]
pub use aws::{Aws, AwsSettings};
pub use cause::Cause;
pub use context::{CONTEXT_BYTES, Context, Purpose};
pub use error::{Class, KmsError};
pub use local::{Argon2Params, DevKek, Local};
pub use passphrase::{PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN, Passphrase};
pub use passphrase_source::{Asking, CREDENTIAL_NAME, PassphraseSource};
pub use pin::{PIN_BYTES_MAX, Pin};
pub use pkcs11::{Pkcs11, Pkcs11Settings};
pub use provider::{
    Generated, Initialise, Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret,
    Unlocked, WRAPPED_BYTES_MAX, Wrapped,
};
pub use record::{RECORD_BYTES_MAX, is_sealed_data_key};
pub use secret::{SECRET_BYTES, SecretKey};
pub use service::{
    BreakerState, Budget, Counters, Gauges, KmsOperation, KmsOutcome, NewDek, Service, UnwrappedDek,
};
pub use share::{SHARE_BYTES_MAX, Share};
pub use shares::{Quorum, SHARES_MAX, combine_shares, split_secret};
pub use tag::{TAG_BYTES, Tag};
pub use vault::{TransitProvider, VaultAuth, VaultSettings};
