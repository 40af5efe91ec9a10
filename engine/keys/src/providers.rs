//! Which provider does what. This table is the only place that decides it.
//!
//! Measured with `examples/provider_figures.rs` on an AMD EPYC (family 25, model 17), microseconds
//! per call, ring 0.17.14 against AWS-LC through aws-lc-rs 1.19.0 (raw output:
//! `bench/results/providers-2026-11-23.txt`):
//!
//! | operation | ring | AWS-LC | chosen |
//! |---|---|---|---|
//! | Ed25519 sign | 22.7 | 8.3 over 64 bytes, no object | AWS-LC |
//! | Ed25519 key object from its seed | 22.1 | none needed | AWS-LC |
//! | Ed25519 verify | 45.3 | 36.1 | AWS-LC |
//! | P-256 sign | 16.8 | 15.6 with an object kept, 24.7 with one per call | ring: its key pair lies in the arena |
//! | P-256 sign a digest | cannot | 24.7 with an object per call | AWS-LC |
//! | P-256 verify | 51.6 | 49.4 | ring |
//! | P-384 sign | 406 | 132 with an object per call | AWS-LC |
//! | P-384 verify | 723 | 192 | AWS-LC |
//! | RSA-2048 sign | 558 | 232 with an object kept, 652 with one per call | AWS-LC, kept |
//! | RSA-2048 key object | 15 | 155 | (built at the first signature) |
//! | RSA-4096 sign | 3926 | 1420 with an object kept | AWS-LC, kept |
//! | RSA-2048 verify | 21.6 | 18.3 | ring: no object, no allocation |
//! | HMAC, AEAD, HKDF | 0.1 to 0.5 | the same | ring: its contexts lie in the arena |
//! | RSA generate | cannot | 30 ms (2048) to 1 s (4096) | AWS-LC |
//!
//! AWS-LC's key objects lie on the C heap, outside the locked arena, though AWS-LC wipes what it
//! frees. So EC objects are built for one signature and dropped right after it: no EC key ever
//! rests outside the arena. An RSA object is kept from the first signature until its key is dropped:
//! building it and setting up its blinding costs twice the signature, and ring would keep its limbs
//! on the (Rust) heap as well.

use crate::algorithm::{Algorithm, Family};

/// Which providers may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProviderChoice {
    /// The faster one where it matters, as the table of this module says.
    #[default]
    Default,
    /// ring only. Then caller-made digests and the generation of RSA keys are unsupported.
    RingOnly,
}

/// A cryptography library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    Ring,
    AwsLc,
}

/// What a provider is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    Generate,
    Sign,
    SignDigest,
    Verify,
    VerifyDigest,
}

/// The provider for `task` with keys of `algorithm`, which is asymmetric (everything symmetric is
/// ring's); `None` if it is not to be had.
pub(crate) fn provider(
    choice: ProviderChoice,
    algorithm: Algorithm,
    task: Task,
) -> Option<Provider> {
    use {Provider::*, Task::*};
    if choice == ProviderChoice::RingOnly {
        let ring_can = match task {
            Sign | Verify => true,
            Generate => algorithm.family() != Family::Rsa,
            SignDigest | VerifyDigest => false,
        };
        return ring_can.then_some(Ring);
    }
    match (algorithm, task) {
        // Ed25519 hashes twice, so a digest of the message cannot be signed.
        (Algorithm::Ed25519, SignDigest | VerifyDigest) => None,
        (Algorithm::Ed25519, _) => Some(AwsLc),
        (_, SignDigest | VerifyDigest) => Some(AwsLc),
        (Algorithm::EcdsaP256, _) => Some(Ring),
        (Algorithm::EcdsaP384, Generate) => Some(Ring),
        (Algorithm::EcdsaP384, _) => Some(AwsLc),
        (_, Verify) => Some(Ring),
        (_, Generate | Sign) => Some(AwsLc),
    }
}
