//! Signing and verifying.

use super::digest::{sign_ecdsa_digest, sign_rsa_digest, verify_digest};
use super::{Ready, UnlockedKey};
use crate::algorithm::{Algorithm, Family, KeyUsage};
use crate::ed25519;
use crate::error::OpError;
use crate::material::Public;
use crate::providers::{Provider, Task, provider};
use crate::scheme::{Hash, Input, Resolved, RsaPadding, Scheme};
use crate::wipe::{scrub_stack, scrub_stack_shallow};
use aws_lc_rs::signature as aws;
use core::cell::OnceCell;
use ring::rand::SystemRandom;
use ring::signature as ring_signature;

/// AWS-LC's RSA object, built at the first signature.
#[derive(Default)]
pub(super) struct AwsRsa(OnceCell<aws::RsaKeyPair>);

impl AwsRsa {
    fn get(&self, pkcs8: &[u8]) -> Result<&aws::RsaKeyPair, OpError> {
        match self.0.get() {
            Some(key) => Ok(key),
            None => {
                let key = aws::RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| OpError::Internal)?;
                Ok(self.0.get_or_init(|| key))
            }
        }
    }
}

impl UnlockedKey {
    /// Appends a signature by the newest version. Returns that version. Ed25519 signs messages
    /// only; a digest has to be of the length of the scheme's hash.
    #[inline]
    pub fn sign(
        &self,
        scheme: Scheme,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        let signed = self.sign_unscrubbed(scheme, input, out);
        // Nonces give a key away as surely as its own bytes do.
        match self.ready {
            Ready::Ed25519 => scrub_stack_shallow(),
            _ => scrub_stack(),
        }
        signed.map(|()| self.metadata.version)
    }

    #[inline(never)]
    fn sign_unscrubbed(
        &self,
        scheme: Scheme,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), OpError> {
        self.require(KeyUsage::SIGN)?;
        let scheme = scheme.resolve(self.metadata.algorithm)?;
        let message = match input {
            Input::Message(message) => message,
            Input::Digest(digest) => return self.sign_digest(scheme, digest, out),
        };
        let material = self.payload.material(self.payload.newest());
        let rng = SystemRandom::new();
        match &self.ready {
            Ready::Ed25519 => {
                let pair = material.try_into().map_err(|_| OpError::Internal)?;
                ed25519::sign(pair, message, out)
            }
            Ready::Ed25519Ring(key) => {
                out.extend_from_slice(key.sign(message).as_ref());
                Ok(())
            }
            Ready::EcdsaRing(key) => {
                let signature = key.sign(&rng, message).map_err(|_| OpError::Internal)?;
                out.extend_from_slice(signature.as_ref());
                Ok(())
            }
            Ready::Ecdsa => {
                let digest = aws_lc_rs::digest::digest(aws_hash(scheme)?, message);
                sign_ecdsa_digest(self.metadata.algorithm, material, &digest, out)
            }
            Ready::Rsa(key) => {
                let digest = aws_lc_rs::digest::digest(aws_hash(scheme)?, message);
                sign_rsa_digest(key.get(material)?, scheme, &digest, out)
            }
            Ready::RsaRing(key) => {
                let start = out.len();
                out.resize(start + key.public().modulus_len(), 0);
                let padding = ring_padding(scheme)?;
                key.sign(padding, &rng, message, &mut out[start..])
                    .map_err(|_| OpError::Internal)
            }
            Ready::Hmac(_) | Ready::Aead(_) | Ready::Hkdf => Err(OpError::WrongKeyType),
        }
    }

    fn sign_digest(
        &self,
        scheme: Resolved,
        digest: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), OpError> {
        let digest = self.checked_digest(scheme, digest, Task::SignDigest)?;
        let material = self.payload.material(self.payload.newest());
        match &self.ready {
            Ready::Rsa(key) => sign_rsa_digest(key.get(material)?, scheme, &digest, out),
            Ready::Ecdsa | Ready::EcdsaRing(_) => {
                sign_ecdsa_digest(self.metadata.algorithm, material, &digest, out)
            }
            _ => Err(OpError::Internal),
        }
    }

    /// Checks a signature, or a MAC (scheme 0, message only), against `version`, or with 0 against
    /// every live version. Returns the version that it verifies under.
    pub fn verify(
        &self,
        version: u32,
        scheme: Scheme,
        input: Input<'_>,
        signature: &[u8],
    ) -> Result<u32, OpError> {
        if self.metadata.algorithm.family() == Family::Hmac {
            return self.verify_mac(version, scheme, input, signature);
        }
        self.require(KeyUsage::VERIFY)?;
        let scheme = scheme.resolve(self.metadata.algorithm)?;
        let digest = match input {
            Input::Digest(digest) => {
                Some(self.checked_digest(scheme, digest, Task::VerifyDigest)?)
            }
            Input::Message(_) => None,
        };
        for at in self.candidates(version)? {
            let public = self.public(self.payload.material(at))?;
            let verifies = match (&digest, input) {
                (Some(digest), _) => {
                    verify_digest(self.metadata.algorithm, &public, scheme, digest, signature)?
                }
                (None, Input::Message(message) | Input::Digest(message)) => {
                    self.verify_message(&public, scheme, message, signature)?
                }
            };
            if verifies {
                return Ok(at.version);
            }
        }
        Err(OpError::Mismatch)
    }

    fn verify_message(
        &self,
        public: &Public<'_>,
        scheme: Resolved,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, OpError> {
        let algorithm = self.metadata.algorithm;
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

    /// The digest as AWS-LC takes it, if it is of the scheme's hash and a provider takes digests.
    fn checked_digest(
        &self,
        scheme: Resolved,
        digest: &[u8],
        task: Task,
    ) -> Result<aws_lc_rs::digest::Digest, OpError> {
        if scheme.hash().is_none() {
            return Err(OpError::Unsupported(
                "Ed25519 signs messages, not digests; send the message",
            ));
        }
        if provider(self.choice, self.metadata.algorithm, task) != Some(Provider::AwsLc) {
            return Err(OpError::Unsupported(
                "this server runs with ring only, which has no call for digests; \
                 send the message",
            ));
        }
        aws_lc_rs::digest::Digest::import_less_safe(digest, aws_hash(scheme)?)
            .map_err(|_| OpError::BadInput("the digest's length is not that of the scheme's hash"))
    }

    /// The versions that a verification with `version` tries.
    pub(super) fn candidates(
        &self,
        version: u32,
    ) -> Result<&[crate::envelope::VersionAt], OpError> {
        let versions = self.payload.versions();
        if version == 0 {
            return Ok(versions);
        }
        let found = versions.iter().position(|at| at.version == version);
        let at = found.ok_or(OpError::NoSuchVersion)?;
        Ok(&versions[at..=at])
    }
}

fn aws_hash(scheme: Resolved) -> Result<&'static aws_lc_rs::digest::Algorithm, OpError> {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512};
    match scheme.hash().ok_or(OpError::Internal)? {
        Hash::Sha256 => Ok(&SHA256),
        Hash::Sha384 => Ok(&SHA384),
        Hash::Sha512 => Ok(&SHA512),
    }
}

fn ring_padding(scheme: Resolved) -> Result<&'static dyn ring_signature::RsaEncoding, OpError> {
    use ring_signature::*;
    Ok(match scheme {
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha256) => &RSA_PKCS1_SHA256,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha384) => &RSA_PKCS1_SHA384,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha512) => &RSA_PKCS1_SHA512,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha256) => &RSA_PSS_SHA256,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha384) => &RSA_PSS_SHA384,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha512) => &RSA_PSS_SHA512,
        _ => return Err(OpError::Internal),
    })
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
