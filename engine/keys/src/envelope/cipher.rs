//! The cryptography of a blob.
//!
//! Every blob has a key of its own: HKDF-SHA-256 with the blob's random salt extracts from the DEK
//! and expands to an AES-256-GCM key and to a commitment. As the key encrypts once, its nonce is
//! constant. AES-GCM alone would let a forger make a ciphertext that opens under two keys; the
//! commitment in the header pins the one.

use super::header::{COMMITMENT_LEN, Header, Parts, SALT_LEN};
use crate::arena::ArenaBytes;
use crate::dek::Dek;
use crate::error::OpenError;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use subtle::ConstantTimeEq;

/// Length of an authentication tag, in bytes.
pub(crate) const TAG_LEN: usize = 16;

const INFO_KEY: &[u8] = b"keyway blob v1 encryption key";
const INFO_COMMITMENT: &[u8] = b"keyway blob v1 key commitment";

/// Encrypts a payload. `payload` is the plaintext followed by `TAG_LEN` bytes of room; `header` has
/// everything but its commitment, which is set here. Appends the whole blob to `out`.
pub(crate) fn seal(
    dek: &Dek,
    mut header: Header<'_>,
    mut payload: ArenaBytes,
    out: &mut Vec<u8>,
) -> Result<(), Unspecified> {
    let (key, commitment) = blob_keys(dek, &header.salt)?;
    header.commitment = commitment;
    let aad_start = out.len();
    header.write(out);
    let (plaintext, room) = payload.split_at_mut(header.payload_len);
    let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(&out[aad_start..]), plaintext)?;
    room.copy_from_slice(tag.as_ref());
    // It is ciphertext by now.
    out.extend_from_slice(&payload);
    Ok(())
}

/// Decrypts `sealed`, a copy of the blob's sealed part in the arena, in place; leaves the plaintext.
pub(crate) fn open(
    dek: &Dek,
    header: &Header<'_>,
    parts: Parts<'_>,
    sealed: &mut ArenaBytes,
) -> Result<(), OpenError> {
    let (key, commitment) =
        blob_keys(dek, &header.salt).map_err(|Unspecified| OpenError::Commitment)?;
    if !bool::from(commitment.ct_eq(&header.commitment)) {
        return Err(OpenError::Commitment);
    }
    let plaintext_len = key
        .open_in_place(nonce(), Aad::from(parts.header), sealed)
        .map_err(|Unspecified| OpenError::Corrupt)?
        .len();
    sealed.truncate(plaintext_len);
    Ok(())
}

fn blob_keys(
    dek: &Dek,
    salt: &[u8; SALT_LEN],
) -> Result<(LessSafeKey, [u8; COMMITMENT_LEN]), Unspecified> {
    let prk = Salt::new(HKDF_SHA256, salt).extract(dek.bytes());
    let mut commitment = [0; COMMITMENT_LEN];
    prk.expand(&[INFO_COMMITMENT], HKDF_SHA256)?
        .fill(&mut commitment)?;
    let key = UnboundKey::from(prk.expand(&[INFO_KEY], &AES_256_GCM)?);
    Ok((LessSafeKey::new(key), commitment))
}

/// Constant: a blob's key encrypts exactly one payload.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}
