//! The one synchronous seam of a shard: the keys, the index of the log, and the clock.
//!
//! Dispatch is static: the server's port is keys in locked memory, the simulator's is labels.

use keyway_core::{Instant, Loaded};
use keyway_protocol::{Algorithm, KeyVersions, Material, NewKey, Request, RequestFrame, Status};
use zeroize::Zeroizing;

use super::key_use::Use;
use crate::messages::DekBytes;

/// What a shard does with keys itself, without waiting for anything.
pub trait Port {
    /// An unlocked key. Its `Drop` wipes it.
    type Key;
    /// A data encryption key. Its `Drop` wipes it.
    type Dek;

    /// Reads `CLOCK_BOOTTIME` itself, never a cached reading.
    fn now(&self) -> Instant;

    /// Reads the wall clock, in ms since the Unix epoch.
    fn unix_ms(&self) -> u64;

    /// Returns how long an operation will hold the shard up, and what has to be done before it.
    fn cost(&self, key: &Self::Key, operation: &Operation<'_>) -> Cost;

    /// Appends an operation's result to `out`. Returns the version of the key that was used.
    ///
    /// # Errors
    /// The key cannot do this. What was appended is taken back by the caller.
    fn perform(
        &self,
        with: Use<'_, Self::Key>,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError>;

    /// Moves a DEK to where keys are kept.
    ///
    /// # Errors
    /// There is no room. The bytes are wiped in any case.
    fn take_dek(&self, dek: Box<DekBytes>) -> Result<Self::Dek, NoRoom>;

    /// Opens a blob.
    ///
    /// # Errors
    /// It does not open, or there is no room for the key.
    fn open(
        &self,
        dek: &Self::Dek,
        name: Name<'_>,
        blob: &Blob,
        now: Instant,
    ) -> Result<Loaded<Self::Key>, OpenError>;

    /// Seals a blob under a DEK. `None`: the blob is as it should be already.
    ///
    /// # Errors
    /// What was asked for cannot be done.
    fn seal(
        &self,
        under: &Self::Dek,
        name: Name<'_>,
        what: Seal<'_, Self::Dek>,
    ) -> Result<Option<Sealed>, WriteError>;

    /// Reads the head of a blob, which is not authenticated.
    ///
    /// # Errors
    /// It is no blob. Says why.
    fn head_of(&self, blob: &[u8]) -> Result<BlobHead, String>;

    /// Checks whether a key can be made so, and whether its generation is slow: see [`super::Effect::Generate`].
    ///
    /// # Errors
    /// This node cannot make such a key.
    fn can_make(&self, algorithm: Option<u8>) -> Result<Making, WriteError>;

    /// Returns what the log's index holds of a key. In memory, no I/O.
    fn known(&self, name: Name<'_>) -> Option<Known>;

    /// Has the log revoke a key: from now on it answers so, and is going to write it down. In memory, no I/O.
    /// `takes_reserve`: also if only the space that is reserved for the operator is left.
    ///
    /// # Errors
    /// Nothing has changed.
    fn revoke(&self, name: Name<'_>, unix_ms: u64, takes_reserve: bool) -> Result<(), WriteError>;

    /// Has the log revoke one version of a key, as [`Port::revoke`] does the whole. [`Port::open`] leaves it out from now on.
    ///
    /// # Errors
    /// Nothing has changed.
    fn revoke_version(
        &self,
        name: Name<'_>,
        version: u32,
        unix_ms: u64,
        takes_reserve: bool,
    ) -> Result<(), WriteError>;

    /// Called where a test may plant a panic.
    #[inline(always)]
    fn panic_if_planted(&self, _place: &'static str, _key_id: &[u8]) {}
}

/// A key's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name<'a> {
    /// Its keyspace.
    pub keyspace: u32,
    /// Its id in it.
    pub key_id: &'a [u8],
}

/// A request that uses a key.
#[derive(Clone, Copy)]
pub struct Operation<'a> {
    /// As it came.
    pub frame: &'a RequestFrame<'a>,
    /// Decoded.
    pub request: &'a Request<'a>,
}

/// How long an operation holds its shard up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Below about 0.1 ms.
    Fast,
    /// 0.1 to 5 ms: one in a turn.
    Slow,
    /// It waits until the next uses of this version of the key are written down.
    Unreserved {
        /// Which version.
        version: u32,
    },
}

/// How a key is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// While sealing.
    Quick,
    /// It takes up to seconds: beside the shard.
    Slow,
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpError {
    /// The answer's status.
    pub status: Status,
    /// Its explanation.
    pub explanation: String,
}

/// There is no room for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom(pub String);

/// Why a blob did not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no room for the key now.
    NoRoom(String),
    /// It never will.
    Corrupt(String),
}

/// What is to be sealed.
pub enum Seal<'a, D> {
    /// A key's first version.
    New {
        /// What it is to be like.
        new_key: &'a NewKey,
        /// Where the secret comes from.
        secret: Secret<'a>,
        /// The number of its first version.
        first_version: u32,
    },
    /// A blob with one more version.
    Rotated(&'a Blob, &'a D, Secret<'a>),
    /// A blob without its versions below this one.
    Trimmed(&'a Blob, &'a D, u32),
    /// The same blob.
    Resealed(&'a [u8], &'a D),
}

/// Where a new version's secret comes from.
#[derive(Clone, Copy)]
pub enum Secret<'a> {
    /// Made while sealing.
    Generated,
    /// Made before, as PKCS#8 DER.
    Pkcs8(&'a [u8]),
    /// Given by the client.
    Imported(&'a Material<'a>),
}

/// A sealed blob.
#[derive(Debug)]
pub struct Sealed {
    /// The newest version in it.
    pub version: u32,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A blob as the log holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The newest key version that it holds.
    pub version: u32,
    /// Orders all writes of the log.
    pub revision: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What the head of a blob says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// Generation of the DEK that it is sealed under.
    pub dek_generation: u32,
    /// Code of the key's algorithm.
    pub algorithm: u8,
    /// The versions that the key has, if the blob's format tells them.
    pub versions: Option<KeyVersions>,
}

impl BlobHead {
    /// Returns the algorithm, as the protocol names it.
    #[must_use]
    pub fn protocol_algorithm(&self) -> Option<Algorithm> {
        Algorithm::try_from(self.algorithm).ok()
    }
}

/// What the log has of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The newest key version.
    pub version: u32,
    /// Revision of the newest record.
    pub revision: u64,
    /// Whether it can be used.
    pub state: KeyState,
}

/// Whether a key of the log can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// It can.
    Live,
    /// Revoked permanently.
    Revoked,
    /// Deleted after it was revoked: its id may be used again.
    Deleted,
    /// Its record cannot be read.
    Damaged,
}

/// What a read found.
#[derive(Debug)]
pub enum Found {
    /// The blob.
    Blob(Blob),
    /// No such key.
    Missing,
    /// The key is revoked.
    Revoked,
}

/// Why a read brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// What was read is not what was written.
    Damaged(String),
    /// The disk failed.
    Io(String),
}

/// What a put expects to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No such key, or one that was deleted.
    Absent,
    /// The key has this version, and this is the revision of its newest record.
    Revision(u32, u64),
}

/// What is to be written to the log.
#[derive(Debug)]
pub enum Write {
    /// A blob.
    Blob {
        /// What it holds.
        sealed: Sealed,
        /// What it replaces.
        expect: Expect,
    },
    /// A revocation that [`Port::revoke`] has let in.
    Revocation,
    /// The same of this version, which [`Port::revoke_version`] has let in.
    VersionRevocation(u32),
    /// That a revoked key is gone.
    Deletion,
}

/// A page of the log.
#[derive(Debug, Default)]
pub struct Page {
    /// Keys in the order of the log.
    pub rows: Vec<Row>,
    /// Where the next page begins; empty at the end.
    pub cursor: Vec<u8>,
    /// A write failed and may still be in the log: the next start may find records that the rows do not show.
    pub unsettled: bool,
}

/// A key in a page.
#[derive(Debug)]
pub struct Row {
    /// Its id.
    pub key_id: Vec<u8>,
    /// Its durable blob. A revoked key has one until its revocation is durable. Empty if there is none, or if it is
    /// damaged.
    pub blob: Blob,
    /// Whether it can be used.
    pub state: KeyState,
    /// Versions that the log says are revoked, beside those of the blob: bit `i` for the version `i` below the newest.
    pub revoked: u128,
}

/// A secret that was generated beside the shard: PKCS#8 DER.
pub type Generated = Zeroizing<Vec<u8>>;

/// What a write to a key can end with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// No DEK is held to seal under.
    DekMissing,
    /// The key exists, or was changed at the same time.
    Conflict(String),
    /// There is no such key.
    NotFound,
    /// It is revoked.
    Revoked,
    /// The material or what was asked of it is wrong.
    Bad(String),
    /// A queue or the arena is full.
    Overloaded(String),
    /// The stored blob cannot be opened.
    Invalid(String),
    /// The store cannot be read or written now. Nothing has changed.
    Store(String),
    /// Ours, or the disk's in a way that leaves open whether the write was done.
    Unknown(String),
    /// It holds, and could not be written yet.
    NotPersisted(String),
}
