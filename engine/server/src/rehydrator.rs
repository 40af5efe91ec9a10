//! Between the blob log and the unlocked keys: reads a blob and opens it under the keyspace's DEK,
//! and the way back, sealing and storing.
//!
//! The only module that knows both the store and the keys that come out of the KMS's DEKs.

mod floor;
mod reseal;
mod uses;
mod versions;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use futures_lite::FutureExt;
use keyway_core::{Instant, LoadError, Loaded, Refusal};
use keyway_keys::{
    Algorithm, Context, Dek, ImportFormat, KeyError, NewKey, OpenError, UnlockedKey, UseLedger,
    Vault, generate_rsa_pkcs8, peek,
};
use keyway_protocol::Status;
use keyway_store::{BlobLog, Expect, KeyState, Lookup, PutError, ReadError};

use crate::clock;
use crate::runtime::files::RingFiles;
use crate::runtime::tasks;

pub use floor::{SealFloors, SealUnderWay};
pub use reseal::{ResealPage, ResealWork};

/// Reads of the blob log in flight on one shard: more only queue in the kernel.
pub const READS_MAX: usize = 16;

/// Of these, reads that refreshes ahead of need may have in flight. A scan starts many at once;
/// all together they would only hold each other up.
pub const PREFETCH_READS_MAX: usize = 2;

/// Retired DEKs that are asked for at a time; blobs that need others ask again.
const RETIRED_WANTED_MAX: usize = 64;

const _: () = assert!(PREFETCH_READS_MAX < READS_MAX);

/// A read under way.
pub struct ReadSlot(Rc<Cell<usize>>);

impl Drop for ReadSlot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// What a write to a key can end with.
#[derive(Debug)]
pub enum WriteError {
    /// The right to it was withdrawn before it began.
    Denied(Status, &'static str),
    /// It may not begin any more: its deadline has passed, or its keyspace was locked.
    Refused(Refusal),
    /// No DEK is at hand to seal under.
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

/// Where a new version's secret comes from.
#[derive(Debug)]
pub enum Source<'a> {
    /// Made here.
    Generate,
    /// Given by the caller.
    Import(ImportFormat, &'a [u8]),
}

/// A shard's keys at rest.
pub struct Rehydrator {
    vault: Vault,
    log: BlobLog<RingFiles>,
    uses: UseLedger,
    deks: RefCell<HashMap<u32, BTreeMap<u32, Dek>>>,
    reads: Rc<Cell<usize>>,
    floors: SealFloors,
    retired_wanted: RefCell<BTreeSet<(u32, u32)>>,
}

impl Rehydrator {
    /// Over a shard's arena and log.
    pub fn new(vault: Vault, log: BlobLog<RingFiles>) -> Self {
        Rehydrator {
            vault,
            log,
            uses: UseLedger::new(),
            deks: RefCell::default(),
            reads: Rc::default(),
            floors: SealFloors::default(),
            retired_wanted: RefCell::default(),
        }
    }

    /// The blob log, for figures, compaction and closing.
    pub fn log(&self) -> &BlobLog<RingFiles> {
        &self.log
    }

    /// The arena's figures.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// The most encryptions that an AEAD key has done under its newest version since the start, by keyspace.
    pub fn most_encryptions(&self) -> BTreeMap<u32, u64> {
        self.uses.most_encryptions()
    }

    /// Keeps a DEK until [`Rehydrator::drop_deks`]. `bytes` are wiped.
    ///
    /// Errors: the arena is full.
    pub fn hold_dek(
        &self,
        keyspace: u32,
        generation: u32,
        bytes: &mut [u8; 32],
    ) -> Result<(), String> {
        let dek = self
            .vault
            .dek(generation, bytes)
            .map_err(|error| error.to_string())?;
        self.deks
            .borrow_mut()
            .entry(keyspace)
            .or_default()
            .insert(generation, dek);
        Ok(())
    }

    /// Wipes a keyspace's DEKs.
    pub fn drop_deks(&self, keyspace: u32) {
        self.deks.borrow_mut().remove(&keyspace);
    }

    /// Wipes the DEKs of generations below `generation`: no blob needs them any more.
    pub fn retire_deks(&self, keyspace: u32, generation: u32) {
        if let Some(deks) = self.deks.borrow_mut().get_mut(&keyspace) {
            deks.retain(|held, _| *held >= generation);
        }
    }

    /// Under which DEKs blobs may be sealed.
    pub fn floors(&self) -> &SealFloors {
        &self.floors
    }

    /// Whether a DEK of the keyspace is held.
    pub fn has_dek(&self, keyspace: u32) -> bool {
        self.deks.borrow().contains_key(&keyspace)
    }

    /// Notes that a blob is sealed under a DEK that the KMS's last answer did not bring.
    fn want_retired(&self, keyspace: u32, generation: u32) {
        let mut wanted = self.retired_wanted.borrow_mut();
        if wanted.len() < RETIRED_WANTED_MAX {
            wanted.insert((keyspace, generation));
        }
    }

    /// The DEKs that blobs are sealed under and that are not in use any more, since the last call: keyspaces and
    /// generations.
    pub fn take_retired_wanted(&self) -> BTreeSet<(u32, u32)> {
        std::mem::take(&mut self.retired_wanted.borrow_mut())
    }

    /// Reads under way.
    pub fn reads(&self) -> usize {
        self.reads.get()
    }

    /// Counts a read until the slot is dropped.
    pub fn take_read_slot(&self) -> ReadSlot {
        self.reads.set(self.reads.get() + 1);
        ReadSlot(Rc::clone(&self.reads))
    }

    /// Reads and opens a key. A panic on the way is an answer like any other.
    pub async fn load(
        &self,
        keyspace: u32,
        key_id: &[u8],
        now: Instant,
    ) -> Result<Loaded<UnlockedKey>, LoadError> {
        let loaded = AssertUnwindSafe(self.read_and_open(keyspace, key_id, now))
            .catch_unwind()
            .await;
        loaded.unwrap_or(Err(LoadError::Panicked))
    }

    async fn read_and_open(
        &self,
        keyspace: u32,
        key_id: &[u8],
        now: Instant,
    ) -> Result<Loaded<UnlockedKey>, LoadError> {
        let blob = match self.log.get(keyspace, key_id).await {
            Ok(Lookup::Blob(blob)) => blob,
            Ok(Lookup::Missing) => return Err(LoadError::NotFound),
            Ok(Lookup::Revoked { .. }) => return Err(LoadError::Revoked),
            Err(ReadError::Damaged { .. }) => return Err(LoadError::Corrupt),
            Err(error @ ReadError::Io { .. }) => {
                tracing::warn!(keyspace, %error, "blob log read failed");
                return Err(LoadError::Store);
            }
        };
        let generation = peek(blob.bytes())
            .map_err(|_| LoadError::Corrupt)?
            .dek_generation;
        let context = Context { keyspace, key_id };
        let opened = {
            let deks = self.deks.borrow();
            let deks = deks.get(&keyspace).ok_or(LoadError::DekMissing)?;
            let Some(dek) = deks.get(&generation) else {
                if deks.keys().next_back() > Some(&generation) {
                    self.want_retired(keyspace, generation);
                }
                return Err(LoadError::DekMissing);
            };
            self.vault.open(dek, context, blob.version, blob.bytes())
        };
        let mut key = opened.map_err(|error| {
            if error.is_transient() {
                tracing::error!(keyspace, %error, "a key could not be unlocked for want of room");
                return LoadError::Store;
            }
            tracing::debug!(keyspace, %error, "a blob did not open");
            LoadError::Corrupt
        })?;
        key.count_uses_in(&self.uses, context);
        let metadata = key.metadata();
        let not_after = match metadata.not_after_unix_ms {
            0 => None,
            unix_ms => Some(clock::instant_of_unix_ms(unix_ms, now)),
        };
        Ok(Loaded {
            version: metadata.version,
            dek_generation: metadata.dek_generation,
            key_bytes: key.memory_bytes(),
            not_after,
            value: key,
        })
    }

    /// Makes or imports a key and stores it; durable on return. The version: 1, for an id that had
    /// a key before the next one, and the same again for one whose record is damaged and that is
    /// imported. `may_write` is asked right before the write, after all that
    /// takes time.
    pub async fn create(
        &self,
        keyspace: u32,
        key_id: &[u8],
        algorithm: Option<Algorithm>,
        new: &NewKey,
        source: Source<'_>,
        may_write: impl Fn() -> Result<(), WriteError>,
    ) -> Result<u32, WriteError> {
        // Asked first, so that nobody pays for a key that cannot be stored.
        let place = versions::place_of(
            self.log.version_of(keyspace, key_id),
            matches!(source, Source::Import(..)),
        )?;
        let new = &NewKey {
            first_version: place.version,
            ..*new
        };
        let context = Context { keyspace, key_id };
        let generated = match (&source, algorithm) {
            (Source::Generate, Some(algorithm)) => generate_aside(algorithm).await?,
            _ => None,
        };
        may_write()?;
        let (blob, _under_way) =
            self.with_newest_dek(keyspace, |dek| match (&source, algorithm) {
                (Source::Generate, Some(algorithm)) => match &generated {
                    Some(pkcs8) => self.vault.seal_imported(
                        dek,
                        context,
                        Some(algorithm),
                        ImportFormat::Pkcs8Der,
                        pkcs8,
                        new,
                    ),
                    None => self.vault.seal_generated(dek, context, algorithm, new),
                },
                (Source::Generate, None) => {
                    Err(KeyError::Metadata("generation needs an algorithm"))
                }
                (Source::Import(format, bytes), algorithm) => self
                    .vault
                    .seal_imported(dek, context, algorithm, *format, bytes, new),
            })?;
        let stored = self
            .log
            .put_blob(keyspace, key_id, place.version, blob, place.expect)
            .await?;
        if place.restores {
            tracing::warn!(keyspace, key = %String::from_utf8_lossy(key_id), version = stored.version, "damaged key restored by an import");
        }
        Ok(stored.version)
    }

    /// Adds a version to a key and stores it; durable on return. The new version. `may_write` is asked right before the
    /// write, after all that takes time.
    pub async fn rotate(
        &self,
        keyspace: u32,
        key_id: &[u8],
        source: Source<'_>,
        may_write: impl Fn() -> Result<(), WriteError>,
    ) -> Result<u32, WriteError> {
        let current = self.newest_blob(keyspace, key_id).await?;
        let metadata = peek(current.bytes())?;
        let generated = match source {
            Source::Generate => generate_aside(metadata.algorithm).await?,
            Source::Import(..) => None,
        };
        may_write()?;
        let material = match (&generated, &source) {
            (Some(pkcs8), _) => Some((ImportFormat::Pkcs8Der, pkcs8.as_slice())),
            (None, Source::Import(format, bytes)) => Some((*format, *bytes)),
            (None, Source::Generate) => None,
        };
        let context = Context { keyspace, key_id };
        let (blob, version, _under_way) = {
            let deks = self.deks.borrow();
            let deks = deks.get(&keyspace).ok_or(WriteError::DekMissing)?;
            let opener = deks
                .get(&metadata.dek_generation)
                .ok_or(WriteError::DekMissing)?;
            let (newest, sealer) = deks.last_key_value().ok_or(WriteError::DekMissing)?;
            let under_way = self.floors.begin(keyspace, *newest);
            let under_way = under_way.ok_or(WriteError::DekMissing)?;
            let (blob, version) = self.vault.seal_rotated(
                sealer,
                context,
                current.bytes(),
                opener,
                material,
                clock::unix_ms(),
            )?;
            (blob, version, under_way)
        };
        let expect = Expect::Revision(current.version, current.revision);
        let stored = self
            .log
            .put_blob(keyspace, key_id, version, blob, expect)
            .await?;
        Ok(stored.version)
    }

    fn with_newest_dek<T>(
        &self,
        keyspace: u32,
        seal: impl FnOnce(&Dek) -> Result<T, KeyError>,
    ) -> Result<(T, SealUnderWay), WriteError> {
        let deks = self.deks.borrow();
        let newest = deks.get(&keyspace).and_then(|deks| deks.last_key_value());
        let (generation, dek) = newest.ok_or(WriteError::DekMissing)?;
        let under_way = self.floors.begin(keyspace, *generation);
        let under_way = under_way.ok_or(WriteError::DekMissing)?;
        Ok((seal(dek)?, under_way))
    }
}

/// RSA keys take up to seconds to make: off the shard's thread. `None` for the quick ones.
async fn generate_aside(
    algorithm: Algorithm,
) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, WriteError> {
    if !algorithm.is_slow_to_generate() {
        return Ok(None);
    }
    let pkcs8 = tasks::offload(move || generate_rsa_pkcs8(algorithm)).await?;
    Ok(Some(pkcs8))
}

impl From<KeyError> for WriteError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Open(open) => open.into(),
            KeyError::Arena(_) => WriteError::Overloaded(error.to_string()),
            KeyError::Internal(_) => WriteError::Unknown(error.to_string()),
            KeyError::Versions { .. } | KeyError::NewestVersion { .. } => {
                WriteError::Conflict(error.to_string())
            }
            KeyError::NoSuchVersion(_) => WriteError::NotFound,
            _ => WriteError::Bad(error.to_string()),
        }
    }
}

impl From<OpenError> for WriteError {
    fn from(error: OpenError) -> Self {
        if error.is_transient() {
            return WriteError::Overloaded(error.to_string());
        }
        WriteError::Invalid(error.to_string())
    }
}

impl From<PutError> for WriteError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Conflict { .. } => WriteError::Conflict(
                "the key was changed by another request at the same time; look at it, then try \
                 again"
                    .to_owned(),
            ),
            PutError::NotFound => WriteError::NotFound,
            PutError::Revoked => WriteError::Revoked,
            PutError::Overloaded => WriteError::Overloaded(error.to_string()),
            PutError::VersionBehind { .. } | PutError::NotRevoked => {
                WriteError::Conflict(error.to_string())
            }
            PutError::NotPersisted(_) => WriteError::NotPersisted(error.to_string()),
            PutError::Unknown(_) => WriteError::Unknown(error.to_string()),
            _ => WriteError::Store(error.to_string()),
        }
    }
}

/// A page of a keyspace's keys.
pub struct KeyPage {
    /// Keys in the order of the log.
    pub rows: Vec<KeySummary>,
    /// Where the next page begins; empty at the end.
    pub cursor: Vec<u8>,
}

/// A key as lists show it.
pub struct KeySummary {
    /// Its id.
    pub key_id: Vec<u8>,
    /// Its newest version.
    pub version: u32,
    /// Its algorithm's id, as far as the blob says.
    pub algorithm: Option<u8>,
    /// Whether it is revoked.
    pub revoked: bool,
}

impl Rehydrator {
    /// Lists up to `limit` keys of a keyspace from `cursor` on.
    ///
    /// Errors: the cursor is none of ours, or the disk failed.
    pub async fn page(
        &self,
        cursor: &[u8],
        limit: usize,
        keyspace: u32,
    ) -> Result<KeyPage, String> {
        let page = self
            .log
            .list(cursor, limit, Some(keyspace))
            .await
            .map_err(|e| e.to_string())?;
        let rows = page.rows.into_iter().map(|row| KeySummary {
            algorithm: peek(&row.blob).ok().map(|metadata| metadata.algorithm.id()),
            revoked: row.state == KeyState::Revoked,
            key_id: row.key_id,
            version: row.version,
        });
        Ok(KeyPage {
            rows: rows.collect(),
            cursor: page.cursor,
        })
    }
}
