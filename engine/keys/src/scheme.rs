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
    /// ECDSA with SHA-256; the signature is ASN.1 DER.
    EcdsaSha256 = 2,
    /// ECDSA with SHA-384; the signature is ASN.1 DER.
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
    /// ECDSA with SHA-512; the signature is ASN.1 DER.
    EcdsaSha512 = 10,
    /// The key's default, in the form of JWS (RFC 7518), which differs for ECDSA only: r and s one
    /// after the other, each as long as the curve's field.
    DefaultJws = 11,
    /// ECDSA with SHA-256, in the form of JWS.
    EcdsaSha256Jws = 12,
    /// ECDSA with SHA-384, in the form of JWS.
    EcdsaSha384Jws = 13,
    /// ECDSA with SHA-512, in the form of JWS.
    EcdsaSha512Jws = 14,
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

/// How an ECDSA signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Der,
    Jws,
}

/// A scheme that fits its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    Ed25519,
    Ecdsa(Hash, Form),
    Rsa(RsaPadding, Hash),
}

impl Scheme {
    /// Every scheme, in the order of the numbers.
    pub const ALL: [Self; 15] = [
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
        Self::EcdsaSha512,
        Self::DefaultJws,
        Self::EcdsaSha256Jws,
        Self::EcdsaSha384Jws,
        Self::EcdsaSha512Jws,
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
        use {Form::*, Hash::*, RsaPadding::*};
        let rsa = algorithm.family() == Family::Rsa;
        let ecdsa = algorithm.family() == Family::Ecdsa;
        let resolved = match self {
            Self::Default | Self::DefaultJws => match algorithm.family() {
                Family::Ed25519 => Resolved::Ed25519,
                Family::Ecdsa => {
                    let form = if self == Self::Default { Der } else { Jws };
                    Resolved::Ecdsa(curve_hash(algorithm), form)
                }
                Family::Rsa => Resolved::Rsa(Pss, Sha256),
                Family::Hmac | Family::Aead | Family::Hkdf => return Err(OpError::WrongKeyType),
            },
            Self::Ed25519 if algorithm == Algorithm::Ed25519 => Resolved::Ed25519,
            Self::EcdsaSha256 if ecdsa => Resolved::Ecdsa(Sha256, Der),
            Self::EcdsaSha384 if ecdsa => Resolved::Ecdsa(Sha384, Der),
            Self::EcdsaSha512 if ecdsa => Resolved::Ecdsa(Sha512, Der),
            Self::EcdsaSha256Jws if ecdsa => Resolved::Ecdsa(Sha256, Jws),
            Self::EcdsaSha384Jws if ecdsa => Resolved::Ecdsa(Sha384, Jws),
            Self::EcdsaSha512Jws if ecdsa => Resolved::Ecdsa(Sha512, Jws),
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
            Self::Ecdsa(hash, _) | Self::Rsa(_, hash) => Some(hash),
        }
    }
}

/// The hash that goes with an ECDSA algorithm's curve.
pub(crate) fn curve_hash(algorithm: Algorithm) -> Hash {
    match algorithm {
        Algorithm::EcdsaP384 => Hash::Sha384,
        _ => Hash::Sha256,
    }
}

impl Hash {
    /// Length of a digest, in bytes.
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
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
        assert_eq!(Scheme::from_id(15), None);
    }

    #[test]
    fn every_scheme_fits_its_own_keys_and_no_other() {
        for algorithm in Algorithm::ALL {
            let fitting = Scheme::ALL
                .into_iter()
                .filter(|scheme| scheme.resolve(algorithm).is_ok())
                .count();
            let expected = match algorithm.family() {
                Family::Ed25519 => 3,
                Family::Ecdsa | Family::Rsa => 8,
                Family::Hmac | Family::Aead | Family::Hkdf => 0,
            };
            assert_eq!(fitting, expected, "{algorithm}");
        }
    }
}
