//! The KEKs themselves, between the file and the memory.

use ring::rand::SystemRandom;

use super::kek_file::{KekFile, Keks, Protected, SealedKek, corrupt};
use super::seal::{self, Argon2Params, NONCE_BYTES, PassphraseKey, SALT_BYTES, SEALED_KEK_BYTES};
use crate::hex::Hex;
use crate::provider::UnlockSecret;
use crate::secret::fill_random;
use crate::{Class, KmsError, Passphrase, SecretKey};

/// All versions in the file, ascending. Never empty.
#[derive(Debug)]
pub(super) struct Keyring(pub(super) Vec<(u32, SecretKey)>);

impl Keyring {
    pub(super) fn newest(&self) -> (u32, &SecretKey) {
        let (version, kek) = self
            .0
            .last()
            .expect("a parsed file holds at least one version");
        (*version, kek)
    }

    pub(super) fn find(&self, version: u32) -> Option<&SecretKey> {
        self.0
            .iter()
            .find(|(candidate, _)| *candidate == version)
            .map(|(_, kek)| kek)
    }
}

/// The key that the secret becomes, checked against the file's commitment; `None` for a file that needs none.
pub(super) fn passphrase_key(
    file: &KekFile,
    secret: &UnlockSecret,
) -> Result<Option<PassphraseKey>, KmsError> {
    match (&file.keks, secret) {
        (Keks::Unprotected(_), _) => Ok(None),
        (Keks::Protected(_), UnlockSecret::Nothing) => Err(passphrase_wanted()),
        (Keks::Protected(protected), UnlockSecret::Passphrase(passphrase)) => {
            let key =
                seal::derive_from_passphrase(passphrase, &protected.salt.0, protected.argon2id)?;
            if !key.is_committed(&protected.commitment.0) {
                return Err(KmsError::new(
                    Class::Denied,
                    "the passphrase does not open the KEK file",
                    "try again; check the keyboard layout, and that the file is the one the passphrase belongs to",
                ));
            }
            Ok(Some(key))
        }
        (Keks::Protected(_), other) => Err(KmsError::new(
            Class::Misconfigured,
            format!(
                "the local KMS wants its passphrase and was given {}",
                other.what()
            ),
            "unlock it with the passphrase",
        )),
    }
}

pub(super) fn open_keks(file: KekFile, key: Option<&PassphraseKey>) -> Result<Keyring, KmsError> {
    match file.keks {
        Keks::Unprotected(unprotected) => Ok(Keyring(
            unprotected
                .versions
                .into_iter()
                .map(|kek| (kek.version, kek.key.0))
                .collect(),
        )),
        Keks::Protected(protected) => {
            let key = key.ok_or_else(passphrase_wanted)?;
            let open = |sealed: &SealedKek| {
                let binding = protected.binding(&file.id, sealed.version, sealed.created_unix_ms);
                let kek = key
                    .open_kek(&sealed.ciphertext.0, sealed.nonce.0, &binding)
                    .ok_or_else(|| {
                        corrupt(format!("KEK version {} was changed", sealed.version))
                    })?;
                Ok((sealed.version, kek))
            };
            protected
                .versions
                .iter()
                .map(open)
                .collect::<Result<_, _>>()
                .map(Keyring)
        }
    }
}

/// A protected file with these KEKs, under a fresh salt. `created_unix_ms` has one entry for each KEK.
pub(super) fn protect(
    random: &SystemRandom,
    id: Hex<16>,
    created_unix_ms: &[u64],
    keyring: &Keyring,
    passphrase: &Passphrase,
    argon2id: Argon2Params,
) -> Result<KekFile, KmsError> {
    let mut salt = [0; SALT_BYTES];
    fill_random(random, &mut salt)?;
    let key = seal::derive_from_passphrase(passphrase, &salt, argon2id)?;
    let mut protected = Protected {
        argon2id,
        salt: Hex(salt),
        commitment: Hex(key.commitment),
        versions: Vec::new(),
    };
    for ((version, kek), created_unix_ms) in keyring.0.iter().zip(created_unix_ms) {
        let sealed = seal_kek(
            random,
            &key,
            &protected,
            &id,
            *version,
            *created_unix_ms,
            kek,
        )?;
        protected.versions.push(sealed);
    }
    Ok(KekFile::new(id, Keks::Protected(protected)))
}

/// The nonce is random: one passphrase key seals at most 64 KEKs, so no two nonces meet.
pub(super) fn seal_kek(
    random: &SystemRandom,
    key: &PassphraseKey,
    protected: &Protected,
    id: &Hex<16>,
    version: u32,
    created_unix_ms: u64,
    kek: &SecretKey,
) -> Result<SealedKek, KmsError> {
    let mut nonce = [0; NONCE_BYTES];
    fill_random(random, &mut nonce)?;
    let binding = protected.binding(id, version, created_unix_ms);
    let ciphertext: [u8; SEALED_KEK_BYTES] = key.seal_kek(kek, nonce, &binding);
    Ok(SealedKek {
        version,
        created_unix_ms,
        nonce: Hex(nonce),
        ciphertext: Hex(ciphertext),
    })
}

pub(super) fn passphrase_wanted() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the local KMS wants its passphrase",
        "unlock it with the passphrase",
    )
}
