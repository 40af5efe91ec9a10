//! Why an arena could not be made or gave no slot.

use std::{fmt, io};

/// Why an arena could not be made or gave no slot.
#[derive(Debug)]
#[non_exhaustive]
pub enum ArenaError {
    /// The operator's settings: the capacity is zero or too large to map, in bytes.
    Capacity {
        /// The capacity asked for.
        bytes: usize,
    },
    /// The operating system does not let this process lock that much memory.
    Lock {
        /// Bytes that were to be locked.
        len: usize,
        /// Soft limit of RLIMIT_MEMLOCK in bytes; `None` if unlimited.
        limit: Option<u64>,
        /// What mlock said.
        source: io::Error,
    },
    /// Another system call failed.
    Os {
        /// The call.
        call: &'static str,
        /// Bytes it was about.
        len: usize,
        /// What it said.
        source: io::Error,
    },
    /// No slot of that size is free now. Keys that expire or are evicted make room.
    Full {
        /// Bytes asked for.
        asked: usize,
        /// Bytes in use.
        used: usize,
        /// Bytes in all.
        capacity: usize,
    },
    /// More than the largest slot holds.
    TooLarge {
        /// Bytes asked for.
        asked: usize,
    },
}

impl ArenaError {
    pub(super) fn os(call: &'static str, len: usize) -> Self {
        Self::Os {
            call,
            len,
            source: io::Error::last_os_error(),
        }
    }
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { bytes } => write!(
                f,
                "an arena of {bytes} bytes cannot be made; choose between 64 KiB and 1 TiB"
            ),
            Self::Lock { len, limit, source } => {
                write!(f, "cannot lock {len} bytes of key memory: {source}; ")?;
                match limit {
                    Some(limit) => write!(f, "RLIMIT_MEMLOCK is {limit} bytes")?,
                    None => write!(f, "RLIMIT_MEMLOCK is unlimited")?,
                }
                write!(
                    f,
                    ". Raise it for the service (systemd: LimitMEMLOCK=, shell: ulimit -l, \
                     container: --ulimit memlock=) to the sum over all shards with room to spare, \
                     make the arena smaller, or allow unlocked key memory, which may then reach \
                     the swap device"
                )
            }
            Self::Os { call, len, source } => {
                write!(f, "{call} over {len} bytes of key memory failed: {source}")
            }
            Self::Full {
                asked,
                used,
                capacity,
            } => write!(
                f,
                "no room for {asked} bytes in the key arena ({used} of {capacity} bytes in use); \
                 make the arena larger or let fewer keys be resident"
            ),
            Self::TooLarge { asked } => write!(
                f,
                "{asked} bytes are more than one arena slot holds ({} bytes)",
                super::SLOT_BYTES_MAX
            ),
        }
    }
}

impl std::error::Error for ArenaError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Lock { source, .. } | Self::Os { source, .. } => Some(source),
            _ => None,
        }
    }
}
