//! What is wrong with a data directory, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::data_dir::{BLOBS_PREFIX, MANIFEST_NAME, START_EMPTY_NAME};
use crate::manifest::SHARD_COUNT_MAX;

/// Why a data directory cannot be used. The operator must repair it.
#[derive(Debug)]
pub enum DirError {
    /// Another process has it.
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, as it wrote it down.
        pid: String,
    },
    /// Others than its owner may enter it.
    LoosePermissions {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// There are logs and no manifest that says whose.
    ManifestMissing {
        /// The directory.
        path: PathBuf,
    },
    /// The manifest cannot be read.
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A shard's directory is not there.
    ShardMissing {
        /// The shard's directory.
        path: PathBuf,
    },
    /// A shard's log is not there, although it was.
    LogMissing {
        /// The shard's directory.
        path: PathBuf,
    },
    /// The shard count is out of its range.
    ShardCount(u16),
    /// The disk or the system failed.
    Io {
        /// What was being done, with the file.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl std::fmt::Display for DirError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse { path, pid } => write!(
                f,
                "the data directory {} is in use by process {pid}: stop that one, or name \
                 another directory",
                path.display()
            ),
            Self::LoosePermissions { path, mode } => write!(
                f,
                "the data directory {} has mode {mode:04o}, others than its owner may enter it: \
                 chmod 700 {0}; or, for a volume that is mounted there, name a directory in it: \
                 --data {0}/keyway",
                path.display()
            ),
            Self::ManifestMissing { path } => write!(
                f,
                "{0}/{MANIFEST_NAME} is missing, but there are blob logs: restore it from a \
                 backup (it names their cluster), or move {0}/{BLOBS_PREFIX}* away to start empty",
                path.display()
            ),
            Self::Manifest { path, why } => {
                write!(
                    f,
                    "{} cannot be used: {why}. Restore it from a backup",
                    path.display()
                )
            }
            Self::ShardMissing { path } => write!(
                f,
                "{0} is missing: restore it from a backup, or, to start without that shard's keys: \
                 mkdir -m 700 {0} && touch {0}/{START_EMPTY_NAME}",
                path.display()
            ),
            Self::LogMissing { path } => write!(
                f,
                "{0} holds no log, although it did: restore it from a backup, or, to start without \
                 that shard's keys: touch {0}/{START_EMPTY_NAME}",
                path.display()
            ),
            Self::ShardCount(count) => {
                write!(
                    f,
                    "the shard count is {count}, must be from 1 to {SHARD_COUNT_MAX}"
                )
            }
            Self::Io { what, source } => write!(f, "{what}: {source}{}", remedy(source)),
        }
    }
}

/// What to do about a failure that is no fault of the disk.
fn remedy(source: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    match source.kind() {
        Kind::ReadOnlyFilesystem => {
            "; give --data a directory that can be written, such as a volume of its own"
        }
        Kind::PermissionDenied => {
            "; give the directory to the user that runs keywayd, or name another with --data"
        }
        Kind::AlreadyExists | Kind::NotADirectory => "; name a directory with --data",
        Kind::StorageFull | Kind::QuotaExceeded => "; free some space there",
        _ => "",
    }
}

impl std::error::Error for DirError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
