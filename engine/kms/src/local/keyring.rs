//! The KEKs themselves, converted between file and memory.

use std::borrow::Borrow;

use ring::rand::SystemRandom;

use super::kek_file::{
    InShares, KekFile, Keks, Protected, Sealed, SealedKek, Unprotected, corrupt,
};
use super::seal::{self, Argon2Params, NONCE_BYTES, ProtectionKey, SALT_BYTES, SEALED_KEK_BYTES};
use crate::hex::Hex;
use crate::provider::UnlockSecret;
use crate::secret::fill_random;
use crate::shares::{self, Member, Quorum, Terms};
use crate::{Cause, Class, KmsError, Passphrase, SecretKey};

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

    /// Returns the KEKs, each with the time of its creation.
    pub(super) fn dated<'a>(
        &'a self,
        created_unix_ms: &'a [u64],
    ) -> impl Iterator<Item = Dated<'a>> {
        let keks = self.0.iter().zip(created_unix_ms);
        keks.map(|((version, kek), created_unix_ms)| Dated {
            version: *version,
            created_unix_ms: *created_unix_ms,
            kek,
        })
    }

    pub(super) fn find(&self, version: u32) -> Option<&SecretKey> {
        self.0
            .iter()
            .find(|(candidate, _)| *candidate == version)
            .map(|(_, kek)| kek)
    }
}

/// Derives the file's key from one secret and checks it against the file's commitment; `None` for a file that needs none.
/// A file that needs shares refuses: see [`shares_key`].
pub(super) fn single_key(
    file: &KekFile,
    secret: &UnlockSecret,
) -> Result<Option<ProtectionKey>, KmsError> {
    match (&file.keks, secret) {
        (Keks::Unprotected(_), _) => Ok(None),
        (Keks::Protected(protected), UnlockSecret::Passphrase(passphrase)) => {
            let key =
                seal::derive_from_passphrase(passphrase, &protected.salt.0, protected.argon2id)?;
            if !key.is_committed(protected.commitment()) {
                return Err(KmsError::new(
                    Class::Denied,
                    "the passphrase does not open the KEK file",
                    "try again; check the keyboard layout, and that the file is the one the passphrase belongs to",
                )
                .from_cause(Cause::WrongSecret));
            }
            Ok(Some(key))
        }
        (_, UnlockSecret::Nothing) => Err(secret_wanted(&file.keks)),
        (Keks::Protected(_), other) => Err(KmsError::new(
            Class::Misconfigured,
            format!(
                "the local KMS needs its passphrase and was given {}",
                other.what()
            ),
            "unlock it with the passphrase",
        )),
        (Keks::Shares(shares), other) => Err(KmsError::new(
            Class::Misconfigured,
            format!(
                "the local KMS needs {} of its {} shares and was given {}",
                shares.threshold,
                shares.count,
                other.what()
            ),
            "unlock it with the shares, one after the other",
        )),
    }
}

/// Derives the key from exactly `threshold` different shares of the file's set, and checks it against the file's
/// commitment.
pub(super) fn shares_key(
    shares: &InShares,
    members: &[impl Borrow<Member>],
) -> Result<ProtectionKey, KmsError> {
    let secret = shares::combine(members)?;
    let key = seal::derive_from_shared_secret(&secret);
    if !key.is_committed(shares.commitment()) {
        return Err(KmsError::new(
            Class::Denied,
            "the shares belong together and do not open the KEK file: they are of another one",
            "give the shares that were made with this file; check that the file is the right one",
        )
        .from_cause(Cause::WrongSecret));
    }
    Ok(key)
}

pub(super) fn open_keks(file: KekFile, key: Option<&ProtectionKey>) -> Result<Keyring, KmsError> {
    let Some(key) = key else {
        return match file.keks {
            Keks::Unprotected(unprotected) => Ok(plain(unprotected)),
            sealed => Err(secret_wanted(&sealed)),
        };
    };
    match file.keks {
        Keks::Protected(protected) => open_sealed(&file.id, &protected, key),
        Keks::Shares(shares) => open_sealed(&file.id, &shares, key),
        Keks::Unprotected(unprotected) => Ok(plain(unprotected)),
    }
}

fn plain(unprotected: Unprotected) -> Keyring {
    let keks = unprotected.versions.into_iter();
    Keyring(keks.map(|kek| (kek.version, kek.key.0)).collect())
}

fn open_sealed(
    id: &Hex<16>,
    sealed: &impl Sealed,
    key: &ProtectionKey,
) -> Result<Keyring, KmsError> {
    let open = |kek: &SealedKek| {
        let binding = sealed.binding(id, kek.version, kek.created_unix_ms);
        let opened = key
            .open_kek(&kek.ciphertext.0, kek.nonce.0, &binding)
            .ok_or_else(|| corrupt(format!("KEK version {} was changed", kek.version)))?;
        Ok((kek.version, opened))
    };
    sealed
        .versions()
        .iter()
        .map(open)
        .collect::<Result<_, _>>()
        .map(Keyring)
}

/// A KEK as it is sealed.
pub(super) struct Dated<'a> {
    pub(super) version: u32,
    pub(super) created_unix_ms: u64,
    pub(super) kek: &'a SecretKey,
}

/// Builds a file with these KEKs under a newly chosen passphrase, and a fresh salt.
pub(super) fn protect<'a>(
    random: &SystemRandom,
    id: Hex<16>,
    keks: impl Iterator<Item = Dated<'a>>,
    passphrase: &Passphrase,
    argon2id: Argon2Params,
) -> Result<KekFile, KmsError> {
    passphrase.check_choice()?;
    let mut salt = [0; SALT_BYTES];
    fill_random(random, &mut salt)?;
    let key = seal::derive_from_passphrase(passphrase, &salt, argon2id)?;
    let mut protected = Protected {
        argon2id,
        salt: Hex(salt),
        commitment: Hex(key.commitment),
        versions: Vec::new(),
    };
    for kek in keks {
        seal_kek(random, &key, &mut protected, &id, kek)?;
    }
    Ok(KekFile::new(id, Keks::Protected(protected)))
}

/// Builds a file with these KEKs under `secret`, which was split into shares with these terms.
pub(super) fn protect_with_shares<'a>(
    random: &SystemRandom,
    id: Hex<16>,
    keks: impl Iterator<Item = Dated<'a>>,
    secret: &SecretKey,
    terms: Terms,
    quorum: Quorum,
) -> Result<KekFile, KmsError> {
    let key = seal::derive_from_shared_secret(secret);
    let mut shares = InShares {
        identifier: terms.identifier,
        count: quorum.count(),
        threshold: quorum.threshold(),
        iteration_exponent: terms.iteration_exponent,
        commitment: Hex(key.commitment),
        versions: Vec::new(),
    };
    for kek in keks {
        seal_kek(random, &key, &mut shares, &id, kek)?;
    }
    Ok(KekFile::new(id, Keks::Shares(shares)))
}

/// Adds one KEK. The nonce is random: one key seals at most 64 KEKs, so a collision is negligible.
pub(super) fn seal_kek(
    random: &SystemRandom,
    key: &ProtectionKey,
    sealed: &mut impl Sealed,
    id: &Hex<16>,
    dated: Dated<'_>,
) -> Result<(), KmsError> {
    let Dated {
        version,
        created_unix_ms,
        kek,
    } = dated;
    let mut nonce = [0; NONCE_BYTES];
    fill_random(random, &mut nonce)?;
    let binding = sealed.binding(id, version, created_unix_ms);
    let ciphertext: [u8; SEALED_KEK_BYTES] = key.seal_kek(kek, nonce, &binding);
    sealed.versions_mut().push(SealedKek {
        version,
        created_unix_ms,
        nonce: Hex(nonce),
        ciphertext: Hex(ciphertext),
    });
    Ok(())
}

/// Returns the error that states which secret the file needs.
pub(super) fn secret_wanted(keks: &Keks) -> KmsError {
    if let Keks::Shares(shares) = keks {
        return KmsError::new(
            Class::Locked,
            format!(
                "the local KMS needs {} of its {} shares",
                shares.threshold, shares.count
            ),
            "unlock it with the shares, one after the other",
        );
    }
    KmsError::new(
        Class::Locked,
        "the local KMS needs its passphrase",
        "unlock it with the passphrase",
    )
}
