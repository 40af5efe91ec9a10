//! Verifying signatures: with the versions of a key, and with a public key alone. Both go through
//! [`Verification`].

use super::digest::{aws_hash, checked_digest, verify_digest};
use super::sign::{OTHER_HASH, is_rings};
use super::{UnlockedKey, jws};
use crate::algorithm::{Algorithm, Family, KeyUsage};
use crate::ed25519;
use crate::envelope::VersionAt;
use crate::error::OpError;
use crate::material::{Public, read_spki};
use crate::providers::{Provider, ProviderChoice, Task, provider};
use crate::scheme::{Form, Hash, Input, Resolved, RsaPadding, Scheme};
use aws_lc_rs::digest::Digest;
use ring::signature as ring_signature;
use std::borrow::Cow;

impl UnlockedKey {
    /// Checks a signature, or a MAC (scheme 0, message only), against `version`, or with 0 against
    /// every version that is not revoked. Returns the version that it verifies under.
    pub fn verify(
        &self,
        version: u32,
        scheme: Scheme,
        input: Input<'_>,
        signature: &[u8],
    ) -> Result<u32, OpError> {
        let algorithm = self.metadata.algorithm;
        if algorithm.family() == Family::Hmac {
            return self.verify_mac(version, scheme, input, signature);
        }
        self.require(KeyUsage::VERIFY)?;
        let verification = Verification::new(self.choice, algorithm, scheme, input, signature)?;
        for at in self.candidates(version)? {
            let public = self.public(self.payload.material(at))?;
            if verification.holds(&public)? {
                return Ok(at.version);
            }
        }
        Err(OpError::Mismatch)
    }

    /// The versions that a verification with `version` tries.
    pub(super) fn candidates(
        &self,
        version: u32,
    ) -> Result<impl Iterator<Item = &VersionAt>, OpError> {
        let versions = match version {
            0 => self.payload.versions(),
            _ => std::slice::from_ref(self.payload.find(version)?),
        };
        Ok(versions.iter().filter(|at| !at.is_revoked()))
    }
}

/// Checks a signature against a public key in the form that [`UnlockedKey::public_key`] gives
/// (SubjectPublicKeyInfo DER), by the same code and with the same answers as
/// [`UnlockedKey::verify`]. A key that no [`UnlockedKey`] can have, of another algorithm, RSA size
/// or exponent, is [`OpError::BadInput`].
pub fn verify_with_public_key(
    choice: ProviderChoice,
    public_key: &[u8],
    scheme: Scheme,
    input: Input<'_>,
    signature: &[u8],
) -> Result<(), OpError> {
    let (algorithm, public) = read_spki(public_key).map_err(|_| {
        OpError::BadInput("this is no public key of an algorithm that Keyway offers")
    })?;
    let verification = Verification::new(choice, algorithm, scheme, input, signature)?;
    match verification.holds(&public)? {
        true => Ok(()),
        false => Err(OpError::Mismatch),
    }
}

/// A signature to be checked, with everything but the public key.
struct Verification<'a> {
    choice: ProviderChoice,
    algorithm: Algorithm,
    scheme: Resolved,
    input: Checked<'a>,
    /// As the providers take it; `None` if it has no form that could verify.
    signature: Option<Cow<'a, [u8]>>,
}

/// An input that fits its scheme.
enum Checked<'a> {
    Message(&'a [u8]),
    Digest(Digest),
}

impl<'a> Verification<'a> {
    fn new(
        choice: ProviderChoice,
        algorithm: Algorithm,
        scheme: Scheme,
        input: Input<'a>,
        signature: &'a [u8],
    ) -> Result<Self, OpError> {
        let scheme = scheme.resolve(algorithm)?;
        let signature = match scheme {
            Resolved::Ecdsa(_, Form::Jws) => jws::to_der(algorithm, signature)?.map(Cow::Owned),
            _ => Some(Cow::Borrowed(signature)),
        };
        let input = match input {
            Input::Message(message) => Checked::Message(message),
            Input::Digest(digest) => {
                let task = Task::VerifyDigest;
                Checked::Digest(checked_digest(choice, algorithm, scheme, digest, task)?)
            }
        };
        Ok(Self {
            choice,
            algorithm,
            scheme,
            input,
            signature,
        })
    }

    /// Whether the signature is by the owner of `public`, a key of `algorithm`.
    fn holds(&self, public: &Public<'_>) -> Result<bool, OpError> {
        let Some(signature) = &self.signature else {
            return Ok(false);
        };
        match &self.input {
            Checked::Message(message) => self.holds_for_message(public, message, signature),
            Checked::Digest(digest) => {
                verify_digest(self.algorithm, public, self.scheme, digest, signature)
            }
        }
    }

    fn holds_for_message(
        &self,
        public: &Public<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, OpError> {
        let (algorithm, scheme) = (self.algorithm, self.scheme);
        if provider(self.choice, algorithm, Task::Verify) == Some(Provider::AwsLc) {
            return match public {
                Public::Ed25519(public) => Ok(ed25519::verifies(public, message, signature)),
                _ => {
                    let digest = aws_lc_rs::digest::digest(aws_hash(scheme)?, message);
                    verify_digest(algorithm, public, scheme, &digest, signature)
                }
            };
        }
        Ok(match public {
            Public::Ed25519(public) => {
                let verify = &ring_signature::ED25519;
                ring_signature::UnparsedPublicKey::new(verify, public)
                    .verify(message, signature)
                    .is_ok()
            }
            Public::Ecdsa(_) if !is_rings(algorithm, scheme) => {
                if self.choice == ProviderChoice::RingOnly {
                    return Err(OTHER_HASH);
                }
                let digest = aws_lc_rs::digest::digest(aws_hash(scheme)?, message);
                return verify_digest(algorithm, public, scheme, &digest, signature);
            }
            Public::Ecdsa(point) => {
                let verify = match algorithm {
                    Algorithm::EcdsaP384 => &ring_signature::ECDSA_P384_SHA384_ASN1,
                    _ => &ring_signature::ECDSA_P256_SHA256_ASN1,
                };
                ring_signature::UnparsedPublicKey::new(verify, point)
                    .verify(message, signature)
                    .is_ok()
            }
            Public::Rsa { n, e } => {
                let parameters = ring_rsa_parameters(scheme)?;
                ring_signature::RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .is_ok()
            }
        })
    }
}

fn ring_rsa_parameters(
    scheme: Resolved,
) -> Result<&'static ring_signature::RsaParameters, OpError> {
    use ring_signature::*;
    Ok(match scheme {
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha256) => &RSA_PKCS1_2048_8192_SHA256,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha384) => &RSA_PKCS1_2048_8192_SHA384,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha512) => &RSA_PKCS1_2048_8192_SHA512,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha256) => &RSA_PSS_2048_8192_SHA256,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha384) => &RSA_PSS_2048_8192_SHA384,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha512) => &RSA_PSS_2048_8192_SHA512,
        _ => return Err(OpError::Internal),
    })
}
