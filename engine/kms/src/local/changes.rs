//! Changes of an existing KEK file: a new KEK version, another passphrase.

use super::kek_file::{KekFile, Keks, PlainKek};
use super::keyring::{Dated, open_keks, protect, seal_kek, secret_wanted, shares_key, single_key};
use super::seal::{Argon2Params, ProtectionKey};
use super::{KnownFile, Local, now_unix_ms};
use crate::hex::HexSecret;
use crate::provider::UnlockSecret;
use crate::shares::read_set;
use crate::{Class, KmsError, Passphrase, SecretKey, Share};

impl Local {
    /// Adds a KEK version and returns it. New wraps use it immediately; older versions remain for the keys they wrapped.
    /// A file under a passphrase needs it, locked or not; one whose secret is split into shares needs
    /// [`Local::rotate_kek_with_shares`].
    pub async fn rotate_kek(&self, secret: UnlockSecret) -> Result<u32, KmsError> {
        self.rotate(move |file| single_key(file, &secret)).await
    }

    /// As [`Local::rotate_kek`], for a file whose secret is split into shares: exactly as many different shares as the
    /// threshold, in one call, locked or not. Shares given to an unlock do not count here, and these do not count there.
    pub async fn rotate_kek_with_shares(&self, shares: Vec<Share>) -> Result<u32, KmsError> {
        self.rotate(move |file| key_of_shares(file, &shares)).await
    }

    async fn rotate(
        &self,
        key_of: impl FnOnce(&KekFile) -> Result<Option<ProtectionKey>, KmsError> + Send + 'static,
    ) -> Result<u32, KmsError> {
        self.slow(move |shared, lock_count| {
            let mut file = shared.read()?;
            let version = file.next_version()?;
            let kek = SecretKey::generate(&shared.random)?;
            let created_unix_ms = now_unix_ms();
            let dated = Dated {
                version,
                created_unix_ms,
                kek: &kek,
            };
            let (random, id) = (&shared.random, file.id);
            let key = key_of(&file)?;
            match (&mut file.keks, &key) {
                (Keks::Protected(protected), Some(key)) => {
                    seal_kek(random, key, protected, &id, dated)?;
                }
                (Keks::Shares(shares), Some(key)) => {
                    seal_kek(random, key, shares, &id, dated)?;
                }
                (Keks::Unprotected(unprotected), _) => unprotected.versions.push(PlainKek {
                    version,
                    created_unix_ms,
                    key: HexSecret(kek),
                }),
                (sealed, None) => return Err(secret_wanted(sealed)),
            }
            let file = KekFile::new(file.id, file.keks);
            let text = file.to_text()?;
            // Every version is opened before the old file is replaced.
            let keyring = open_keks(file, key.as_ref())?;
            shared.place.replace(&text)?;
            shared.refresh(keyring, lock_count);
            Ok(version)
        })
        .await
    }

    /// Wraps every KEK version again under `new`. Keys wrapped under the KEKs do not change. An unprotected file becomes
    /// a protected one; one whose secret is split into shares is refused. Old copies of the file still open with the old
    /// passphrase.
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
            if let Keks::Shares(_) = &file.keks {
                return Err(KmsError::new(
                    Class::Misconfigured,
                    "the KEK file's secret is in shares: there is no passphrase to change",
                    "keep the shares, or move the keyspaces to a new KEK file",
                ));
            }
            let key = single_key(&file, &current)?;
            let keyring = open_keks(file, key.as_ref())?;
            let file = protect(&shared.random, id, keyring.dated(&created), &new, argon2id)?;
            shared.place.replace(&file.to_text()?)?;
            shared.state().file = Some(KnownFile::of(&file));
            shared.refresh(keyring, lock_count);
            Ok(())
        })
        .await
    }
}

fn key_of_shares(file: &KekFile, shares: &[Share]) -> Result<Option<ProtectionKey>, KmsError> {
    let Keks::Shares(wanted) = &file.keks else {
        return Err(KmsError::new(
            Class::Misconfigured,
            "the KEK file's secret is not in shares",
            "give its passphrase, or nothing if it is unprotected",
        ));
    };
    let members = read_set(shares, Some(wanted.terms()))?;
    Ok(Some(shares_key(wanted, &members)?))
}
