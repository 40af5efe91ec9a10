//! MACs, authenticated encryption and derivation. All of it is ring's.

use super::{Ready, UnlockedKey};
use crate::algorithm::{Algorithm, KeyUsage};
use crate::arena::{Arena, ArenaBox};
use crate::error::{OpError, OpenError};
use crate::scheme::{Input, Scheme};
use crate::uses::{UseCount, Uses};
use crate::wipe::{scrub_stack, scrub_stack_shallow};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{aead, hkdf, hmac};

/// Greatest length that [`UnlockedKey::derive`] gives, in bytes.
pub const DERIVE_LEN_MAX: usize = 4096;

// HKDF-SHA-256 itself ends at 255 blocks.
const _: () = assert!(DERIVE_LEN_MAX <= 255 * 32);

const VERSION_LEN: usize = 4;
const SEALED_HEAD_LEN: usize = VERSION_LEN + aead::NONCE_LEN;
const TAG_LEN: usize = 16;

/// The newest version of an HMAC key, hashed into its two states.
pub(super) struct HmacVersion(ArenaBox<hmac::Key>);

/// The newest version of an AEAD key, its schedule made.
pub(super) struct AeadVersion {
    key: ArenaBox<aead::LessSafeKey>,
    encryptions: UseCount,
}

impl HmacVersion {
    pub(super) fn new(
        arena: &Arena,
        algorithm: Algorithm,
        material: &[u8],
    ) -> Result<Self, OpenError> {
        ArenaBox::try_build(arena, || Ok(hmac_key(algorithm, material))).map(Self)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.0.slot_bytes()
    }
}

impl AeadVersion {
    pub(super) fn new(
        arena: &Arena,
        algorithm: Algorithm,
        material: &[u8],
    ) -> Result<Self, OpenError> {
        let key = ArenaBox::try_build(arena, || {
            aead_key(algorithm, material)
                .map_err(|_| OpenError::Payload("the provider refuses the key"))
        })?;
        Ok(Self {
            key,
            encryptions: UseCount::alone(),
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.key.slot_bytes()
    }

    pub(super) fn set_counter(&mut self, encryptions: UseCount) {
        self.encryptions = encryptions;
    }

    pub(super) fn needs_reservation(&self) -> bool {
        self.encryptions.is_used_up()
    }

    pub(super) fn uses(&self) -> Uses {
        self.encryptions.uses()
    }
}

fn hmac_key(algorithm: Algorithm, material: &[u8]) -> hmac::Key {
    let hmac = match algorithm {
        Algorithm::HmacSha384 => hmac::HMAC_SHA384,
        Algorithm::HmacSha512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    hmac::Key::new(hmac, material)
}

fn aead_key(
    algorithm: Algorithm,
    material: &[u8],
) -> Result<aead::LessSafeKey, ring::error::Unspecified> {
    let aead = match algorithm {
        Algorithm::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        _ => &aead::AES_256_GCM,
    };
    aead::UnboundKey::new(aead, material).map(aead::LessSafeKey::new)
}

impl UnlockedKey {
    /// Appends the MAC of `message` by the newest version. Returns that version.
    pub fn mac(&self, message: &[u8], out: &mut Vec<u8>) -> Result<u32, OpError> {
        self.require(KeyUsage::MAC)?;
        let Ready::Hmac(newest) = &self.ready else {
            return Err(OpError::WrongKeyType);
        };
        self.payload.find(0)?;
        let tag = framed(|| hmac::sign(&newest.0, message));
        out.extend_from_slice(tag.as_ref());
        Ok(self.metadata.version)
    }

    pub(super) fn verify_mac(
        &self,
        version: u32,
        scheme: Scheme,
        input: Input<'_>,
        tag: &[u8],
    ) -> Result<u32, OpError> {
        self.require(KeyUsage::MAC)?;
        let Ready::Hmac(newest) = &self.ready else {
            return Err(OpError::WrongKeyType);
        };
        if !matches!(scheme, Scheme::Default | Scheme::DefaultJws) {
            return Err(OpError::Unsupported(
                "a MAC key has scheme 0 only; leave out --scheme",
            ));
        }
        let Input::Message(message) = input else {
            return Err(OpError::Unsupported(
                "a MAC is over a message, not over a digest; leave out --digest: the tag of a digest is \
                 verified with the digest as the message",
            ));
        };
        let algorithm = self.metadata.algorithm;
        for at in self.candidates(version)? {
            let verified = match at.version == self.metadata.version {
                true => framed(|| hmac::verify(&newest.0, message, tag)),
                false => framed_deep(|| {
                    let key = hmac_key(algorithm, self.payload.material(at));
                    hmac::verify(&key, message, tag)
                }),
            };
            if verified.is_ok() {
                return Ok(at.version);
            }
        }
        Err(OpError::Mismatch)
    }

    /// Encrypts with the newest version under a random nonce and appends: the version (u32, little
    /// endian), the nonce (12 bytes), the ciphertext, its tag (16 bytes). `aad` is authenticated
    /// with it. Returns the version. Refuses beyond [`ENCRYPTIONS_MAX`](crate::ENCRYPTIONS_MAX).
    pub fn encrypt(&self, aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) -> Result<u32, OpError> {
        self.require(KeyUsage::ENCRYPT)?;
        let Ready::Aead(newest) = &self.ready else {
            return Err(OpError::WrongKeyType);
        };
        self.payload.find(0)?;
        newest.encryptions.count()?;
        // A system call of 0.4 us, which is more than the encryption itself. A generator of our own
        // would save it, and would add state that must never repeat: not worth it.
        let mut nonce = [0; aead::NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| OpError::Internal)?;
        let start = out.len();
        out.reserve(SEALED_HEAD_LEN + plaintext.len() + TAG_LEN);
        out.extend_from_slice(&self.metadata.version.to_le_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(plaintext);
        let text = &mut out[start + SEALED_HEAD_LEN..];
        let sealed = framed(|| {
            newest.key.seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(aad),
                text,
            )
        });
        match sealed {
            Ok(tag) => {
                out.extend_from_slice(tag.as_ref());
                Ok(self.metadata.version)
            }
            Err(_) => {
                crate::wipe::wipe(&mut out[start..]);
                out.truncate(start);
                Err(OpError::BadInput("more than the cipher takes at once"))
            }
        }
    }

    /// Decrypts what [`encrypt`](Self::encrypt) gave, with the version that it names, and appends
    /// the plaintext. Returns the version.
    pub fn decrypt(&self, aad: &[u8], sealed: &[u8], out: &mut Vec<u8>) -> Result<u32, OpError> {
        self.require(KeyUsage::DECRYPT)?;
        let Ready::Aead(newest) = &self.ready else {
            return Err(OpError::WrongKeyType);
        };
        let short = OpError::BadInput("a ciphertext has at least 32 bytes");
        let (version, rest) = sealed.split_first_chunk::<VERSION_LEN>().ok_or(short)?;
        let (nonce, text) = rest
            .split_first_chunk::<{ aead::NONCE_LEN }>()
            .ok_or(short)?;
        if text.len() < TAG_LEN {
            return Err(short);
        }
        let version = u32::from_le_bytes(*version);
        // 0 names no version here, unlike in a request's version field.
        if version == 0 {
            return Err(OpError::NoSuchVersion);
        }
        let at = self.payload.find(version)?;
        let start = out.len();
        out.extend_from_slice(text);
        let mut open = |key: &aead::LessSafeKey| {
            let nonce = aead::Nonce::assume_unique_for_key(*nonce);
            let text = &mut out[start..];
            key.open_in_place(nonce, aead::Aad::from(aad), text)
                .map(|plaintext| plaintext.len())
        };
        let opened = match version == self.metadata.version {
            true => framed(|| open(&newest.key)),
            false => framed_deep(|| {
                aead_key(self.metadata.algorithm, self.payload.material(at))
                    .and_then(|key| open(&key))
            }),
        };
        match opened {
            Ok(len) => {
                out.truncate(start + len);
                Ok(version)
            }
            Err(_) => {
                out.truncate(start);
                Err(OpError::Mismatch)
            }
        }
    }

    /// Derives `out_len` bytes (1 to [`DERIVE_LEN_MAX`]) with HKDF-SHA-256 from the newest version
    /// and appends them. Returns that version. After a rotation the same inputs give other bytes.
    pub fn derive(
        &self,
        out_len: usize,
        salt: &[u8],
        info: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        /// A length as ring wants it.
        struct Len(usize);
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                self.0
            }
        }

        self.require(KeyUsage::DERIVE)?;
        if !(1..=DERIVE_LEN_MAX).contains(&out_len) {
            return Err(OpError::BadInput("1 to 4096 bytes can be derived"));
        }
        let secret = self.payload.material(self.payload.find(0)?);
        let start = out.len();
        out.resize(start + out_len, 0);
        let derived = framed(|| {
            hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
                .extract(secret)
                .expand(&[info], Len(out_len))
                .and_then(|okm| okm.fill(&mut out[start..]))
        });
        if derived.is_err() {
            out.truncate(start);
            return Err(OpError::Internal);
        }
        Ok(self.metadata.version)
    }
}

/// Runs `work` in frames of its own, and overwrites them afterwards: hash states and cipher words
/// made from a key can stand in for it.
#[inline(always)]
fn framed<R>(work: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn frame<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    let result = frame(work);
    scrub_stack_shallow();
    result
}

/// The same for work that builds a key on the stack.
fn framed_deep<R>(work: impl FnOnce() -> R) -> R {
    #[inline(never)]
    fn frame<R>(work: impl FnOnce() -> R) -> R {
        work()
    }
    let result = frame(work);
    scrub_stack();
    result
}
