//! What a shard has to tell the log. The driver limits the rate and finds the words.

use keyway_core::Event;

use crate::policy::Principal;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Report {
    /// The core's: with what a load that takes long is held up by, in a word.
    Core {
        /// What happened.
        event: Event,
        /// `dek_missing`, `read_queued` or `read_slow`.
        cause: &'static str,
    },
    /// A handler panicked. Its request is answered INTERNAL, and the shard goes on.
    HandlerPanicked,
    /// The core panicked: the shard must stop.
    CorePanicked,
    /// Something was taken away from a key, or a damaged one was restored.
    KeyChanged {
        /// Which keyspace.
        keyspace: u32,
        /// Which key in it.
        key_id: Box<[u8]>,
        /// What was done.
        change: KeyChange,
        /// The key's newest version now.
        newest: u32,
        /// Who asked.
        who: Principal,
    },
    /// The log could not be read.
    ReadFailed {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        error: String,
    },
    /// A key was not loaded because the arena is full.
    NoRoomForKey {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        error: String,
    },
    /// A blob did not open.
    NotOpened {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        error: String,
    },
    /// A DEK was not loaded because the arena is full.
    NoRoomForDek {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        error: String,
    },
    /// The core refused settings that control has validated.
    SettingsRefused {
        /// Which keyspace.
        keyspace: u32,
        /// Why.
        error: String,
    },
    /// A blob cannot be sealed under the new DEK.
    NotResealed {
        /// Which keyspace.
        keyspace: u32,
        /// Which key in it.
        key_id: Box<[u8]>,
        /// Why.
        error: String,
    },
    /// The shard has too many unsent answers: a connection that does not read them is closed.
    UnsentShed {
        /// Who is at the other end.
        who: Principal,
        /// Bytes that it had not taken.
        unsent_bytes: usize,
    },
    /// How far the warm start is.
    WarmAdmission {
        /// Keys of the last run.
        keys: u64,
        /// Of them, keys whose loading has not begun.
        left: u64,
        /// How long it took, once it is done.
        took_ms: Option<u64>,
    },
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyChange {
    /// Versions below this one are gone.
    Trimmed(u32),
    /// This version is revoked.
    VersionRevoked(u32),
    /// The whole key is revoked.
    Revoked,
    /// It is deleted.
    Deleted,
    /// An import replaced a damaged record.
    Restored,
}
