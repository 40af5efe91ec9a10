//! What a wrapped key is bound to at the KMS.

use std::fmt;

/// Length of [`Context::to_bytes`].
pub const CONTEXT_BYTES: usize = 32;

const MAGIC: [u8; 4] = *b"KWCX";
const FORMAT: u8 = 1;

/// Offset of the purpose in [`Context::to_bytes`].
pub(crate) const PURPOSE_AT: usize = 5;

/// What the wrapped key is for. The number is part of what is authenticated and is never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// A keyspace's data key, which seals the keys' blobs.
    DataKey = 1,
    /// The key that authenticates the catalogue; it belongs to no keyspace.
    CatalogueKey = 2,
    /// As [`Purpose::DataKey`], for a keyspace in an authenticated catalogue: if a catalogue contains such a key and is
    /// not authenticated, it has been tampered with.
    SealedDataKey = 3,
}

/// The binding of a wrapped key. A KMS that wrapped a key under one context refuses to unwrap it under another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The cluster's identity: random, generated with its data directory.
    pub cluster: [u8; 16],
    /// The keyspace's id.
    pub keyspace: u32,
    /// The DEK's generation within the keyspace.
    pub generation: u32,
    /// What the key is for.
    pub purpose: Purpose,
}

impl Context {
    /// Returns the canonical encoding, little-endian: magic `KWCX`, format u8 = 1, purpose u8, u16 zero, cluster,
    /// keyspace u32, generation u32. Each context has one encoding, and all have the same length.
    pub fn to_bytes(&self) -> [u8; CONTEXT_BYTES] {
        let mut bytes = [0; CONTEXT_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4] = FORMAT;
        bytes[PURPOSE_AT] = self.purpose as u8;
        bytes[8..24].copy_from_slice(&self.cluster);
        bytes[24..28].copy_from_slice(&self.keyspace.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.generation.to_le_bytes());
        bytes
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "keyspace {}, generation {}",
            self.keyspace, self.generation
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_fixed() {
        let context = Context {
            cluster: *b"0123456789abcdef",
            keyspace: 0x0403_0201,
            generation: 0x0807_0605,
            purpose: Purpose::DataKey,
        };
        assert_eq!(
            &context.to_bytes(),
            b"KWCX\x01\x01\0\x000123456789abcdef\x01\x02\x03\x04\x05\x06\x07\x08"
        );
    }
}
