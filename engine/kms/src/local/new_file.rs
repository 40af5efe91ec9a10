//! Creation of a KEK file: the first KEK, and the secret that protects it.

use ring::rand::SystemRandom;

use super::kek_file::{KekFile, Keks, PlainKek, Unprotected};
use super::keyring::{Keyring, protect, protect_with_shares};
use super::seal::Argon2Params;
use super::{now_unix_ms, random_id};
use crate::hex::HexSecret;
use crate::provider::Initialise;
use crate::shares::{self, Member, Quorum};
use crate::{Class, KmsError, SecretKey, Share};

/// A file that is not yet written, its KEK, and the shares of its secret, if any.
pub(super) struct NewFile {
    pub(super) file: KekFile,
    pub(super) keyring: Keyring,
    pub(super) shares: Vec<Share>,
}

/// Creates one random KEK, protected as `how` specifies.
pub(super) fn new_file(
    random: &SystemRandom,
    how: Initialise,
    argon2id: Argon2Params,
) -> Result<NewFile, KmsError> {
    let keyring = Keyring(vec![(1, SecretKey::generate(random)?)]);
    let id = random_id(random)?;
    let created = [now_unix_ms()];
    let keks = keyring.dated(&created);
    let (file, shares) = match how {
        Initialise::Passphrase(passphrase) => {
            let file = protect(random, id, keks, &passphrase, argon2id)?;
            (file, Vec::new())
        }
        Initialise::Shares { count, threshold } => {
            let quorum = Quorum::new(threshold, count)?;
            let secret = SecretKey::generate(random)?;
            let (terms, members) = shares::split(random, &secret, quorum)?;
            let shares: Vec<Share> = members
                .iter()
                .map(Member::to_share)
                .collect::<Result<_, _>>()?;
            prove(&shares, quorum, &secret)?;
            let file = protect_with_shares(random, id, keks, &secret, terms, quorum)?;
            (file, shares)
        }
    };
    Ok(NewFile {
        file,
        keyring,
        shares,
    })
}

/// Creates a file without protection, for `--dev`.
pub(super) fn new_unprotected(random: &SystemRandom) -> Result<KekFile, KmsError> {
    let plain = PlainKek {
        version: 1,
        created_unix_ms: now_unix_ms(),
        key: HexSecret(SecretKey::generate(random)?),
    };
    let versions = vec![plain];
    Ok(KekFile::new(
        random_id(random)?,
        Keks::Unprotected(Unprotected { versions }),
    ))
}

/// Recovers the secret from the words themselves, in as many combinations as there are shares, so that each share is used
/// in some: a faulty share would otherwise be noticed only when it is needed.
fn prove(shares: &[Share], quorum: Quorum, secret: &SecretKey) -> Result<(), KmsError> {
    for first in 0..shares.len() {
        let some = shares
            .iter()
            .cycle()
            .skip(first)
            .take(usize::from(quorum.threshold()));
        let members: Vec<Member> = some.map(Member::parse).collect::<Result<_, _>>()?;
        if !shares::combine(&members)?.is_same(secret) {
            return Err(KmsError::new(
                Class::Unavailable { retry_after: None },
                format!(
                    "the {} shares from share {} on do not recover the secret, so no file was written",
                    quorum.threshold(),
                    first + 1
                ),
                "check the machine's memory and try again; report it if it happens again",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_do_not_fit_are_found_before_they_are_handed_out() {
        let quorum = Quorum::new(2, 3).unwrap();
        let secret = SecretKey::take(&mut [1; 32]);
        let mut shares = shares::split_secret(&secret, quorum).unwrap();
        prove(&shares, quorum, &secret).unwrap();
        let other = SecretKey::take(&mut [2; 32]);
        let error = prove(&shares, quorum, &other).unwrap_err();
        assert!(error.what().contains("do not recover"), "{error}");
        shares[1] = shares::split_secret(&secret, quorum).unwrap().remove(1);
        assert_eq!(
            prove(&shares, quorum, &secret).unwrap_err().class(),
            Class::Denied
        );
    }
}
