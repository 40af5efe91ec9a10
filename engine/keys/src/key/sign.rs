//! Signing.

use super::digest::{aws_hash, checked_digest, sign_ecdsa_digest, sign_rsa_digest};
use super::{Ready, UnlockedKey, jws};
use crate::algorithm::{Algorithm, KeyUsage};
use crate::ed25519;
use crate::error::OpError;
use crate::providers::{ProviderChoice, Task};
use crate::scheme::{Form, Hash, Input, Resolved, RsaPadding, Scheme, curve_hash};
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
        self.payload.find(0)?;
        let algorithm = self.metadata.algorithm;
        let scheme = scheme.resolve(algorithm)?;
        let start = out.len();
        self.sign_resolved(scheme, input, out)?;
        match scheme {
            Resolved::Ecdsa(_, Form::Jws) => jws::from_der(algorithm, start, out),
            _ => Ok(()),
        }
    }

    fn sign_resolved(
        &self,
        scheme: Resolved,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), OpError> {
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
            // ring signs with the curve's own hash only.
            Ready::EcdsaRing(_) if !is_rings(self.metadata.algorithm, scheme) => {
                if self.choice == ProviderChoice::RingOnly {
                    return Err(OTHER_HASH);
                }
                let digest = aws_lc_rs::digest::digest(aws_hash(scheme)?, message);
                sign_ecdsa_digest(self.metadata.algorithm, material, &digest, out)
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
        let algorithm = self.metadata.algorithm;
        let digest = checked_digest(self.choice, algorithm, scheme, digest, Task::SignDigest)?;
        let material = self.payload.material(self.payload.newest());
        match &self.ready {
            Ready::Rsa(key) => sign_rsa_digest(key.get(material)?, scheme, &digest, out),
            Ready::Ecdsa | Ready::EcdsaRing(_) => {
                sign_ecdsa_digest(algorithm, material, &digest, out)
            }
            _ => Err(OpError::Internal),
        }
    }
}

/// Whether a scheme's hash is the one that ring uses with the key's curve.
pub(super) fn is_rings(algorithm: Algorithm, scheme: Resolved) -> bool {
    scheme.hash() == Some(curve_hash(algorithm))
}

pub(super) const OTHER_HASH: OpError = OpError::Unsupported(
    "this server runs with ring only, which signs and verifies ECDSA with the hash of the key's \
     curve; use scheme 0",
);

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
