//! The header's fields and their one canonical form.

use super::{Metadata, PAYLOAD_LEN_MAX, TAG_LEN, VersionsKept, key_id_is_valid};
use crate::algorithm::{Algorithm, KeyUsage};
use crate::error::OpenError;

/// Length of the salt, in bytes.
pub(crate) const SALT_LEN: usize = 32;
/// Length of the key commitment, in bytes.
pub(crate) const COMMITMENT_LEN: usize = 32;
/// Length of the fields that every format has, in bytes.
const COMMON_LEN: usize = 116;
/// Length of what format 3 has behind them, in bytes.
const VERSIONS_LEN: usize = 4 + 16;
/// Greatest length of everything before the key id, in bytes.
pub(crate) const FIXED_LEN_MAX: usize = COMMON_LEN + VERSIONS_LEN;

const MAGIC: [u8; 4] = *b"KWYB";
/// AES-256-GCM under a key from HKDF-SHA-256, with a commitment from the same.
const SUITE_AES256GCM_HKDF_SHA256: u8 = 1;
const FLAG_EXPORTABLE: u16 = 1;

/// A version of the format. Blobs are written in the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Format {
    /// At most 8 versions, none of them revoked.
    One = 1,
    /// A version without material is revoked.
    Two = 2,
    /// The header tells which versions there are.
    Three = 3,
}

/// A parsed header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header<'a> {
    pub(crate) format: Format,
    pub(crate) keyspace: u32,
    pub(crate) key_id: &'a [u8],
    pub(crate) metadata: Metadata,
    pub(crate) salt: [u8; SALT_LEN],
    pub(crate) commitment: [u8; COMMITMENT_LEN],
    /// Length of the ciphertext without its tag, in bytes.
    pub(crate) payload_len: usize,
}

/// A blob in its three parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts<'a> {
    /// The whole header, as it is authenticated.
    pub(crate) header: &'a [u8],
    /// Ciphertext followed by its tag.
    pub(crate) sealed: &'a [u8],
}

impl<'a> Header<'a> {
    /// Parses a blob's header and splits the blob. Accepts the canonical form only, and nothing
    /// behind the tag.
    pub(crate) fn parse(blob: &'a [u8]) -> Result<(Self, Parts<'a>), OpenError> {
        use OpenError::Malformed;
        let short = Malformed("it ends within the header");
        let Some((fixed, mut rest)) = blob.split_first_chunk::<COMMON_LEN>() else {
            return Err(short);
        };
        let mut fields = Fields(fixed);
        if fields.bytes::<4>() != MAGIC {
            return Err(Malformed("it does not begin with KWYB"));
        }
        let format = match fields.u8() {
            1 => Format::One,
            2 => Format::Two,
            3 => Format::Three,
            _ => return Err(Malformed("its format version is not 1 to 3")),
        };
        if fields.u8() != SUITE_AES256GCM_HKDF_SHA256 {
            return Err(Malformed("its suite is not 1"));
        }
        let flags = fields.u16();
        if flags & !FLAG_EXPORTABLE != 0 {
            return Err(Malformed("it has unknown flags"));
        }
        let keyspace = fields.u32();
        let version = fields.u32();
        let dek_generation = fields.u32();
        let algorithm =
            Algorithm::from_id(fields.u8()).ok_or(Malformed("its algorithm is unknown"))?;
        let key_id_len = usize::from(fields.u8());
        let usage =
            KeyUsage::from_bits(fields.u16()).ok_or(Malformed("it has unknown usage bits"))?;
        let mut metadata = Metadata {
            version,
            dek_generation,
            algorithm,
            usage,
            exportable: flags & FLAG_EXPORTABLE != 0,
            created_unix_ms: fields.u64(),
            not_before_unix_ms: fields.u64(),
            not_after_unix_ms: fields.u64(),
            versions: None,
        };
        let salt = fields.bytes();
        let commitment = fields.bytes();
        let payload_len = fields.u32() as usize;
        if format == Format::Three {
            let Some((versions, behind)) = rest.split_first_chunk::<VERSIONS_LEN>() else {
                return Err(short);
            };
            let mut fields = Fields(versions);
            metadata.versions = Some(VersionsKept {
                oldest: fields.u32(),
                revoked: u128::from_le_bytes(fields.bytes()),
            });
            rest = behind;
        }
        if keyspace == 0 {
            return Err(Malformed("keyspaces begin at 1"));
        }
        if let Some(rule) = metadata.broken_rule() {
            return Err(Malformed(rule));
        }
        if payload_len > PAYLOAD_LEN_MAX {
            return Err(Malformed("its payload is longer than any payload"));
        }
        if rest.len() < key_id_len {
            return Err(short);
        }
        let (key_id, sealed) = rest.split_at(key_id_len);
        if !key_id_is_valid(key_id) {
            return Err(Malformed("its key id is not 1 to 128 printable bytes"));
        }
        if sealed.len() != payload_len + TAG_LEN {
            return Err(Malformed("its length is not the one that its header says"));
        }
        let header = Self {
            format,
            keyspace,
            key_id,
            metadata,
            salt,
            commitment,
            payload_len,
        };
        let parts = Parts {
            header: &blob[..blob.len() - sealed.len()],
            sealed,
        };
        Ok((header, parts))
    }

    /// Appends the header's bytes.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        let metadata = &self.metadata;
        let flags = if metadata.exportable {
            FLAG_EXPORTABLE
        } else {
            0
        };
        let key_id_len =
            u8::try_from(self.key_id.len()).expect("a key id was checked to be at most 128 bytes");
        let payload_len =
            u32::try_from(self.payload_len).expect("a payload is at most PAYLOAD_LEN_MAX bytes");
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.format as u8, SUITE_AES256GCM_HKDF_SHA256]);
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.keyspace.to_le_bytes());
        out.extend_from_slice(&metadata.version.to_le_bytes());
        out.extend_from_slice(&metadata.dek_generation.to_le_bytes());
        out.extend_from_slice(&[metadata.algorithm.id(), key_id_len]);
        out.extend_from_slice(&metadata.usage.bits().to_le_bytes());
        out.extend_from_slice(&metadata.created_unix_ms.to_le_bytes());
        out.extend_from_slice(&metadata.not_before_unix_ms.to_le_bytes());
        out.extend_from_slice(&metadata.not_after_unix_ms.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.commitment);
        out.extend_from_slice(&payload_len.to_le_bytes());
        assert_eq!(out.len() - start, COMMON_LEN, "the header has a fixed part");
        if self.format == Format::Three {
            let versions = metadata
                .versions
                .expect("format 3 is written with its versions");
            out.extend_from_slice(&versions.oldest.to_le_bytes());
            out.extend_from_slice(&versions.revoked.to_le_bytes());
        }
        out.extend_from_slice(self.key_id);
    }
}

/// Takes fields off the front of the fixed part.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn bytes<const LEN: usize>(&mut self) -> [u8; LEN] {
        let (field, rest) = self
            .0
            .split_first_chunk()
            .expect("the fields add up to the length that was checked to be there");
        self.0 = rest;
        *field
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.bytes())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header<'static> {
        Header {
            format: Format::Three,
            keyspace: 0x0102_0304,
            key_id: b"alice",
            metadata: Metadata {
                version: 5,
                dek_generation: 6,
                algorithm: Algorithm::Aes256Gcm,
                usage: KeyUsage::ENCRYPT,
                exportable: true,
                created_unix_ms: 7,
                not_before_unix_ms: 8,
                not_after_unix_ms: 9,
                versions: Some(VersionsKept {
                    oldest: 2,
                    revoked: 0b110,
                }),
            },
            salt: [0xaa; SALT_LEN],
            commitment: [0xbb; COMMITMENT_LEN],
            payload_len: 3,
        }
    }

    fn blob(header: &Header<'_>) -> Vec<u8> {
        let mut blob = Vec::new();
        header.write(&mut blob);
        blob.resize(blob.len() + header.payload_len + TAG_LEN, 0xcc);
        blob
    }

    #[test]
    fn the_documented_offsets_hold() {
        let blob = blob(&header());
        let fields: [(usize, &[u8]); 18] = [
            (0, b"KWYB"),
            (4, &[3]),
            (5, &[1]),
            (6, &[1, 0]),
            (8, &[4, 3, 2, 1]),
            (12, &[5, 0, 0, 0]),
            (16, &[6, 0, 0, 0]),
            (20, &[32]),
            (21, &[5]),
            (22, &[8, 0]),
            (24, &[7, 0, 0, 0, 0, 0, 0, 0]),
            (32, &[8, 0, 0, 0, 0, 0, 0, 0]),
            (40, &[9, 0, 0, 0, 0, 0, 0, 0]),
            (48, &[0xaa; 32]),
            (80, &[0xbb; 32]),
            (112, &[3, 0, 0, 0]),
            (116, &[2, 0, 0, 0]),
            (120, &[6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ];
        for (offset, field) in fields {
            assert_eq!(
                &blob[offset..offset + field.len()],
                field,
                "offset {offset}"
            );
        }
        assert_eq!(&blob[136..141], b"alice");
        assert_eq!(blob.len(), 141 + 3 + TAG_LEN);
    }

    #[test]
    fn a_header_reads_back_as_written() {
        let mut older = header();
        (older.format, older.metadata.versions) = (Format::Two, None);
        for header in [header(), older] {
            let blob = blob(&header);
            let (read, parts) = Header::parse(&blob).unwrap();
            assert_eq!(read, header);
            assert_eq!(parts.header.len() + parts.sealed.len(), blob.len());
        }
    }

    #[test]
    fn every_truncation_and_any_trailing_byte_is_refused() {
        let mut blob = blob(&header());
        for len in 0..blob.len() {
            assert!(Header::parse(&blob[..len]).is_err(), "{len}");
        }
        blob.push(0);
        assert!(Header::parse(&blob).is_err());
    }

    #[test]
    fn other_forms_are_refused() {
        let refused: [(usize, u8); 18] = [
            (0, b'k'),
            (4, 4),
            (4, 2), // whose header is shorter
            (5, 2),
            (6, 3),  // unknown flag
            (7, 1),  // unknown flag
            (20, 0), // unknown algorithm
            (20, 1), // ed25519 cannot encrypt
            (21, 0), // no key id
            (21, 129),
            (22, 0),   // no usage
            (22, 9),   // sign is not for an AEAD key
            (22, 72),  // unknown usage bit
            (40, 8),   // not_after == not_before
            (114, 9),  // payload too long
            (116, 0),  // the oldest version is 0
            (116, 6),  // newer than the newest
            (136, 32), // a space in the key id
        ];
        for (offset, value) in refused {
            let mut blob = blob(&header());
            assert_ne!(blob[offset], value);
            blob[offset] = value;
            let answer = Header::parse(&blob);
            assert!(
                matches!(answer, Err(OpenError::Malformed(_))),
                "{value} at {offset}: {answer:?}"
            );
        }
        for zeroed in [8..12, 12..16] {
            let mut blob = blob(&header());
            blob[zeroed].fill(0);
            assert!(Header::parse(&blob).is_err());
        }
    }
}
