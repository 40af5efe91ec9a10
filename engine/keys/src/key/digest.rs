//! Signatures over digests, which are AWS-LC's.

use crate::algorithm::Algorithm;
use crate::error::OpError;
use crate::material::Public;
use crate::providers::{Provider, ProviderChoice, Task, provider};
use crate::scheme::{Hash, Resolved, RsaPadding, curve_hash};
use aws_lc_rs::digest::{self as aws_digest, Digest};
use aws_lc_rs::signature::{self as aws, EcdsaKeyPair, RsaKeyPair, UnparsedPublicKey};

/// Length of the longest digest that a curve's own hash makes, in bytes.
const DIGEST_LEN_MAX: usize = 48;

/// Appends an ECDSA signature (ASN.1 DER). The key object lives for this one signature only.
pub(super) fn sign_ecdsa_digest(
    algorithm: Algorithm,
    pkcs8: &[u8],
    digest: &Digest,
    out: &mut Vec<u8>,
) -> Result<(), OpError> {
    let curve = match algorithm {
        Algorithm::EcdsaP384 => &aws::ECDSA_P384_SHA384_ASN1_SIGNING,
        _ => &aws::ECDSA_P256_SHA256_ASN1_SIGNING,
    };
    let key = EcdsaKeyPair::from_pkcs8(curve, pkcs8).map_err(|_| OpError::Internal)?;
    let digest = fitted(algorithm, digest.as_ref())?;
    let signature = key.sign_digest(&digest).map_err(|_| OpError::Internal)?;
    out.extend_from_slice(signature.as_ref());
    Ok(())
}

/// Appends an RSA signature.
pub(super) fn sign_rsa_digest(
    key: &RsaKeyPair,
    scheme: Resolved,
    digest: &Digest,
    out: &mut Vec<u8>,
) -> Result<(), OpError> {
    let padding: &'static dyn aws::RsaEncoding = match scheme {
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha256) => &aws::RSA_PKCS1_SHA256,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha384) => &aws::RSA_PKCS1_SHA384,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha512) => &aws::RSA_PKCS1_SHA512,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha256) => &aws::RSA_PSS_SHA256,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha384) => &aws::RSA_PSS_SHA384,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha512) => &aws::RSA_PSS_SHA512,
        _ => return Err(OpError::Internal),
    };
    let start = out.len();
    out.resize(start + key.public_modulus_len(), 0);
    key.sign_digest(padding, digest, &mut out[start..])
        .map_err(|_| OpError::Internal)
}

/// Whether `signature` is that of `digest`.
pub(super) fn verify_digest(
    algorithm: Algorithm,
    public: &Public<'_>,
    scheme: Resolved,
    digest: &Digest,
    signature: &[u8],
) -> Result<bool, OpError> {
    let verify: &'static dyn aws::VerificationAlgorithm = match scheme {
        Resolved::Ecdsa(..) if algorithm == Algorithm::EcdsaP384 => &aws::ECDSA_P384_SHA384_ASN1,
        Resolved::Ecdsa(..) => &aws::ECDSA_P256_SHA256_ASN1,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha256) => &aws::RSA_PKCS1_2048_8192_SHA256,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha384) => &aws::RSA_PKCS1_2048_8192_SHA384,
        Resolved::Rsa(RsaPadding::Pkcs1, Hash::Sha512) => &aws::RSA_PKCS1_2048_8192_SHA512,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha256) => &aws::RSA_PSS_2048_8192_SHA256,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha384) => &aws::RSA_PSS_2048_8192_SHA384,
        Resolved::Rsa(RsaPadding::Pss, Hash::Sha512) => &aws::RSA_PSS_2048_8192_SHA512,
        Resolved::Ed25519 => return Err(OpError::Internal),
    };
    let verified = match public {
        Public::Ecdsa(point) => {
            let digest = fitted(algorithm, digest.as_ref())?;
            UnparsedPublicKey::new(verify, point).verify_digest(&digest, signature)
        }
        public => {
            let mut spki = Vec::with_capacity(600);
            public.write_spki(algorithm, &mut spki);
            UnparsedPublicKey::new(verify, spki).verify_digest(digest, signature)
        }
    };
    Ok(verified.is_ok())
}

/// The digest as AWS-LC takes it, if it is of the scheme's hash and a provider takes digests.
pub(super) fn checked_digest(
    choice: ProviderChoice,
    algorithm: Algorithm,
    scheme: Resolved,
    digest: &[u8],
    task: Task,
) -> Result<Digest, OpError> {
    if scheme.hash().is_none() {
        return Err(OpError::Unsupported(
            "Ed25519 signs messages, not digests; leave out --digest and give the message, or of one \
             above 64 KiB sign this digest as the message, and have it verified likewise",
        ));
    }
    if provider(choice, algorithm, task) != Some(Provider::AwsLc) {
        return Err(OpError::Unsupported(
            "this server runs with ring only, which has no call for digests; leave out --digest and \
             give the message, or of one above 64 KiB sign this digest as the message, and have it \
             verified likewise",
        ));
    }
    let expected = scheme.hash().map_or(0, Hash::len);
    Digest::import_less_safe(digest, aws_hash(scheme)?).map_err(|_| OpError::DigestLen {
        found: digest.len(),
        expected,
    })
}

/// A digest as long as the curve's own hash makes it, which stands for the same number: ECDSA takes
/// the leftmost bits of a longer one, and a shorter one is the number that it is (SEC 1, 4.1.3).
fn fitted(algorithm: Algorithm, digest: &[u8]) -> Result<Digest, OpError> {
    let hash = curve_hash(algorithm);
    let mut bytes = [0; DIGEST_LEN_MAX];
    let bytes = &mut bytes[..hash.len()];
    match bytes.len().checked_sub(digest.len()) {
        Some(zeros) => bytes[zeros..].copy_from_slice(digest),
        None => bytes.copy_from_slice(&digest[..bytes.len()]),
    }
    Digest::import_less_safe(bytes, aws_digest_of(hash)).map_err(|_| OpError::Internal)
}

pub(super) fn aws_hash(scheme: Resolved) -> Result<&'static aws_digest::Algorithm, OpError> {
    scheme.hash().map(aws_digest_of).ok_or(OpError::Internal)
}

fn aws_digest_of(hash: Hash) -> &'static aws_digest::Algorithm {
    match hash {
        Hash::Sha256 => &aws_digest::SHA256,
        Hash::Sha384 => &aws_digest::SHA384,
        Hash::Sha512 => &aws_digest::SHA512,
    }
}
