//! Payloads: what stands behind the header, by operation.
//!
//! Each type has the same two functions, `decode` and `encode`, and one `check` that both use, so
//! that nothing can be sent that would not be accepted.

mod answer;
mod crypto;
mod hello;
mod hot;
mod key;
mod keyspace;
mod kms;
mod request;

pub use answer::{
    decode_deks_destroyed, decode_generation, decode_keyspace_id, decode_ticket,
    encode_deks_destroyed, encode_generation, encode_keyspace_id, encode_ticket,
};
pub use crypto::{Decrypt, Derive, Encrypt, Sealed, Sign, Verify};
pub use hello::{Hello, KeyspaceEntry, ServerHello};
pub use hot::KeyspaceHot;
pub use key::{
    KeyGenerate, KeyImport, KeyList, KeyListAnswer, KeyRevoke, KeyRotate, KeyRow, KeyRows, KeyTrim,
    KeyVersions, Material, NewKey,
};
pub use keyspace::{KeyspaceCreate, Settings, SettingsIter};
pub use kms::{Custody, KmsInit, KmsShares, KmsUnlock, Unlock};
pub use request::Request;
