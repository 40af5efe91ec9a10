//! Every bound of the store, and the relations between them that the formats rely on.

use crate::record;
use crate::segment;

/// Longest key id, in bytes. The shortest is 1.
pub const KEY_ID_LEN_MAX: usize = 128;

/// Largest blob, in bytes. A key's versions take 96 KiB together at most.
pub const BLOB_LEN_MAX: usize = 1 << 20;

/// Largest record on disk, in bytes, its head included.
pub const RECORD_LEN_MAX: usize = record::HEAD_LEN + KEY_ID_LEN_MAX + BLOB_LEN_MAX;

/// Size at which a segment is sealed and the next one begun, unless set otherwise.
pub const SEGMENT_BYTES_DEFAULT: u32 = 64 << 20;
/// Smallest segment size that [`crate::LogOptions`] takes.
pub const SEGMENT_BYTES_MIN: u32 = 4 << 10;
/// Largest segment size that [`crate::LogOptions`] takes: offsets are 32 bits wide.
pub const SEGMENT_BYTES_MAX: u32 = 1 << 30;

/// Bytes that one write and one fdatasync make durable together, at most; a single larger record
/// goes alone.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;

/// Bytes of puts that may wait to become durable; beyond it a put is refused as overloaded.
pub const PENDING_BYTES_MAX: usize = 16 << 20;

/// Bytes of revocations that may wait to become durable; beyond it one is refused. Each takes 184
/// bytes at most.
pub const REVOCATIONS_BYTES_MAX: usize = 8 << 20;

/// The part of them that is reserved for the server's user and root.
pub const REVOCATIONS_BYTES_RESERVED: usize = 1 << 20;

/// Bytes that are reserved on the disk behind the end of the log, for revocations: some 350.
pub(crate) const RESERVE_BYTES: u64 = 64 << 10;

/// Reserved room grows by steps of this many bytes, so that few writes have to ask for it.
pub(crate) const RESERVE_STEP_BYTES: u64 = 256 << 10;

/// Bytes read at once by a scan (recovery, listing, compaction).
pub(crate) const SCAN_CHUNK_LEN: usize = 256 << 10;

/// Damaged places that a recovery names one by one; further ones are only counted.
pub const DAMAGE_NAMED_MAX: usize = 1000;

/// Bytes that one call of `list` reads, at most, beside its last record; then it returns what it
/// has and a cursor.
pub(crate) const LIST_READ_BYTES_MAX: usize = 4 << 20;
/// Index entries that one call of `list` looks at, at most, beside its last bucket.
pub(crate) const LIST_ENTRIES_MAX: usize = 1 << 16;
/// Rows in one page, at most.
pub const LIST_ROWS_MAX: usize = 4096;

/// Bytes that one step of a compaction reads, at most, whatever the caller's budget says: they may
/// all have to wait in memory beside the pending puts.
pub const COMPACT_STEP_BYTES_MAX: usize = 4 << 20;

/// Times that a `get` looks the key up again because its record moved while it was read. Each
/// retry needs a compaction or a put of the same key in between, so a second one is already rare.
pub(crate) const READ_ATTEMPTS_MAX: u32 = 8;

const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_DEFAULT);
const _: () = assert!(SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
// A record may stand beyond the sealing size only if it is alone in its segment.
const _: () = assert!(
    SEGMENT_BYTES_MAX as u64 + (RECORD_LEN_MAX + segment::HEADER_LEN) as u64 <= u32::MAX as u64
);
const _: () = assert!(BATCH_BYTES_MAX + RECORD_LEN_MAX <= PENDING_BYTES_MAX);
// The index keeps a record's length in 24 bits.
const _: () = assert!(RECORD_LEN_MAX < 1 << 24);
