//! Secret sharing with SLIP-39, "Shamir's Secret-Sharing for Mnemonic Codes" (SatoshiLabs), for a secret of 32 bytes, one
//! group, no passphrase.
//!
//! ```text
//! secret ─cipher─▶ block ─polynomial─▶ values ─mnemonic (checksum, words)─▶ shares
//! ```
//!
//! Any tool that follows the standard recovers the secret from enough shares, with an empty passphrase. Keyway's sets are
//! extendable, as the standard requires of new ones, and have iteration exponent 0: the iterations slow down guesses of a
//! passphrase, and there is none.

mod checksum;
mod cipher;
mod gf256;
mod mnemonic;
mod polynomial;
mod words;

#[cfg(test)]
mod tests;

use std::borrow::Borrow;
use std::fmt;

use ring::rand::SystemRandom;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::secret::fill_random;
use crate::{Cause, Class, KmsError, SECRET_BYTES, SecretKey, Share};

use gf256::Point;

/// Most shares of a secret.
pub const SHARES_MAX: u8 = 16;

/// The iteration exponent of Keyway's sets: 10,000 iterations in total.
const ITERATION_EXPONENT: u8 = 0;
/// The largest exponent accepted: 640,000 iterations, some tenths of a second. A larger one is an attempt to stall the
/// server.
pub(crate) const ITERATION_EXPONENT_MAX: u8 = 6;
const PASSPHRASE: &[u8] = b"";

/// The number of shares, and how many of them recover the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quorum {
    threshold: u8,
    count: u8,
}

impl Quorum {
    /// Creates a quorum. `1 <= threshold <= count <= 16`; a threshold of 1 requires a count of 1, since all shares would
    /// be the same. Other values are [`Class::Misconfigured`].
    pub fn new(threshold: u8, count: u8) -> Result<Self, KmsError> {
        let refuse = |remedy| {
            Err(KmsError::new(
                Class::Misconfigured,
                format!("{threshold} of {count} shares is not possible"),
                remedy,
            ))
        };
        if threshold == 0 || threshold > count || count > SHARES_MAX {
            return refuse(
                "use a threshold of 1 or more, at most as many as shares, and at most 16 shares",
            );
        }
        if threshold == 1 && count > 1 {
            return refuse("use 1 of 1 and copy the share, or a threshold of 2 or more");
        }
        Ok(Self { threshold, count })
    }

    /// Returns the number of shares that recover the secret.
    pub const fn threshold(self) -> u8 {
        self.threshold
    }

    /// Returns the number of shares.
    pub const fn count(self) -> u8 {
        self.count
    }
}

/// Splits `secret` into `quorum.count()` shares of a new set, of which any `quorum.threshold()` recover it. Errors: no
/// random numbers.
pub fn split_secret(secret: &SecretKey, quorum: Quorum) -> Result<Vec<Share>, KmsError> {
    let (_, members) = split(&SystemRandom::new(), secret, quorum)?;
    members.iter().map(Member::to_share).collect()
}

/// Recovers the secret from exactly as many shares as required, in any order. Errors, all [`Class::Denied`]: words that
/// are not a share, shares of different sets, a repeated share, too few or too many, shares that do not belong together.
pub fn combine_shares(shares: &[Share]) -> Result<SecretKey, KmsError> {
    combine(&read_set(shares)?)
}

/// Parses different shares of one set: the first share's.
fn read_set(shares: &[Share]) -> Result<Vec<Member>, KmsError> {
    let mut members: Vec<Member> = Vec::with_capacity(shares.len());
    for share in shares {
        let member = Member::parse(share)?;
        if let Some(first) = members.first() {
            member.check_belongs(first.terms)?;
        }
        member.check_new(&members)?;
        members.push(member);
    }
    Ok(members)
}

/// The common properties of all shares of a set. None of them is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    /// 15 random bits.
    pub(crate) identifier: u16,
    pub(crate) is_extendable: bool,
    pub(crate) iteration_exponent: u8,
    /// `1..=16`.
    pub(crate) threshold: u8,
}

/// One share, parsed. Its `Debug` output contains no secret, and it wipes itself.
pub(crate) struct Member {
    pub(crate) terms: Terms,
    /// `0..16`: the argument at which the polynomials have the value.
    number: u8,
    value: Zeroizing<Vec<u8>>,
}

impl Member {
    /// Parses a share of a 32-byte secret. Returns [`Class::Denied`] if the words are not one.
    pub(crate) fn parse(share: &Share) -> Result<Self, KmsError> {
        let member = mnemonic::decode(share, SECRET_BYTES)?;
        let exponent = member.terms.iteration_exponent;
        if exponent > ITERATION_EXPONENT_MAX {
            return Err(refused(
                format!(
                    "the share's iteration exponent is {exponent}, above {ITERATION_EXPONENT_MAX}"
                ),
                "give a share that keyway made",
            ));
        }
        Ok(member)
    }

    pub(crate) fn to_share(&self) -> Result<Share, KmsError> {
        mnemonic::encode(self)
    }

    /// Returns its number as users count: `1..=16`.
    pub(crate) fn place(&self) -> u8 {
        self.number + 1
    }

    /// Returns `true` if it is the same share.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.number == other.number && bool::from(self.value.ct_eq(&other.value))
    }

    /// Refuses a share of another set.
    pub(crate) fn check_belongs(&self, terms: Terms) -> Result<(), KmsError> {
        let other = self.terms;
        let remedy = "give a share of the set; all of its shares begin with the same three words";
        if other.identifier != terms.identifier {
            return Err(refused(
                format!(
                    "the share is of another set: its identifier is {}, and the set's {}",
                    other.identifier, terms.identifier
                ),
                remedy,
            ));
        }
        if other.threshold != terms.threshold {
            return Err(refused(
                format!(
                    "the share is of another set: its threshold is {}, and the set's {}",
                    other.threshold, terms.threshold
                ),
                remedy,
            ));
        }
        if other != terms {
            return Err(refused(
                format!(
                    "the share is of another set: its iteration exponent is {} and its extendable flag {}, \
                     and the set's {} and {}",
                    other.iteration_exponent,
                    other.is_extendable,
                    terms.iteration_exponent,
                    terms.is_extendable
                ),
                remedy,
            ));
        }
        Ok(())
    }

    /// Refuses a share that is among `given`.
    pub(crate) fn check_new(&self, given: &[Member]) -> Result<(), KmsError> {
        let Some(same) = given.iter().find(|member| member.number == self.number) else {
            return Ok(());
        };
        let number = self.number + 1;
        if same.value.ct_eq(&self.value).into() {
            Err(refused(
                format!("share {number} was given already"),
                "give another share",
            ))
        } else {
            Err(refused(
                format!(
                    "another share {number} was given before: one of the two is of another set"
                ),
                "check which of the two belongs here",
            ))
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member(share {}, redacted)", self.number + 1)
    }
}

/// Splits `secret` into a new set of shares.
pub(crate) fn split(
    random: &SystemRandom,
    secret: &SecretKey,
    quorum: Quorum,
) -> Result<(Terms, Vec<Member>), KmsError> {
    let mut identifier = [0; 2];
    fill_random(random, &mut identifier)?;
    let terms = Terms {
        identifier: u16::from_le_bytes(identifier) & 0x7fff,
        is_extendable: true,
        iteration_exponent: ITERATION_EXPONENT,
        threshold: quorum.threshold,
    };
    let mut block = Zeroizing::new(secret.expose().to_vec());
    cipher::encrypt(terms, PASSPHRASE, &mut block);
    let values = polynomial::split(random, quorum, &block)?;
    let members = (0..)
        .zip(values)
        .map(|(number, value)| Member {
            terms,
            number,
            value,
        })
        .collect();
    Ok((terms, members))
}

/// Recovers the secret from exactly as many shares as required; they have passed [`Member::check_belongs`] and
/// [`Member::check_new`]. [`Class::Denied`]: too few, too many, or they do not belong together.
pub(crate) fn combine(members: &[impl Borrow<Member>]) -> Result<SecretKey, KmsError> {
    let block = recover(members, PASSPHRASE)?;
    SecretKey::try_fill(|bytes| {
        // `Member::parse` and `split` create only values of this length.
        bytes.copy_from_slice(&block);
        Ok(())
    })
}

/// Recovers a secret of any length and passphrase, as in the standard's vectors.
fn recover(
    members: &[impl Borrow<Member>],
    passphrase: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KmsError> {
    let terms = match members.first().map(Borrow::borrow) {
        Some(member) if members.len() == usize::from(member.terms.threshold) => member.terms,
        Some(member) => {
            return Err(refused(
                format!(
                    "{} shares were given, and the secret needs {}",
                    members.len(),
                    member.terms.threshold
                ),
                "give exactly as many shares as the threshold",
            ));
        }
        None => return Err(refused("no share was given", "give the shares")),
    };
    let points: Vec<Point<'_>> = members
        .iter()
        .map(Borrow::borrow)
        .map(|member: &Member| Point {
            x: member.number,
            y: &member.value,
        })
        .collect();
    let mut block = polynomial::recover(&points).ok_or_else(|| {
        refused(
            "the shares do not belong together: the secret's digest is wrong",
            "give all shares again; at least one of them is of another set, or was changed",
        )
    })?;
    cipher::decrypt(terms, passphrase, &mut block);
    Ok(block)
}

/// Creates the error for a refused share, which counts as a wrong secret.
fn refused(what: impl Into<String>, remedy: &str) -> KmsError {
    KmsError::new(Class::Denied, what, remedy).from_cause(Cause::WrongSecret)
}
