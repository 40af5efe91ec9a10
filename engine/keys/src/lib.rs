//! Unlocked keys: locked arena, algorithms, envelope.
//!
//! ```text
//!   blob ──open──▶ UnlockedKey ──sign, mac, encrypt, …──▶ bytes for the caller
//!    ▲               │ payload and ring's contexts
//!    │seal           ▼
//!  PKCS#8, PEM,   ┌───────────────────────────────────────┐
//!  raw secret,    │ Arena: locked, not dumped, wiped slots │
//!  randomness     └───────────────────────────────────────┘
//! ```
//!
//! One [`Vault`] per shard holds the shard's [`Arena`] and the choice of providers. It seals keys
//! into blobs (`docs/ENVELOPE.md` has the bytes) and opens blobs into [`UnlockedKey`]s. Nothing
//! here does I/O, waits, or looks at a clock. Everything in an arena stays on its thread.
//!
//! What leaves a key's bytes in other places is dealt with once: the stack is scrubbed after each
//! load and use, [`ZeroingAllocator`] wipes the Rust heap, AWS-LC wipes its own.

mod algorithm;
mod arena;
mod bignum;
mod dek;
mod der;
mod ed25519;
mod envelope;
mod error;
mod found;
mod import;
mod key;
mod material;
mod pem;
mod providers;
mod scheme;
#[cfg(test)]
mod testing;
mod uses;
mod vault;
mod wipe;
mod zeroing_alloc;

pub use algorithm::{AEAD_KEY_LEN, Algorithm, KeyUsage, SECRET_LEN_MAX, SECRET_LEN_MIN};
pub use arena::{
    Arena, ArenaBox, ArenaBytes, ArenaError, ArenaOptions, ArenaUsage, SLOT_BYTES_MAX,
};
pub use dek::{DEK_LEN, Dek};
pub use envelope::{
    BLOB_LEN_MAX, Context, KEY_ID_LEN_MAX, Metadata, VERSIONS_MAX, VersionsKept, peek,
};
pub use error::{KeyError, OpError, OpenError};
pub use found::Found;
pub use import::{IMPORT_LEN_MAX, ImportFormat};
pub use key::{
    Cost, DERIVE_LEN_MAX, KeyOperation, UnlockedKey, VersionInfo, verify_with_public_key,
};
pub use providers::ProviderChoice;
pub use scheme::{Input, Scheme};
pub use uses::{
    ENCRYPTIONS_MAX, ENCRYPTIONS_WARN, Reservation, Reserving, USES_BLOCK, UseLedger, Uses,
    UsesRecord,
};
pub use vault::{NewKey, Vault, generate_rsa_pkcs8};
pub use wipe::{STACK_SCRUB_BYTES, scrub_stack, wipe};
pub use zeroing_alloc::ZeroingAllocator;
