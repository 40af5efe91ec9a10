//! Signature schemes and what goes into a signature.

use crate::algorithm::{Algorithm, Family};
use crate::error::OpError;

/// How to sign, as a request names it. The number is the one on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Scheme {
    /// What the key does by default: RSA signs with PSS and SHA-256, ECDSA with its curve's hash.
    Default = 0,
    /// Ed25519, RFC 8032, not prehashed.
    Ed25519 = 1,
    /// ECDSA with SHA-256, P-256 only; the signature is ASN.1 DER.
    EcdsaSha256 = 2,
    /// ECDSA with SHA-384, P-384 only; the signature is ASN.1 DER.
    EcdsaSha384 = 3,
    /// RSA PKCS#1 v1.5 with SHA-256.
    RsaPkcs1Sha256 = 4,
    /// RSA PKCS#1 v1.5 with SHA-384.
    RsaPkcs1Sha384 = 5,
    /// RSA PKCS#1 v1.5 with SHA-512.
    RsaPkcs1Sha512 = 6,
    /// RSA PSS with SHA-256, salt as long as the hash.
    RsaPssSha256 = 7,
    /// RSA PSS with SHA-384, salt as long as the hash.
    RsaPssSha384 = 8,
    /// RSA PSS with SHA-512, salt as long as the hash.
    RsaPssSha512 = 9,
}

/// What is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// The message itself.
    Message(&'a [u8]),
    /// The message's digest, made by the caller with the scheme's hash (ECDSA and RSA only).
    Digest(&'a [u8]),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RsaPadding {
    Pkcs1,
    Pss,
}

/// A scheme that fits its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    Ed25519,
    EcdsaP256,
    EcdsaP384,
    Rsa(RsaPadding, Hash),
}

impl Scheme {
    /// Every scheme, in the order of the numbers.
    pub const ALL: [Self; 10] = [
        Self::Default,
        Self::Ed25519,
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::RsaPssSha256,
        Self::RsaPssSha384,
        Self::RsaPssSha512,
    ];

    /// The scheme of that number, if there is one.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }

    /// The number of this scheme.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// This scheme for a key of `algorithm`.
    pub(crate) fn resolve(self, algorithm: Algorithm) -> Result<Resolved, OpError> {
        use {Hash::*, RsaPadding::*};
        let rsa = algorithm.family() == Family::Rsa;
        let resolved = match self {
            Self::Default => match algorithm.family() {
                Family::Ed25519 => Resolved::Ed25519,
                Family::Ecdsa if algorithm == Algorithm::EcdsaP256 => Resolved::EcdsaP256,
                Family::Ecdsa => Resolved::EcdsaP384,
                Family::Rsa => Resolved::Rsa(Pss, Sha256),
                Family::Hmac | Family::Aead | Family::Hkdf => return Err(OpError::WrongKeyType),
            },
            Self::Ed25519 if algorithm == Algorithm::Ed25519 => Resolved::Ed25519,
            Self::EcdsaSha256 if algorithm == Algorithm::EcdsaP256 => Resolved::EcdsaP256,
            Self::EcdsaSha384 if algorithm == Algorithm::EcdsaP384 => Resolved::EcdsaP384,
            Self::RsaPkcs1Sha256 if rsa => Resolved::Rsa(Pkcs1, Sha256),
            Self::RsaPkcs1Sha384 if rsa => Resolved::Rsa(Pkcs1, Sha384),
            Self::RsaPkcs1Sha512 if rsa => Resolved::Rsa(Pkcs1, Sha512),
            Self::RsaPssSha256 if rsa => Resolved::Rsa(Pss, Sha256),
            Self::RsaPssSha384 if rsa => Resolved::Rsa(Pss, Sha384),
            Self::RsaPssSha512 if rsa => Resolved::Rsa(Pss, Sha512),
            _ if !algorithm.is_asymmetric() => return Err(OpError::WrongKeyType),
            _ => {
                return Err(OpError::Unsupported(
                    "this scheme does not go with the key's algorithm; \
                     scheme 0 is the key's own default",
                ));
            }
        };
        Ok(resolved)
    }
}

impl Resolved {
    /// The hash that a caller-made digest must come from; `None` where digests cannot be signed.
    pub(crate) fn hash(self) -> Option<Hash> {
        match self {
            Self::Ed25519 => None,
            Self::EcdsaP256 => Some(Hash::Sha256),
            Self::EcdsaP384 => Some(Hash::Sha384),
            Self::Rsa(_, hash) => Some(hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_the_scheme() {
        for scheme in Scheme::ALL {
            assert_eq!(Scheme::from_id(scheme.id()), Some(scheme));
        }
        assert_eq!(Scheme::from_id(10), None);
    }

    #[test]
    fn every_scheme_fits_its_own_keys_and_no_other() {
        for algorithm in Algorithm::ALL {
            let fitting = Scheme::ALL
                .into_iter()
                .filter(|scheme| scheme.resolve(algorithm).is_ok())
                .count();
            let expected = match algorithm.family() {
                Family::Ed25519 | Family::Ecdsa => 2,
                Family::Rsa => 7,
                Family::Hmac | Family::Aead | Family::Hkdf => 0,
            };
            assert_eq!(fitting, expected, "{algorithm}");
        }
    }
}
