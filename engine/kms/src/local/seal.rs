//! The cryptography of the local KMS, as pure functions: no files, no state, and random numbers are arguments, so that
//! known-answer tests cover all of it.
//!
//! ```text
//! passphrase ─Argon2id(salt)─▶ master ─HKDF─▶ key, commitment      key: AES-256-GCM(nonce) over each KEK
//! shares ─SLIP-39─▶ secret ───────────HKDF─▶ key, commitment      the same
//! KEK ─HKDF(salt of this wrap, header, context)─▶ key, commitment   key: AES-256-GCM(nonce 0) over the DEK
//! ```
//!
//! Each wrap derives its own key from 32 random bytes, instead of using the KEK with a random 96-bit nonce. Such nonces
//! would limit a KEK to 2^32 wraps and require a count; a derived key has no such limit, allows a zero nonce, and
//! provides the commitment that AES-GCM lacks in the same step. It costs 3 µs, twice per hour and keyspace.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::context::CONTEXT_BYTES;
use crate::secret::{SECRET_BYTES, scrub_stack};
use crate::{Class, Context, KmsError, Passphrase, SecretKey};

pub(super) const SALT_BYTES: usize = 16;
pub(super) const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const COMMITMENT_BYTES: usize = 32;
/// A KEK and its tag.
pub(super) const SEALED_KEK_BYTES: usize = SECRET_BYTES + TAG_BYTES;

const KEK_INFO: &[u8] = b"keyway local kek protection v1";
const SHARES_INFO: &[u8] = b"keyway local kek shares v1";
const WRAP_INFO: &[u8] = b"keyway local dek wrap v1";

/// The cost of deriving a key from a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argon2Params {
    /// Memory in KiB: 65536 (64 MiB) to 4194304 (4 GiB).
    pub m_kib: u32,
    /// Passes over the memory: 1 to 64.
    pub t: u32,
    /// Lanes: 1 to 16. They run sequentially here, and in parallel on an attacker's hardware.
    pub p: u32,
}

impl Argon2Params {
    /// Least memory, in KiB.
    pub const M_KIB_MIN: u32 = 64 * 1024;
    /// Most memory, in KiB: a file that requires more was tampered with.
    pub const M_KIB_MAX: u32 = 4 * 1024 * 1024;
    /// Most passes.
    pub const T_MAX: u32 = 64;
    /// Most lanes.
    pub const P_MAX: u32 = 16;

    /// Refuses values outside the limits.
    pub fn check(&self) -> Result<(), KmsError> {
        let refuse = |what: String| {
            let remedy = format!(
                "use m_kib {} to {}, t 1 to {}, p 1 to {}",
                Self::M_KIB_MIN,
                Self::M_KIB_MAX,
                Self::T_MAX,
                Self::P_MAX
            );
            Err(KmsError::new(Class::Misconfigured, what, remedy))
        };
        if !(Self::M_KIB_MIN..=Self::M_KIB_MAX).contains(&self.m_kib) {
            return refuse(format!(
                "Argon2id memory m_kib {} is out of range",
                self.m_kib
            ));
        }
        if !(1..=Self::T_MAX).contains(&self.t) {
            return refuse(format!("Argon2id passes t {} is out of range", self.t));
        }
        if !(1..=Self::P_MAX).contains(&self.p) {
            return refuse(format!("Argon2id lanes p {} is out of range", self.p));
        }
        Ok(())
    }
}

impl Default for Argon2Params {
    /// RFC 9106, section 4, the second recommended option.
    fn default() -> Self {
        Self {
            m_kib: 65_536,
            t: 3,
            p: 4,
        }
    }
}

/// The keys derived from a passphrase, or from the secret of a set of shares.
pub(super) struct ProtectionKey {
    key: SecretKey,
    /// Distinguishes a wrong secret from a corrupt ciphertext.
    pub(super) commitment: [u8; COMMITMENT_BYTES],
}

/// Runs Argon2id: takes `params.m_kib` of memory and some tenths of a second.
pub(super) fn derive_from_passphrase(
    passphrase: &Passphrase,
    salt: &[u8; SALT_BYTES],
    params: Argon2Params,
) -> Result<ProtectionKey, KmsError> {
    params.check()?;
    let argon2_params =
        Params::new(params.m_kib, params.t, params.p, Some(SECRET_BYTES)).map_err(|error| {
            KmsError::new(
                Class::Misconfigured,
                format!("Argon2id refuses {params:?}: {error}"),
                "report this as a fault of the program",
            )
        })?;
    let block_count = argon2_params.block_count();
    // The memory is wiped afterwards: its last blocks are equivalent to the key.
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(block_count).map_err(|_| {
        KmsError::new(
            Class::Unavailable { retry_after: None },
            format!("no memory for Argon2id: {} MiB", params.m_kib / 1024),
            "raise the service's memory limit",
        )
    })?;
    blocks.resize(block_count, Block::new());
    // Boxed, since a vector would wipe its memory twice.
    let mut blocks = Zeroizing::new(blocks.into_boxed_slice());
    let master = SecretKey::try_fill(|out| {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, argon2_params)
            .hash_password_into_with_memory(passphrase.expose(), salt, out, &mut **blocks)
            .map_err(|error| {
                KmsError::new(
                    Class::Misconfigured,
                    format!("Argon2id failed: {error}"),
                    "report this as a fault of the program",
                )
            })
    })?;
    let (key, commitment) = derive(&master, &[], &[KEK_INFO]);
    scrub_stack();
    Ok(ProtectionKey { key, commitment })
}

/// Derives a key from 32 random bytes generated for one file, so neither a salt nor a slow function is needed.
pub(super) fn derive_from_shared_secret(secret: &SecretKey) -> ProtectionKey {
    let (key, commitment) = derive(secret, &[], &[SHARES_INFO]);
    scrub_stack();
    ProtectionKey { key, commitment }
}

impl ProtectionKey {
    /// Returns `true` if this was derived from the secret with which the file was created.
    pub(super) fn is_committed(&self, commitment: &[u8; COMMITMENT_BYTES]) -> bool {
        self.commitment.ct_eq(commitment).into()
    }

    pub(super) fn seal_kek(
        &self,
        kek: &SecretKey,
        nonce: [u8; NONCE_BYTES],
        binding: &[u8],
    ) -> [u8; SEALED_KEK_BYTES] {
        let sealed = seal(&self.key, nonce, binding, kek);
        scrub_stack();
        sealed
    }

    /// Returns `None` if the ciphertext or its associated data was changed.
    pub(super) fn open_kek(
        &self,
        sealed: &[u8; SEALED_KEK_BYTES],
        nonce: [u8; NONCE_BYTES],
        binding: &[u8],
    ) -> Option<SecretKey> {
        let kek = open(&self.key, nonce, binding, sealed);
        scrub_stack();
        kek
    }
}

/// Size of a wrapped DEK in its stored form: magic `KWDW`, format u8 = 1, suite u8 = 1, u16 zero, KEK version u32
/// (little-endian), KEK file id 16, salt 32, commitment 32, ciphertext 32, tag 16. Everything before the ciphertext, and
/// the context, is authenticated.
pub(super) const WRAPPED_BYTES: usize = HEADER_BYTES + SEALED_KEK_BYTES;

const MAGIC_AND_FORMAT: [u8; 8] = *b"KWDW\x01\x01\0\0";
const WRAP_SALT_BYTES: usize = 32;
/// Magic to file id: the input of the derivation of the wrap's key.
const NAMES_BYTES: usize = 28;
const COMMITMENT_AT: usize = NAMES_BYTES + WRAP_SALT_BYTES;
const HEADER_BYTES: usize = COMMITMENT_AT + COMMITMENT_BYTES;

const _: () = assert!(WRAPPED_BYTES == 140 && WRAPPED_BYTES <= crate::WRAPPED_BYTES_MAX);

/// The KEK that a wrapped DEK names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WrapNames {
    pub(super) kek_version: u32,
    pub(super) file_id: [u8; 16],
}

impl WrapNames {
    /// Returns `None` if these bytes were not created by [`wrap_dek`].
    pub(super) fn parse(wrapped: &[u8]) -> Option<Self> {
        if wrapped.len() != WRAPPED_BYTES || wrapped[..8] != MAGIC_AND_FORMAT {
            return None;
        }
        let mut version = [0; 4];
        version.copy_from_slice(&wrapped[8..12]);
        let mut file_id = [0; 16];
        file_id.copy_from_slice(&wrapped[12..NAMES_BYTES]);
        Some(Self {
            kek_version: u32::from_le_bytes(version),
            file_id,
        })
    }
}

/// Wraps `dek`. `salt` must be fresh random bytes: the key of this wrap is derived from it.
pub(super) fn wrap_dek(
    kek: &SecretKey,
    names: WrapNames,
    salt: &[u8; WRAP_SALT_BYTES],
    context: &Context,
    dek: &SecretKey,
) -> Vec<u8> {
    let mut wrapped = Vec::with_capacity(WRAPPED_BYTES);
    wrapped.extend_from_slice(&MAGIC_AND_FORMAT);
    wrapped.extend_from_slice(&names.kek_version.to_le_bytes());
    wrapped.extend_from_slice(&names.file_id);
    let context = context.to_bytes();
    let (key, commitment) = derive(kek, salt, &[WRAP_INFO, &wrapped, &context]);
    wrapped.extend_from_slice(salt);
    wrapped.extend_from_slice(&commitment);
    let sealed = seal(
        &key,
        [0; NONCE_BYTES],
        &wrap_binding(&wrapped, &context),
        dek,
    );
    wrapped.extend_from_slice(&sealed);
    scrub_stack();
    wrapped
}

/// Returns `None` if the wrapped DEK was changed, or is bound to another context or KEK. `wrapped` must have passed
/// [`WrapNames::parse`].
pub(super) fn unwrap_dek(kek: &SecretKey, context: &Context, wrapped: &[u8]) -> Option<SecretKey> {
    let (header, sealed) = wrapped.split_at_checked(HEADER_BYTES)?;
    let context = context.to_bytes();
    let (key, commitment) = derive(
        kek,
        &header[NAMES_BYTES..COMMITMENT_AT],
        &[WRAP_INFO, &header[..NAMES_BYTES], &context],
    );
    let committed: bool = commitment.ct_eq(&header[COMMITMENT_AT..]).into();
    let dek = if committed {
        open(
            &key,
            [0; NONCE_BYTES],
            &wrap_binding(header, &context),
            sealed.try_into().ok()?,
        )
    } else {
        None
    };
    scrub_stack();
    dek
}

fn wrap_binding(header: &[u8], context: &[u8; CONTEXT_BYTES]) -> Vec<u8> {
    [header, context].concat()
}

/// Derives a key and a commitment to it with HKDF-SHA-256.
fn derive(secret: &SecretKey, salt: &[u8], info: &[&[u8]]) -> (SecretKey, [u8; COMMITMENT_BYTES]) {
    struct KeyAndCommitment;
    impl KeyType for KeyAndCommitment {
        fn len(&self) -> usize {
            SECRET_BYTES + COMMITMENT_BYTES
        }
    }
    let mut out = Zeroizing::new([0; SECRET_BYTES + COMMITMENT_BYTES]);
    Salt::new(HKDF_SHA256, salt)
        .extract(secret.expose())
        .expand(info, KeyAndCommitment)
        .and_then(|okm| okm.fill(&mut *out))
        .expect(
            "64 bytes are less than HKDF-SHA-256's limit of 8160, and the buffer has that length",
        );
    let Ok(key) = SecretKey::try_fill(|key| {
        key.copy_from_slice(&out[..SECRET_BYTES]);
        Ok::<(), std::convert::Infallible>(())
    });
    let mut commitment = [0; COMMITMENT_BYTES];
    commitment.copy_from_slice(&out[SECRET_BYTES..]);
    (key, commitment)
}

fn aead(key: &SecretKey) -> LessSafeKey {
    let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("AES-256 takes 32 bytes");
    LessSafeKey::new(key)
}

fn seal(
    key: &SecretKey,
    nonce: [u8; NONCE_BYTES],
    binding: &[u8],
    plain: &SecretKey,
) -> [u8; SEALED_KEK_BYTES] {
    let mut buffer = Zeroizing::new([0; SEALED_KEK_BYTES]);
    let (text, tag_out) = buffer.split_at_mut(SECRET_BYTES);
    text.copy_from_slice(plain.expose());
    let tag = aead(key)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(binding),
            text,
        )
        .expect("32 bytes are less than AES-GCM's limit");
    tag_out.copy_from_slice(tag.as_ref());
    *buffer
}

fn open(
    key: &SecretKey,
    nonce: [u8; NONCE_BYTES],
    binding: &[u8],
    sealed: &[u8; SEALED_KEK_BYTES],
) -> Option<SecretKey> {
    let mut buffer = Zeroizing::new(*sealed);
    let opened = aead(key)
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(binding),
            &mut *buffer,
        )
        .ok()?;
    SecretKey::try_fill(|out| {
        out.copy_from_slice(opened);
        Ok::<(), std::convert::Infallible>(())
    })
    .ok()
}
