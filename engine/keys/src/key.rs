//! An unlocked key and what it can do.

mod digest;
mod jws;
mod sign;
mod symmetric;
mod verify;

pub use symmetric::DERIVE_LEN_MAX;
pub use verify::verify_with_public_key;

use crate::algorithm::{Algorithm, Family, KeyUsage};
use crate::arena::{Arena, ArenaBox};
use crate::envelope::{Context, Metadata, Payload};
use crate::error::{OpError, OpenError};
use crate::import::ring_ecdsa;
use crate::material::{self, Public, public_part};
use crate::providers::{Provider, ProviderChoice, Task, provider};
use crate::uses::{UseLedger, Uses};
use core::fmt;
use ring::rand::SystemRandom;
use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use sign::AwsRsa;
use symmetric::{AeadVersion, HmacVersion};

/// A key whose secret lies in the arena. Dropping it wipes the secret. `Debug` shows no secrets.
pub struct UnlockedKey {
    metadata: Metadata,
    payload: Payload,
    ready: Ready,
    choice: ProviderChoice,
}

/// What signing or encrypting needs beside the payload.
enum Ready {
    /// The payload's own 64 bytes (AWS-LC).
    Ed25519,
    Ed25519Ring(ArenaBox<Ed25519KeyPair>),
    /// An object per signature, from the payload's PKCS#8 (AWS-LC).
    Ecdsa,
    EcdsaRing(ArenaBox<EcdsaKeyPair>),
    /// An object from the first signature on (AWS-LC).
    Rsa(AwsRsa),
    RsaRing(ArenaBox<RsaKeyPair>),
    /// The newest version; an older one is built when it is used.
    Hmac(HmacVersion),
    /// The newest version; an older one is built when it is used.
    Aead(AeadVersion),
    /// The payload's own secret.
    Hkdf,
}

/// One of a key's versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its number, from 1.
    pub version: u32,
    /// When it was made, Unix time in milliseconds.
    pub created_unix_ms: u64,
    /// Whether it is revoked: it does nothing any more.
    pub revoked: bool,
}

/// What can be done with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the method of the same name")]
pub enum KeyOperation {
    Sign,
    Verify,
    Mac,
    Encrypt,
    Decrypt,
    Derive,
    PublicKey,
    Export,
}

/// Versions that a verification may try without being slow, for an algorithm that is fast.
const FAST_VERSIONS_MAX: usize = 8;

/// How long an operation holds its shard up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Below about 0.1 ms for inputs up to 64 KiB.
    Fast,
    /// 0.1 to 5 ms: to be bounded so that it does not starve the rest.
    Slow,
}

impl UnlockedKey {
    pub(crate) fn new(
        arena: &Arena,
        choice: ProviderChoice,
        metadata: Metadata,
        payload: Payload,
    ) -> Result<Self, OpenError> {
        let ready = Ready::new(arena, choice, metadata.algorithm, &payload)?;
        Ok(Self {
            metadata,
            payload,
            ready,
            choice,
        })
    }

    /// What the blob says of the key.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The versions, newest first; revoked ones too.
    pub fn versions(&self) -> impl Iterator<Item = VersionInfo> + '_ {
        self.payload.versions().iter().map(|at| VersionInfo {
            version: at.version,
            created_unix_ms: at.created_unix_ms,
            revoked: at.is_revoked(),
        })
    }

    /// Memory that this key holds on to, in bytes: arena slots, and an estimate of what a provider
    /// keeps on the heap.
    pub fn memory_bytes(&self) -> usize {
        /// An RSA object on the heap, in modulus lengths: eight numbers, Montgomery constants for
        /// each modulus, and blinding.
        const RSA_HEAP_MODULI: usize = 12;
        let rsa_heap = match self.metadata.algorithm {
            Algorithm::Rsa2048 => 256 * RSA_HEAP_MODULI,
            Algorithm::Rsa3072 => 384 * RSA_HEAP_MODULI,
            Algorithm::Rsa4096 => 512 * RSA_HEAP_MODULI,
            _ => 0,
        };
        let ready = match &self.ready {
            Ready::Ed25519 | Ready::Ecdsa | Ready::Hkdf => 0,
            Ready::Ed25519Ring(key) => key.slot_bytes(),
            Ready::EcdsaRing(key) => key.slot_bytes(),
            Ready::Rsa(_) => rsa_heap,
            Ready::RsaRing(key) => key.slot_bytes() + rsa_heap,
            Ready::Hmac(newest) => newest.memory_bytes(),
            Ready::Aead(newest) => newest.memory_bytes(),
        };
        let versions = size_of_val(self.payload.versions());
        size_of::<Self>() + self.payload.slot_bytes() + versions + ready
    }

    /// Whether the key is valid at that time. Only a key with a `not_before` or a `not_after` in
    /// its metadata can fail this.
    pub fn check_time(&self, now_unix_ms: u64) -> Result<(), OpError> {
        let Metadata {
            not_before_unix_ms: from,
            not_after_unix_ms: until,
            ..
        } = self.metadata;
        if now_unix_ms < from {
            Err(OpError::NotYetValid(from))
        } else if until != 0 && now_unix_ms >= until {
            Err(OpError::Expired(until))
        } else {
            Ok(())
        }
    }

    /// How long a verification with `version` takes, 0 being every version.
    pub fn verify_cost(&self, version: u32, is_digest: bool) -> Cost {
        if version == 0 && self.payload.versions().len() > FAST_VERSIONS_MAX {
            return Cost::Slow;
        }
        self.cost(KeyOperation::Verify, is_digest)
    }

    /// How long `operation` takes; `is_digest` tells whether its input is a caller-made digest.
    pub fn cost(&self, operation: KeyOperation, is_digest: bool) -> Cost {
        let algorithm = self.metadata.algorithm;
        match (operation, algorithm.family()) {
            (KeyOperation::Sign, Family::Rsa) => Cost::Slow,
            (KeyOperation::Sign | KeyOperation::Verify, _) if algorithm == Algorithm::EcdsaP384 => {
                Cost::Slow
            }
            // ring takes 80 us for a message; AWS-LC parses the key again for a digest.
            (KeyOperation::Verify, Family::Rsa) if is_digest && algorithm == Algorithm::Rsa4096 => {
                Cost::Slow
            }
            _ => Cost::Fast,
        }
    }

    /// Appends the public key of `version` (0 is the newest), SubjectPublicKeyInfo DER. Returns the
    /// version.
    pub fn public_key(&self, version: u32, out: &mut Vec<u8>) -> Result<u32, OpError> {
        let algorithm = self.metadata.algorithm;
        if !algorithm.is_asymmetric() {
            return Err(OpError::WrongKeyType);
        }
        let at = self.payload.find(version)?;
        self.public(self.payload.material(at))?
            .write_spki(algorithm, out);
        Ok(at.version)
    }

    /// Appends the secret of `version` (0 is the newest): PKCS#8 DER, or a symmetric key's own
    /// bytes. Returns the version. `out` is the caller's to wipe.
    pub fn export(&self, version: u32, out: &mut Vec<u8>) -> Result<u32, OpError> {
        if !self.metadata.exportable {
            return Err(OpError::NotExportable);
        }
        let at = self.payload.find(version)?;
        material::export(self.metadata.algorithm, self.payload.material(at), out);
        Ok(at.version)
    }

    /// Goes on counting encryptions where earlier unlockings of the same key left off. To be called
    /// right after opening; does nothing for keys that do not encrypt.
    pub fn count_uses_in(&mut self, ledger: &UseLedger, context: Context<'_>) {
        if let Ready::Aead(aead) = &mut self.ready {
            let newest = self.metadata.version;
            aead.set_counter(ledger.counter(context.keyspace, context.key_id, newest));
        }
    }

    /// Whether the next encryption has to be reserved first: see [`UseLedger::reserve`].
    pub fn needs_reservation(&self) -> bool {
        let is_usable = !self.payload.newest().is_revoked();
        is_usable && matches!(&self.ready, Ready::Aead(newest) if newest.needs_reservation())
    }

    /// How often the newest version has encrypted; `None` for keys that do not.
    pub fn uses(&self) -> Option<Uses> {
        match &self.ready {
            Ready::Aead(newest) => Some(newest.uses()),
            _ => None,
        }
    }

    fn require(&self, usage: KeyUsage) -> Result<(), OpError> {
        if self.metadata.usage.contains(usage) {
            Ok(())
        } else if self.metadata.algorithm.usage_default().contains(usage) {
            Err(OpError::UsageForbidden)
        } else {
            Err(OpError::WrongKeyType)
        }
    }

    fn public<'a>(&self, material: &'a [u8]) -> Result<Public<'a>, OpError> {
        // The material was checked when it was sealed.
        public_part(self.metadata.algorithm, material).map_err(|_| OpError::Internal)
    }
}

impl Ready {
    fn new(
        arena: &Arena,
        choice: ProviderChoice,
        algorithm: Algorithm,
        payload: &Payload,
    ) -> Result<Self, OpenError> {
        let material = payload.material(payload.newest());
        let refused = |_| OpenError::Payload("the provider refuses the key");
        let by_ring = provider(choice, algorithm, Task::Sign) == Some(Provider::Ring);
        Ok(match algorithm.family() {
            Family::Ed25519 if by_ring => Self::Ed25519Ring(ArenaBox::try_build(arena, || {
                let (seed, public) = material.split_at(material.len() / 2);
                Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(refused)
            })?),
            Family::Ed25519 => Self::Ed25519,
            Family::Ecdsa if by_ring => Self::EcdsaRing(ArenaBox::try_build(arena, || {
                let curve = ring_ecdsa(algorithm);
                EcdsaKeyPair::from_pkcs8(curve, material, &SystemRandom::new()).map_err(refused)
            })?),
            Family::Ecdsa => Self::Ecdsa,
            Family::Rsa if by_ring => Self::RsaRing(ArenaBox::try_build(arena, || {
                RsaKeyPair::from_pkcs8(material).map_err(refused)
            })?),
            Family::Rsa => Self::Rsa(AwsRsa::default()),
            Family::Hmac => Self::Hmac(HmacVersion::new(arena, algorithm, material)?),
            Family::Aead => Self::Aead(AeadVersion::new(arena, algorithm, material)?),
            Family::Hkdf => Self::Hkdf,
        })
    }
}

impl fmt::Debug for UnlockedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnlockedKey")
            .field("metadata", &self.metadata)
            .finish_non_exhaustive()
    }
}
