//! RSA keys as Windows keeps them: a `PRIVATEKEYBLOB` (MSBLOB), and PVK, which puts a header before one. OpenSSL reads both.
//!
//! All numbers are little-endian and of fixed lengths: one reversal of the whole makes them big-endian.

use super::rsa::RsaParts;
use super::{Importer, Material, damaged, document, encrypted};
use crate::arena::ArenaBytes;
use crate::der::without_zeros;
use crate::error::KeyError;

/// The type of a private key, version 2, and two reserved bytes.
const HEAD: [u8; 4] = [7, 2, 0, 0];
const PVK_MAGIC: [u8; 4] = 0xb0b5_f11e_u32.to_le_bytes();
/// Magic, reserved, key type, whether it is encrypted, and the lengths of the salt and of the key.
const PVK_HEAD_LEN: usize = 24;
/// `HEAD`, the algorithm's id, the magic, the length of the modulus in bits, and the exponent.
const BLOB_HEAD_LEN: usize = 20;

/// Whether these bytes begin as one of the two does.
pub(super) fn is_blob(bytes: &[u8]) -> bool {
    let is_key = |bytes: &[u8]| {
        bytes.starts_with(&HEAD) && matches!(bytes.get(8..12), Some(b"RSA2" | b"DSS2"))
    };
    is_key(bytes) || (bytes.len() > PVK_HEAD_LEN && bytes.starts_with(&PVK_MAGIC))
}

impl Importer<'_> {
    /// A key from either.
    pub(super) fn blob(&self, bytes: &[u8]) -> Result<Material, KeyError> {
        let blob = match bytes.strip_prefix(&PVK_MAGIC) {
            Some(_) => {
                if bytes[12..16] != [0; 4] {
                    return Err(encrypted());
                }
                &bytes[PVK_HEAD_LEN..]
            }
            None => bytes,
        };
        let (Some(head), Some(numbers)) = (blob.get(..BLOB_HEAD_LEN), blob.get(BLOB_HEAD_LEN..))
        else {
            return Err(damaged("RSA"));
        };
        if &head[8..12] == b"DSS2" {
            return Err(document::unsupported("DSA"));
        }
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let bits = word(12) as usize;
        let (whole, half) = (bits.div_ceil(8), bits.div_ceil(16));
        let parts_len = [whole, half, half, half, half, half, whole];
        let numbers = parts_len
            .iter()
            .try_fold(0_usize, |sum, len| sum.checked_add(*len))
            .and_then(|len| numbers.get(..len))
            .ok_or_else(|| damaged("RSA"))?;
        let mut reversed = ArenaBytes::copied(self.arena, numbers)?;
        reversed.reverse();
        // The last number comes first now.
        let mut rest = &reversed[..];
        let mut next = |len: usize| {
            let (number, behind) = rest.split_at(len);
            rest = behind;
            without_zeros(number)
        };
        let (d, qinv, dq, dp) = (next(whole), next(half), next(half), next(half));
        let (q, p, n) = (next(half), next(half), next(whole));
        let exponent = word(16).to_be_bytes();
        self.rsa(RsaParts {
            n,
            e: without_zeros(&exponent),
            d,
            p,
            q,
            crt: Some([dp, dq, qinv]),
        })
    }
}
