//! KMS providers and the trait that they implement.
//!
//! ```text
//!              unwrap_dek, new_dek                     wrap, unwrap, unlock, lock
//!  KMS thread ─────────────────────▶ Service ─────────────────────────────────────▶ dyn Provider
//!  (tokio)                            │ one call for many callers                    ├─ Local, Vault, Aws, Pkcs11
//!                                     │ rate, concurrency, time limit
//!                                     │ retries, breaker, counts
//! ```
//!
//! - [`Provider`] is the trait, with one file for each KMS. It makes one call and classifies its error.
//! - [`Local`] is the embedded default: a KEK file under a passphrase, or under a secret split into shares.
//! - [`TransitProvider`] is the transit engine of Vault or OpenBao, [`Aws`] is AWS KMS, [`Pkcs11`] is a key on a token or HSM.
//! - [`Service`] is the process-wide entry point. Everything that needs a DEK calls it, and only it calls a provider.
//! - [`PassphraseSource`] reads a passphrase from the few places that are safe for secrets.
//!
//! The crate does not depend on stores, sockets or shards. Its futures need a tokio runtime of any flavour, with time
//! enabled.

#![forbid(unsafe_code)]

mod acl;
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
mod refusals;
mod roots;
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
