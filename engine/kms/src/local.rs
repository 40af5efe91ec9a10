//! The embedded default: a KEK file on this machine, under a passphrase.
//!
//! While it is unlocked, all KEK versions are in memory, in secrets that wipe themselves; the file is read again at each
//! unlock and nothing else of it is kept. Argon2id and file writes run on the runtime's blocking threads, and one at a
//! time: each takes 64 MiB and some tenths of a second.

mod kek_file;
mod keyring;
mod seal;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::hex::{self, Hex, HexSecret};
use crate::private_file::Place;
use crate::provider::{
    Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret, Unlocked, Wrapped,
};
use crate::secret::fill_random;
use crate::{Class, Context, KmsError, Passphrase, SecretKey};

use kek_file::{FILE_BYTES_MAX, KekFile, Keks, PlainKek, Unprotected};
use keyring::{Keyring, open_keks, passphrase_key, passphrase_wanted, protect, seal_kek};
pub use seal::Argon2Params;
use seal::WrapNames;

/// How soon to try again when another unlock is running: about what one takes.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether a KEK without protection will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DevKek {
    /// `--dev`: it will.
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
    file_id: [u8; 16],
    dev: DevKek,
    random: SystemRandom,
    state: Mutex<State>,
    /// Held by whoever runs Argon2id or writes the file.
    slow_work: Arc<Semaphore>,
}

#[derive(Debug)]
struct State {
    keks: Option<Keyring>,
    is_unprotected: bool,
    /// Calls of `lock()` so far: what began before the latest one must not unlock after it.
    lock_count: u64,
}

impl Local {
    /// Makes a KEK file under a passphrase, with one KEK from the operating system's random numbers, and opens it
    /// unlocked. The directory must exist and be ours alone to write; a file that exists already is an error.
    pub async fn create(
        path: &Path,
        passphrase: Passphrase,
        argon2id: Argon2Params,
    ) -> Result<Self, KmsError> {
        let place = Place::open(path)?;
        blocking(move || {
            let random = SystemRandom::new();
            let keyring = Keyring(vec![(1, SecretKey::generate(&random)?)]);
            let file = protect(
                &random,
                random_id(&random)?,
                &[now_unix_ms()],
                &keyring,
                &passphrase,
                argon2id,
            )?;
            place.create(&file.to_text()?)?;
            Ok(Self::with(place, &file, DevKek::Refuse, Some(keyring)))
        })
        .await
    }

    /// Makes an unprotected KEK file, for `--dev`, and opens it unlocked. Blocks for a few file operations.
    pub fn create_unprotected(path: &Path) -> Result<Self, KmsError> {
        let place = Place::open(path)?;
        let random = SystemRandom::new();
        let kek = SecretKey::generate(&random)?;
        let plain = PlainKek {
            version: 1,
            created_unix_ms: now_unix_ms(),
            key: HexSecret(kek),
        };
        let file = KekFile::new(
            random_id(&random)?,
            Keks::Unprotected(Unprotected {
                versions: vec![plain],
            }),
        );
        place.create(&file.to_text()?)?;
        Self::open(path, DevKek::Allow)
    }

    /// Opens a KEK file: locked if a passphrase guards it, unlocked if it is unprotected. Loose permissions, a damaged
    /// file and, unless `dev` allows it, an unprotected KEK are refused. Blocks for a few file operations.
    pub fn open(path: &Path, dev: DevKek) -> Result<Self, KmsError> {
        let place = Place::open(path)?;
        let file = read(&place, dev)?;
        let opened = Self::with(place, &file, dev, None);
        if file.is_unprotected() {
            opened.0.state().keks = Some(open_keks(file, None)?);
        }
        Ok(opened)
    }

    fn with(place: Place, file: &KekFile, dev: DevKek, keks: Option<Keyring>) -> Self {
        let state = State {
            keks,
            is_unprotected: file.is_unprotected(),
            lock_count: 0,
        };
        Self(Arc::new(Shared {
            place,
            file_id: file.id.0,
            dev,
            random: SystemRandom::new(),
            state: Mutex::new(state),
            slow_work: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Adds a KEK version and returns it. New wraps use it at once; the older versions stay, for what they wrapped. A
    /// protected file wants its passphrase, locked or not.
    pub async fn rotate_kek(&self, secret: UnlockSecret) -> Result<u32, KmsError> {
        self.slow(move |shared, lock_count| {
            let mut file = shared.read()?;
            let version = file.next_version()?;
            let kek = SecretKey::generate(&shared.random)?;
            let created_unix_ms = now_unix_ms();
            let key = passphrase_key(&file, &secret)?;
            match (&mut file.keks, &key) {
                (Keks::Protected(protected), Some(key)) => {
                    let sealed = seal_kek(
                        &shared.random,
                        key,
                        protected,
                        &file.id,
                        version,
                        created_unix_ms,
                        &kek,
                    )?;
                    protected.versions.push(sealed);
                }
                (Keks::Unprotected(unprotected), _) => {
                    unprotected.versions.push(PlainKek {
                        version,
                        created_unix_ms,
                        key: HexSecret(kek),
                    });
                }
                (Keks::Protected(_), None) => return Err(passphrase_wanted()),
            }
            let file = KekFile::new(file.id, file.keks);
            let text = file.to_text()?;
            // Every version opens before the old file is given up.
            let keyring = open_keks(file, key.as_ref())?;
            shared.place.replace(&text)?;
            shared.refresh(keyring, lock_count);
            Ok(version)
        })
        .await
    }

    /// Wraps every KEK version anew under `new`. What was wrapped under the KEKs stays as it is. An unprotected file
    /// becomes a protected one. Old copies of the file still open with the old passphrase.
    pub async fn change_passphrase(
        &self,
        current: UnlockSecret,
        new: Passphrase,
        argon2id: Argon2Params,
    ) -> Result<(), KmsError> {
        self.slow(move |shared, lock_count| {
            let file = shared.read()?;
            let id = file.id;
            let created = file.created_unix_ms();
            let key = passphrase_key(&file, &current)?;
            let keyring = open_keks(file, key.as_ref())?;
            let file = protect(&shared.random, id, &created, &keyring, &new, argon2id)?;
            shared.place.replace(&file.to_text()?)?;
            shared.state().is_unprotected = false;
            shared.refresh(keyring, lock_count);
            Ok(())
        })
        .await
    }

    /// Runs `work` on a blocking thread, alone. It goes on if the caller leaves; it gets the lock count from before.
    async fn slow<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, u64) -> Result<T, KmsError> + Send + 'static,
    ) -> Result<T, KmsError> {
        let permit: OwnedSemaphorePermit =
            self.0.slow_work.clone().try_acquire_owned().map_err(|_| {
                KmsError::new(
                    Class::Throttled {
                        retry_after: Some(BUSY_RETRY_AFTER),
                    },
                    "another unlock, rotation or passphrase change of the local KMS is running",
                    "try again in a second",
                )
            })?;
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
        // Every change of the state is one assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<KekFile, KmsError> {
        let file = read(&self.place, self.dev)?;
        if file.id.0 != self.file_id {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "{} is another KEK file now: id {}, and {} at the start",
                    self.place.path().display(),
                    hex::encode(&file.id.0),
                    hex::encode(&self.file_id)
                ),
                "put the file back, or restart",
            ));
        }
        Ok(file)
    }

    /// Takes over a newer keyring, if the provider is unlocked and was not locked since `lock_count`.
    fn refresh(&self, keyring: Keyring, lock_count: u64) {
        let mut state = self.state();
        if state.keks.is_some() && state.lock_count == lock_count {
            state.keks = Some(keyring);
        }
    }

    fn unlock(&self, lock_count: u64, secret: &UnlockSecret) -> Result<Unlocked, KmsError> {
        let file = self.read()?;
        let is_unprotected = file.is_unprotected();
        let key = passphrase_key(&file, secret)?;
        let keyring = open_keks(file, key.as_ref())?;
        let mut state = self.state();
        if state.lock_count != lock_count {
            return Err(KmsError::new(
                Class::Locked,
                "the local KMS was locked while it was being unlocked",
                "unlock it again",
            ));
        }
        state.keks = Some(keyring);
        state.is_unprotected = is_unprotected;
        Ok(Unlocked::Open)
    }

    fn wrap(&self, context: &Context, dek: &SecretKey) -> Result<Wrapped, KmsError> {
        let mut salt = [0; 32];
        fill_random(&self.random, &mut salt)?;
        let state = self.state();
        let (kek_version, kek) = state.keks.as_ref().ok_or_else(locked)?.newest();
        let names = WrapNames {
            kek_version,
            file_id: self.file_id,
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
        let keyring = state.keks.as_ref().ok_or_else(locked)?;
        if names.file_id != self.file_id {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "the key of {context} was wrapped under KEK file {}, and this one is {}",
                    hex::encode(&names.file_id),
                    hex::encode(&self.file_id)
                ),
                "put the KEK file back that belongs to this data",
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
                "put the newest copy of the KEK file back",
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
        self.0.state().is_unprotected
    }

    fn unlock_need(&self) -> UnlockNeed {
        if self.is_unprotected() {
            UnlockNeed::Nothing
        } else {
            UnlockNeed::Passphrase
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

    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, Unlocked> {
        Box::pin(self.slow(move |shared, lock_count| shared.unlock(lock_count, &secret)))
    }

    fn lock(&self) {
        let mut state = self.0.state();
        state.lock_count += 1;
        state.keks = None;
    }
}

fn read(place: &Place, dev: DevKek) -> Result<KekFile, KmsError> {
    let file = KekFile::parse(&place.read(FILE_BYTES_MAX)?)?;
    if file.is_unprotected() && dev == DevKek::Refuse {
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

fn locked() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the local KMS is locked",
        "unlock it: keyway unlock KEYSPACE",
    )
}

fn now_unix_ms() -> u64 {
    // A clock before 1970 is wrong in any case, and the figure is for people only.
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
            "try again; report it if it comes back",
        ))
    })
}
