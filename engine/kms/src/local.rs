//! The embedded default: a KEK file on this machine, under a passphrase or under a secret that exists only as shares.
//!
//! While it is unlocked, all KEK versions are in memory, in secrets that wipe themselves; the file is read again at each
//! unlock, and nothing else of it is kept. Argon2id and file writes run on the runtime's blocking threads, one at a time:
//! each takes 64 MiB and some tenths of a second.

mod kek_file;
mod keyring;
mod new_file;
mod opening;
mod quorum;
mod seal;

#[cfg(test)]
mod shares_tests;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::hex::{self, Hex};
use crate::private_file::Place;
use crate::provider::{
    Initialise, Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret, Unlocked,
    Wrapped,
};
use crate::secret::fill_random;
use crate::{Class, Context, KmsError, Passphrase, SecretKey, Share};

use kek_file::{FILE_BYTES_MAX, Guard, KekFile, Keks};
use keyring::{Keyring, open_keks, single_key};
use new_file::{NewFile, new_file, new_unprotected};
use quorum::{ShareQuorum, distinct, spawn_quorum_expiry};
pub use seal::Argon2Params;
use seal::WrapNames;

/// Longest wait of a share for those given just before it.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Suggested wait if another unlock is running: about the duration of one.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether an unprotected KEK is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevKek {
    /// `--dev`: it is accepted.
    Allow,
    /// It is refused.
    Refuse,
}

/// The local KMS. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct Local(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    place: Place,
    dev: DevKek,
    random: SystemRandom,
    state: Mutex<State>,
    /// Held while running Argon2id or writing the file.
    slow_work: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    /// `None` if there was no KEK file when it was last checked.
    file: Option<KnownFile>,
    /// `None` while locked. Never `Some` without `file`.
    keks: Option<Keyring>,
    gathering: ShareQuorum,
    /// Whether a task is running that wipes the shares in time.
    has_wiper: bool,
    /// Calls of `lock()` so far: an unlock that began before the latest one must not take effect after it.
    lock_count: u64,
}

/// The properties of the file that are readable without a secret.
#[derive(Clone, Copy, Debug)]
struct KnownFile {
    id: [u8; 16],
    guard: Guard,
}

impl KnownFile {
    fn of(file: &KekFile) -> Self {
        Self {
            id: file.id.0,
            guard: file.guard(),
        }
    }
}

impl Local {
    /// Creates a KEK file under a passphrase, with one random KEK, and opens it unlocked. The directory must exist and be
    /// writable only by this user; it is an error if the file exists.
    pub async fn create(
        path: &Path,
        passphrase: Passphrase,
        argon2id: Argon2Params,
    ) -> Result<Self, KmsError> {
        let place = Place::open(path)?;
        blocking(move || {
            let how = Initialise::Passphrase(passphrase);
            let new = new_file(&SystemRandom::new(), how, argon2id)?;
            place.create(&new.file.to_text()?)?;
            let known = KnownFile::of(&new.file);
            Ok(Self::with(
                place,
                DevKek::Refuse,
                Some(known),
                Some(new.keyring),
            ))
        })
        .await
    }

    /// Creates an unprotected KEK file, for `--dev`, and opens it unlocked. Blocks for a few file operations.
    pub fn create_unprotected(path: &Path) -> Result<Self, KmsError> {
        let place = Place::open(path)?;
        let file = new_unprotected(&SystemRandom::new())?;
        place.create(&file.to_text()?)?;
        Self::open(path, DevKek::Allow)
    }

    /// Opens a KEK file: locked if a secret guards it, unlocked if it is unprotected. Loose permissions, a corrupt file
    /// and, unless `dev` allows it, an unprotected KEK are refused. Blocks for a few file operations.
    pub fn open(path: &Path, dev: DevKek) -> Result<Self, KmsError> {
        Self::open_at(Place::open(path)?, dev)
    }

    /// As [`Local::open`], but if there is no file, the provider awaits [`Provider::initialise`]: it is locked, and
    /// [`Provider::unlock_need`] returns [`UnlockNeed::Initialise`]. The next unlock uses a file that was created in the
    /// meantime.
    pub fn open_or_uninitialised(path: &Path, dev: DevKek) -> Result<Self, KmsError> {
        let place = Place::open(path)?;
        if place.is_missing()? {
            return Ok(Self::with(place, dev, None, None));
        }
        Self::open_at(place, dev)
    }

    fn open_at(place: Place, dev: DevKek) -> Result<Self, KmsError> {
        let file = read(&place, dev)?;
        let known = KnownFile::of(&file);
        let keks = match known.guard {
            Guard::Nothing => Some(open_keks(file, None)?),
            Guard::Passphrase | Guard::Shares { .. } => None,
        };
        Ok(Self::with(place, dev, Some(known), keks))
    }

    fn with(place: Place, dev: DevKek, file: Option<KnownFile>, keks: Option<Keyring>) -> Self {
        let state = State {
            file,
            keks,
            gathering: ShareQuorum::default(),
            has_wiper: false,
            lock_count: 0,
        };
        Self(Arc::new(Shared {
            place,
            dev,
            random: SystemRandom::new(),
            state: Mutex::new(state),
            slow_work: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Runs `work` alone on a blocking thread, and passes it the lock count from before. It continues if the caller
    /// leaves.
    async fn slow<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>, u64) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let permit = self.0.slow_work.clone().try_acquire_owned();
        self.slow_with(permit.map_err(|_| busy())?, work).await
    }

    /// As above, after those that are running: several holders may give shares together, and none is refused.
    async fn slow_in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>, u64) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let permit = self.0.slow_work.clone().acquire_owned();
        match tokio::time::timeout(TURN_WAIT_MAX, permit).await {
            Ok(Ok(permit)) => self.slow_with(permit, work).await,
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }

    async fn slow_with<T: Send + 'static>(
        &self,
        permit: OwnedSemaphorePermit,
        work: impl FnOnce(&Arc<Shared>, u64) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let shared = self.0.clone();
        let lock_count = shared.state().lock_count;
        blocking(move || {
            let result = work(&shared, lock_count);
            drop(permit);
            result
        })
        .await
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is one assignment, so a panic elsewhere leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file, which must be the same as at the start, if there was one.
    fn read(&self) -> Result<KekFile, KmsError> {
        let known_id = self.state().file.map(|known| known.id);
        if known_id.is_none() && self.place.is_missing()? {
            return Err(no_kek_yet(Class::Misconfigured));
        }
        let file = read(&self.place, self.dev)?;
        if let Some(id) = known_id.filter(|id| *id != file.id.0) {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "{} is another KEK file now: id {}, and {} at the start",
                    self.place.path().display(),
                    hex::encode(&file.id.0),
                    hex::encode(&id)
                ),
                "restore the file, or restart",
            ));
        }
        self.state().file = Some(KnownFile::of(&file));
        Ok(file)
    }

    /// Creates the file if there is none. If the KMS is locked in the meantime, the file is created and stays locked.
    fn initialise(&self, lock_count: u64, how: Initialise) -> Result<Vec<Share>, KmsError> {
        let path = self.place.path().display();
        if !self.place.is_missing()? {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!("{path} exists already"),
                "unlock it as it is; a key that is overwritten loses everything wrapped under it",
            ));
        }
        if let Some(known) = self.state().file {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "{path} is gone: KEK file {} was there at the start",
                    hex::encode(&known.id)
                ),
                "restore the file; to begin with a new one, restart first",
            ));
        }
        let NewFile {
            file,
            keyring,
            shares,
        } = new_file(&self.random, how, Argon2Params::default())?;
        self.place.create(&file.to_text()?).map_err(|error| {
            // The file may exist even so, if only its directory could not be synced.
            let remedy = format!(
                "{}; if this attempt left a file, move it away: its secret is lost",
                error.remedy()
            );
            match error.class() {
                Class::Unavailable { .. } if !shares.is_empty() => {
                    KmsError::new(error.class(), error.what(), remedy)
                }
                _ => error,
            }
        })?;
        let mut state = self.state();
        state.file = Some(KnownFile::of(&file));
        if state.lock_count == lock_count {
            state.keks = Some(keyring);
        }
        Ok(shares)
    }

    fn unlock(&self, lock_count: u64, secret: &UnlockSecret) -> Result<Unlocked, KmsError> {
        let file = self.read()?;
        let key = match (&file.keks, secret) {
            (Keks::Shares(shares), UnlockSecret::Share(share)) => {
                let members = self.gather(lock_count, shares, share)?;
                let threshold = shares.threshold;
                let given = distinct(&members);
                if given < threshold {
                    return Ok(Unlocked::MoreShares { given, threshold });
                }
                Some(self.open_with_shares(shares, &members)?)
            }
            _ => single_key(&file, secret)?,
        };
        let keyring = open_keks(file, key.as_ref())?;
        let mut state = self.state();
        if state.lock_count != lock_count {
            return Err(locked_meanwhile());
        }
        state.keks = Some(keyring);
        state.gathering.clear();
        Ok(Unlocked::Open)
    }

    fn wrap(&self, context: &Context, dek: &SecretKey) -> Result<Wrapped, KmsError> {
        let mut salt = [0; 32];
        fill_random(&self.random, &mut salt)?;
        let state = self.state();
        let (file_id, keyring) = state.open()?;
        let (kek_version, kek) = keyring.newest();
        let names = WrapNames {
            kek_version,
            file_id,
        };
        Ok(Wrapped(seal::wrap_dek(kek, names, &salt, context, dek)))
    }

    fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretKey, KmsError> {
        let names = WrapNames::parse(wrapped).ok_or_else(|| {
            KmsError::new(
                Class::Corrupt,
                format!(
                    "the wrapped key of {context} was not made by the local KMS ({} bytes)",
                    wrapped.len()
                ),
                "check which KMS the keyspace uses; restore the wrapped key from a backup",
            )
        })?;
        let state = self.state();
        let (file_id, keyring) = state.open()?;
        if names.file_id != file_id {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "the key of {context} was wrapped under KEK file {}, and this one is {}",
                    hex::encode(&names.file_id),
                    hex::encode(&file_id)
                ),
                "restore the KEK file that belongs to this data",
            ));
        }
        let kek = keyring.find(names.kek_version).ok_or_else(|| {
            KmsError::new(
                Class::Misconfigured,
                format!(
                    "the key of {context} was wrapped under KEK version {}, and the file has none newer than {}",
                    names.kek_version,
                    keyring.newest().0
                ),
                "restore the newest copy of the KEK file",
            )
        })?;
        seal::unwrap_dek(kek, context, wrapped).ok_or_else(|| {
            KmsError::new(
                Class::Corrupt,
                format!("the wrapped key of {context} was changed, or belongs to another keyspace or cluster"),
                "restore it from a backup",
            )
        })
    }
}

impl State {
    /// Returns the file's id and its KEKs, if they are in memory.
    fn open(&self) -> Result<([u8; 16], &Keyring), KmsError> {
        match (&self.file, &self.keks) {
            (Some(file), Some(keyring)) => Ok((file.id, keyring)),
            (None, _) => Err(no_kek_yet(Class::Locked)),
            (Some(file), None) => Err(KmsError::new(
                Class::Locked,
                "the local KMS is locked",
                match file.guard {
                    Guard::Nothing => UnlockNeed::Nothing,
                    Guard::Passphrase => UnlockNeed::Passphrase,
                    Guard::Shares { threshold } => UnlockNeed::Shares {
                        given: 0,
                        threshold,
                    },
                }
                .remedy(),
            )),
        }
    }
}

impl Provider for Local {
    fn name(&self) -> &'static str {
        "local"
    }

    fn state(&self) -> ProviderState {
        if self.0.state().keks.is_some() {
            ProviderState::Unlocked
        } else {
            ProviderState::Locked
        }
    }

    fn is_unprotected(&self) -> bool {
        let file = self.0.state().file;
        file.is_some_and(|file| file.guard == Guard::Nothing)
    }

    fn unlock_need(&self) -> UnlockNeed {
        let mut state = self.0.state();
        match state.file.map(|file| file.guard) {
            None => UnlockNeed::Initialise,
            Some(Guard::Nothing) => UnlockNeed::Nothing,
            Some(Guard::Passphrase) => UnlockNeed::Passphrase,
            Some(Guard::Shares { threshold }) => UnlockNeed::Shares {
                given: state.gathering.given(Instant::now(), threshold),
                threshold,
            },
        }
    }

    fn wrap<'a>(&'a self, context: &'a Context, dek: &'a SecretKey) -> ProviderFuture<'a, Wrapped> {
        Box::pin(async move { self.0.wrap(context, dek) })
    }

    fn unwrap<'a>(
        &'a self,
        context: &'a Context,
        wrapped: &'a [u8],
    ) -> ProviderFuture<'a, SecretKey> {
        Box::pin(async move { self.0.unwrap(context, wrapped) })
    }

    fn initialise(&self, how: Initialise) -> ProviderFuture<'_, Vec<Share>> {
        Box::pin(self.slow(move |shared, lock_count| shared.initialise(lock_count, how)))
    }

    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, Unlocked> {
        let is_share = matches!(secret, UnlockSecret::Share(_));
        let work = move |shared: &Arc<Shared>, lock_count| {
            let unlocked = shared.unlock(lock_count, &secret);
            if is_share && shared.state().gathering.deadline().is_some() {
                spawn_quorum_expiry(shared);
            }
            unlocked
        };
        if is_share {
            Box::pin(self.slow_in_turn(work))
        } else {
            Box::pin(self.slow(work))
        }
    }

    fn lock(&self) {
        let mut state = self.0.state();
        state.lock_count += 1;
        state.keks = None;
        state.gathering.clear();
    }
}

fn busy() -> KmsError {
    KmsError::new(
        Class::Throttled {
            retry_after: Some(BUSY_RETRY_AFTER),
        },
        "another unlock, rotation or passphrase change of the local KMS is running",
        "try again in a second",
    )
}

fn read(place: &Place, dev: DevKek) -> Result<KekFile, KmsError> {
    let file = KekFile::parse(&place.read(FILE_BYTES_MAX)?)?;
    if file.guard() == Guard::Nothing && dev == DevKek::Refuse {
        return Err(KmsError::new(
            Class::Misconfigured,
            format!(
                "the KEK in {} is unprotected: it was made by --dev",
                place.path().display()
            ),
            "start with --dev, give the KEK a passphrase, or use another data directory",
        ));
    }
    Ok(file)
}

fn random_id(random: &SystemRandom) -> Result<Hex<16>, KmsError> {
    let mut id = [0; 16];
    fill_random(random, &mut id)?;
    Ok(Hex(id))
}

fn no_kek_yet(class: Class) -> KmsError {
    KmsError::new(
        class,
        "the local KMS has no KEK yet",
        "make one: keyway kms init; or restore the KEK file that belongs to this data",
    )
}

fn locked_meanwhile() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the local KMS was locked while it was being unlocked",
        "unlock it again",
    )
}

fn now_unix_ms() -> u64 {
    // A clock before 1970 is wrong in any case, and the time is only informative.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KmsError> + Send + 'static,
) -> Result<T, KmsError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(KmsError::new(
            Class::Unavailable { retry_after: None },
            "the local KMS was interrupted: its thread panicked, or the process is shutting down",
            "try again; report it if it happens again",
        ))
    })
}
