//! The blob log: durable, append-only, one per shard.
//!
//! ```text
//!        put_blob, revoke, put_deleted       get, version_of          list
//!                    │                             │                   │
//!   commit ── queue, one write + sync ──▶ index ◀──┘                   │
//!                    │                     ▲                           │
//!                    ▼                     │ recover (at open)         ▼
//!             active segment ── sealed ── sealed ── …  ◀──────────── scan
//!                    ▲                     │
//!                    └───── compact ◀──────┘            record, segment: the bytes
//! ```
//!
//! The crate has no runtime and knows no disk but through the seam ([`Files`], [`File`]): the
//! server puts io_uring below it, tests and the simulator a disk that fails on command
//! (`virtual_files`). [`DataDir`] and [`reshard`]
//! run before the shards start, with the standard library's blocking calls.
//!
//! Call order: [`DataDir::open`], [`reshard`] if the shard count changed, then on each shard's
//! thread [`BlobLog::open`] with [`DataDir::log_options`], the calls of [`BlobLog`], and
//! [`BlobLog::close`]. `docs/BLOBLOG.md` has the bytes, the guarantees and the assumptions.

#![forbid(unsafe_code)]

mod batch;
mod commit;
mod compact;
mod data_dir;
mod dir_error;
mod error;
mod index;
mod limits;
mod list;
mod log;
mod manifest;
mod marks;
mod notify;
mod put;
mod receipt;
mod record;
mod recover;
mod reshard;
mod revoked;
mod scan;
mod seam;
mod segment;
mod std_files;
mod version;
#[cfg(feature = "virtual-files")]
pub mod virtual_files;

pub use compact::Compaction;
pub use data_dir::DataDir;
pub use dir_error::DirError;
pub use error::{CompactError, OpenError, PutError, ReadError};
pub use index::KeyState;
pub use limits::{
    BLOB_LEN_MAX, COMPACT_STEP_BYTES_MAX, DAMAGE_NAMED_MAX, KEY_ID_LEN_MAX, LIST_ROWS_MAX,
    PENDING_BYTES_MAX, RECORD_LEN_MAX, REVOCATIONS_BYTES_MAX, REVOCATIONS_BYTES_RESERVED,
    SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN,
};
pub use list::{Page, Row};
pub use log::{Blob, BlobLog, Known, LogOptions, Lookup, Stats};
pub use manifest::{Manifest, SHARD_COUNT_MAX};
pub use marks::{MARK_NAME_LEN_MAX, MARKS_MAX};
pub use put::{Expect, Revocation, Stored};
pub use recover::{Damage, Progress, Recovery};
pub use reshard::{ReshardError, ReshardProgress, ReshardReport, move_keys, reshard};
pub use revoked::{VERSIONS_MAX, Versions, VersionsOf};
pub use seam::{File, Files};
pub use std_files::{StdFile, StdFiles};
