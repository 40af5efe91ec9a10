//! KMS providers and the seam they share.
//!
//! ```text
//!              unwrap_dek, new_dek                     wrap, unwrap, unlock, lock
//!  KMS thread ─────────────────────▶ Service ─────────────────────────────────────▶ dyn Provider
//!  (tokio)                            │ one call for many callers                    ├─ Local: KEK file
//!                                     │ rate, concurrency, time limit                └─ (others: siblings)
//!                                     │ retries, breaker, counts
//! ```
//!
//! - [`Provider`] is the seam: one trait, one file for each KMS. It makes one call and classifies its error.
//! - [`Local`] is the embedded default: a KEK file under a passphrase.
//! - [`Vault`] is the transit engine of a Vault or OpenBao server.
//! - [`Service`] is the process-wide entrance. Everybody who needs a DEK asks it, and nobody asks a provider.
//! - [`PassphraseSource`] reads a passphrase from where secrets may lie, and from nowhere else.
//!
//! The crate knows nothing of stores, sockets or shards. Its futures want a tokio runtime with time enabled; any
//! flavour will do.

#![forbid(unsafe_code)]

mod context;
mod error;
mod hex;
mod local;
mod passphrase;
mod passphrase_source;
mod pin;
mod private_file;
mod provider;
mod secret;
mod service;
mod share;
mod vault;

pub use context::{CONTEXT_BYTES, Context, Purpose};
pub use error::{Class, KmsError};
pub use local::{Argon2Params, DevKek, Local};
pub use passphrase::{PASSPHRASE_BYTES_MAX, PASSPHRASE_BYTES_MIN, Passphrase};
pub use passphrase_source::{Asking, CREDENTIAL_NAME, PassphraseSource};
pub use pin::{PIN_BYTES_MAX, Pin};
pub use provider::{
    Generated, Initialise, Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret,
    Unlocked, WRAPPED_BYTES_MAX, Wrapped,
};
pub use secret::{SECRET_BYTES, SecretKey};
pub use service::{
    BreakerState, Budget, Counters, Gauges, NewDek, Operation, Outcome, Service, UnwrappedDek,
};
pub use share::{SHARE_BYTES_MAX, Share};
pub use vault::{Vault, VaultAuth, VaultSettings};
