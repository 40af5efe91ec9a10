//! What can go wrong, by call. Each says whose fault it is and whether trying again can help.

use std::fmt;
use std::io;
use std::rc::Rc;

use crate::limits::{REVOCATIONS_BYTES_MAX, REVOCATIONS_BYTES_RESERVED};

/// Why a log does not open. The operator must repair it; a retry does not help.
#[derive(Debug)]
pub enum OpenError {
    /// An option is out of its range.
    Options(String),
    /// The disk failed.
    Io {
        /// What was being done, with the file.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A segment is another log's, or of another format.
    Foreign {
        /// The file.
        path: String,
        /// What differs, and the remedy.
        why: String,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Options(why) => f.write_str(why),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Foreign { path, why } => write!(f, "{path} does not belong to this log: {why}"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Options(_) | Self::Foreign { .. } => None,
        }
    }
}

/// Why a record could not be read.
#[derive(Debug)]
pub enum ReadError {
    /// The bytes are there and are not what was written. Trying again helps only if the fault was
    /// in reading.
    Damaged {
        /// Number of the segment file.
        segment: u32,
        /// Where the record begins, in bytes.
        offset: u32,
        /// Which check failed.
        what: &'static str,
    },
    /// The disk failed. Trying again may help.
    Io {
        /// Number of the segment file.
        segment: u32,
        /// The system's reason.
        source: io::Error,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged {
                segment,
                offset,
                what,
            } => write!(
                f,
                "the record at byte {offset} of segment {segment} is damaged ({what}): restore the \
                 segment from a backup, or put the key again"
            ),
            Self::Io { segment, source } => write!(f, "segment {segment} cannot be read: {source}"),
        }
    }
}

impl std::error::Error for ReadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Damaged { .. } => None,
        }
    }
}

/// Why nothing was put. After each of these but two it is certain that the record is not in the
/// log, and is not going to be. After `Unknown` the next start finds it whole or not at all; a
/// revocation that is `NotPersisted` holds, and is written as soon as that is possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutError {
    /// The client's: the key exists already, or its version is not the one expected.
    Conflict {
        /// The version it has.
        current: u32,
    },
    /// The client's: there is no such key.
    NotFound,
    /// The client's: the key was revoked, and stays so.
    Revoked,
    /// The caller's: a key's version never goes down.
    VersionBehind {
        /// The version it has.
        current: u32,
        /// The version offered.
        offered: u32,
    },
    /// The caller's: a part of the record is out of its range. Says which and the range.
    BadRecord(&'static str),
    /// Ours, for the moment: too many bytes wait to become durable. Try again later.
    Overloaded,
    /// The operator's: so many bytes of revocations wait for the disk. Nothing has changed.
    RevocationsFull(usize),
    /// The client's: only a revoked key can be deleted.
    NotRevoked,
    /// The operator's: it could not be written, and nothing has changed. Trying again helps once
    /// the disk has room, or works.
    Failed(Rc<str>),
    /// The operator's: it could not be written, or not be synced, nor taken back.
    Unknown(Rc<str>),
    /// The operator's: the revocation holds, and could not be written yet. A restart undoes it.
    NotPersisted(Rc<str>),
    /// The log was closed.
    Closed,
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict { current } => {
                write!(
                    f,
                    "the key has version {current} already: read it again, then retry"
                )
            }
            Self::NotFound => f.write_str("there is no such key"),
            Self::Revoked => f.write_str("the key was revoked: use another key id"),
            Self::VersionBehind { current, offered } => write!(
                f,
                "version {offered} was offered, the key has version {current}: a version never \
                 goes down"
            ),
            Self::BadRecord(why) => f.write_str(why),
            Self::Overloaded => f.write_str(
                "too many writes wait for the disk on this shard: try again in a moment",
            ),
            Self::RevocationsFull(bytes) => write!(
                f,
                "nothing was changed, since {bytes} bytes of revocations wait for the disk on this shard and the maximum is \
                 {REVOCATIONS_BYTES_MAX}, of which the last {REVOCATIONS_BYTES_RESERVED} are reserved for the server's user: \
                 check the disk; until it works, `keyway lock KEYSPACE` stops all keys of a keyspace"
            ),
            Self::NotRevoked => f.write_str(
                "only a revoked key can be deleted: revoke it first with `keyway key revoke \
                 KEYSPACE/KEY`",
            ),
            Self::Failed(why) => write!(
                f,
                "nothing was changed, since the blob log cannot be written ({why}): check the disk \
                 and its free space, then try again"
            ),
            Self::Unknown(why) => write!(
                f,
                "it is not known whether this was stored ({why}): check the disk, and read the key \
                 after the next restart"
            ),
            Self::NotPersisted(why) => write!(
                f,
                "the revocation is in force and could not be written yet, so that a restart would \
                 undo it ({why}); the server keeps trying: check the disk and its free space"
            ),
            Self::Closed => f.write_str("the blob log is closed: the server is stopping"),
        }
    }
}

impl std::error::Error for PutError {}

/// Why a step of a compaction failed. Nothing is lost by it; trying again helps unless the log is
/// poisoned.
#[derive(Debug)]
pub enum CompactError {
    /// The copies could not be made durable.
    Put(PutError),
    /// The old segment could not be read or removed.
    Io {
        /// Number of the segment file.
        segment: u32,
        /// The system's reason.
        source: io::Error,
    },
}

impl fmt::Display for CompactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(error) => write!(f, "live records could not be moved: {error}"),
            Self::Io { segment, source } => {
                write!(
                    f,
                    "segment {segment} could not be read or removed: {source}"
                )
            }
        }
    }
}

impl std::error::Error for CompactError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Put(error) => Some(error),
            Self::Io { source, .. } => Some(source),
        }
    }
}

impl From<PutError> for CompactError {
    fn from(error: PutError) -> Self {
        Self::Put(error)
    }
}
