//! The Keyway wire: what travels between a client and `keywayd`, and nothing else.
//!
//! ```text
//!  bytes ──▶ RequestFrame::decode ──▶ Request::decode ──▶ (the server acts)
//!            header, key id, payload   typed, checked          │
//!                                                              ▼
//!  bytes ◀── ResponseWriter::finish ◀── payload written in place
//!    │
//!    └─────▶ ResponseFrame::decode ──▶ ServerHello, Sealed, KeyListAnswer, … or plain bytes
//! ```
//!
//! - **No I/O, no clock, no allocation on the hot path.** Decoders borrow from the caller's buffer;
//!   encoders append to the caller's `Vec<u8>`.
//! - **Need more bytes is not an error**: the stream decoders return `Ok(None)`. An error of
//!   [`RequestFrame::decode`] or [`ResponseFrame::decode`] means that the stream is lost and the
//!   connection must be closed. An error of [`Request::decode`] concerns that one request, which is
//!   answered with [`ProtocolError::status`]; the connection goes on.
//! - **Canonical**: a message has one encoding. Unknown flags, reserved bytes that are not zero,
//!   lengths that disagree and bytes left over are refused, so decoding and encoding again gives
//!   the same bytes.
//!
//! `docs/PROTOCOL.md` is the specification, `protocol/vectors` its golden bytes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod algorithm;
mod error;
mod frame;
mod grant;
mod hot_by;
mod id;
pub mod limits;
mod octets;
mod opcode;
mod payload;
mod reader;
mod response_writer;
mod routing;
mod scheme;
mod status;
mod unlock_kind;
mod wire_enum;

pub use algorithm::{Algorithm, KeyFormat, KeyState, Usage};
pub use error::{ProtocolError, UnknownName};
pub use frame::{RequestFrame, ResponseFlags, ResponseFrame};
pub use grant::Grants;
pub use hot_by::HotBy;
pub use id::{
    KeyId, KeyPath, KeyspaceName, KmsName, check_key_id, check_keyspace_name, check_kms_name,
};
pub use octets::Octets;
pub use opcode::{Opcode, Scope};
pub use payload::{
    Custody, Decrypt, Derive, Encrypt, Hello, KeyGenerate, KeyImport, KeyList, KeyListAnswer,
    KeyRevoke, KeyRotate, KeyRow, KeyRows, KeyTrim, KeyVersions, KeyspaceCreate, KeyspaceEntry,
    KeyspaceHot, KmsInit, KmsShares, KmsUnlock, Material, NewKey, Request, Sealed, ServerHello,
    Settings, SettingsIter, Sign, Unlock, Verify, decode_deks_destroyed, decode_generation,
    decode_keyspace_id, decode_ticket, encode_deks_destroyed, encode_generation,
    encode_keyspace_id, encode_ticket,
};
pub use response_writer::{ResponseHead, ResponseWriter};
pub use routing::{Router, ShardMap};
pub use scheme::{InputKind, Scheme};
pub use status::Status;
pub use unlock_kind::UnlockKind;

/// The version of the protocol that this crate speaks, in every frame's version byte.
pub const VERSION: u8 = 1;

/// The TCP port on which any shard may accept, unless configured otherwise. Shard `i` listens on
/// this port + 1 + `i`.
pub const PORT_DEFAULT: u16 = 7420;
