//! The bytes of one record.
//!
//! ```text
//!  0 u32 magic "KWR1"        24 u32 keyspace             40 u16 key id length (0 ..= 128)
//!  4 u32 record length       28 u32 key version          42 u8  kind
//!  8 u32 body checksum       32 u32 blob length          43 u8  flags, 0
//! 12 u32 head checksum       36 u32 batch offset         44 u32 reserved, 0
//! 16 u64 revision                                        48 key id, blob
//! ```
//!
//! Little-endian. Both checksums (CRC-32C) start from the record's place (cluster, generation,
//! shard, segment, offset), so bytes that look like a record but lie elsewhere, inside a blob say,
//! do not check. The body checksum covers everything after itself; the head checksum covers the
//! length, bytes 16 to 48 and the key id, so that damage to a blob still tells whose blob it was.

use crate::index::KeyState;
use crate::limits::{BLOB_LEN_MAX, KEY_ID_LEN_MAX};

/// Bytes before the key id.
pub(crate) const HEAD_LEN: usize = 48;

/// Bytes of a time or a count, which stand where other records have their blob.
pub(crate) const NUMBER_LEN: usize = 8;

/// The first bytes of every record.
pub(crate) const MAGIC: [u8; 4] = *b"KWR1";

/// What a record says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The key's sealed versions.
    Blob = 1,
    /// The key was revoked permanently.
    Revoked = 2,
    /// The key's blob was found damaged when it was moved to another log.
    Lost = 3,
    /// No key: the log was closed here, so everything before was durable.
    Mark = 4,
    /// The key was revoked, and deleted since.
    Deleted = 5,
    /// How many uses of a key version may have been made.
    Uses = 6,
    /// One version of the key was revoked permanently.
    VersionRevoked = 7,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::Blob),
            2 => Some(Self::Revoked),
            3 => Some(Self::Lost),
            4 => Some(Self::Mark),
            5 => Some(Self::Deleted),
            6 => Some(Self::Uses),
            7 => Some(Self::VersionRevoked),
            _ => None,
        }
    }

    /// Whether the record is about a key itself, not about what it has in addition.
    pub fn is_of_key(self) -> bool {
        !matches!(self, Self::Uses | Self::VersionRevoked)
    }

    /// The state that a whole record gives its key, its key's use count, or one version of it.
    pub fn state(self) -> Option<KeyState> {
        match self {
            Self::Blob | Self::Uses => Some(KeyState::Live),
            Self::Revoked | Self::VersionRevoked => Some(KeyState::Revoked),
            Self::Lost => Some(KeyState::Damaged),
            Self::Deleted => Some(KeyState::Deleted),
            Self::Mark => None,
        }
    }

    /// The same for one of which only the head is whole.
    pub fn damaged_state(self) -> Option<KeyState> {
        match self {
            Self::Blob | Self::Lost | Self::Uses => Some(KeyState::Damaged),
            // What matters of these is in the head, so they still count.
            Self::Revoked | Self::Deleted | Self::VersionRevoked => self.state(),
            Self::Mark => None,
        }
    }

    fn allows(self, blob_len: usize) -> bool {
        match self {
            Self::Blob => blob_len <= BLOB_LEN_MAX,
            // Earlier ones did not say when, nor do those whose time was damaged.
            Self::Revoked | Self::VersionRevoked => blob_len == 0 || blob_len == NUMBER_LEN,
            Self::Uses => blob_len == NUMBER_LEN,
            Self::Lost | Self::Mark | Self::Deleted => blob_len == 0,
        }
    }
}

/// Where a log's records belong; seeds their checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    seed: u32,
}

impl Place {
    /// The place of one segment.
    pub fn new(cluster_id: &[u8; 16], generation: u32, shard: (u16, u16), segment: u32) -> Self {
        let mut seed = crc32c::crc32c(cluster_id);
        seed = crc32c::crc32c_append(seed, &generation.to_le_bytes());
        seed = crc32c::crc32c_append(seed, &shard.0.to_le_bytes());
        seed = crc32c::crc32c_append(seed, &shard.1.to_le_bytes());
        seed = crc32c::crc32c_append(seed, &segment.to_le_bytes());
        Self { seed }
    }

    fn at(self, offset: u32) -> u32 {
        crc32c::crc32c_append(self.seed, &offset.to_le_bytes())
    }
}

/// The fixed part of a record, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: Kind,
    /// Orders all records of a log; copies made by a compaction keep theirs.
    pub revision: u64,
    pub keyspace: u32,
    pub version: u32,
    /// Where the write began that this record was part of: everything before was durable then.
    pub batch_offset: u32,
    pub key_id_len: u16,
    pub blob_len: u32,
}

impl Head {
    /// Bytes of the whole record.
    pub fn record_len(&self) -> u32 {
        HEAD_LEN as u32 + u32::from(self.key_id_len) + self.blob_len
    }
}

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// So many bytes are needed to tell.
    Need(usize),
    /// They are not, whatever follows.
    Bad,
}

/// Appends a record that will lie at `offset` in its segment.
///
/// # Panics
/// If a length is beyond its limit: callers check before they queue a record.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    place: Place,
    offset: u32,
    head: &Head,
    key_id: &[u8],
    blob: &[u8],
) {
    assert!(key_id.len() <= KEY_ID_LEN_MAX && key_id.len() == usize::from(head.key_id_len));
    assert!(blob.len() <= BLOB_LEN_MAX && blob.len() == head.blob_len as usize);
    assert!(head.batch_offset <= offset);
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&head.record_len().to_le_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&head.revision.to_le_bytes());
    out.extend_from_slice(&head.keyspace.to_le_bytes());
    out.extend_from_slice(&head.version.to_le_bytes());
    out.extend_from_slice(&head.blob_len.to_le_bytes());
    out.extend_from_slice(&head.batch_offset.to_le_bytes());
    out.extend_from_slice(&head.key_id_len.to_le_bytes());
    out.push(head.kind as u8);
    out.extend_from_slice(&[0; 5]);
    out.extend_from_slice(key_id);
    out.extend_from_slice(blob);
    let record = &mut out[start..];
    let head_sum = head_sum(&record[..HEAD_LEN + key_id.len()], place, offset);
    record[12..16].copy_from_slice(&head_sum.to_le_bytes());
    let body_sum = body_sum(record, place, offset);
    record[8..12].copy_from_slice(&body_sum.to_le_bytes());
}

/// Reads and checks the head at the front of `bytes`, which lie at `offset` in their segment.
pub(crate) fn parse_head(bytes: &[u8], place: Place, offset: u32) -> Result<Head, HeadError> {
    let fixed: &[u8; HEAD_LEN] = match bytes.first_chunk() {
        Some(fixed) => fixed,
        None if bytes.len() >= 4 && bytes[..4] != MAGIC => return Err(HeadError::Bad),
        None => return Err(HeadError::Need(HEAD_LEN)),
    };
    let u32_at =
        |at: usize| u32::from_le_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    let head = Head {
        kind: Kind::from_u8(fixed[42]).ok_or(HeadError::Bad)?,
        revision: u64::from(u32_at(16)) | u64::from(u32_at(20)) << 32,
        keyspace: u32_at(24),
        version: u32_at(28),
        blob_len: u32_at(32),
        batch_offset: u32_at(36),
        key_id_len: u16::from_le_bytes([fixed[40], fixed[41]]),
    };
    let key_id_len = usize::from(head.key_id_len);
    let plausible = fixed[..4] == MAGIC
        && key_id_len <= KEY_ID_LEN_MAX
        && (key_id_len == 0) == (head.kind == Kind::Mark)
        && head.kind.allows(head.blob_len as usize)
        && u32_at(4) == head.record_len()
        && head.batch_offset <= offset
        && fixed[43..48] == [0; 5];
    if !plausible {
        return Err(HeadError::Bad);
    }
    let covered = bytes
        .get(..HEAD_LEN + key_id_len)
        .ok_or(HeadError::Need(HEAD_LEN + key_id_len))?;
    if head_sum(covered, place, offset) == u32_at(12) {
        Ok(head)
    } else {
        Err(HeadError::Bad)
    }
}

/// Whether the body checksum of one whole record, whose head was parsed, is right.
pub(crate) fn is_body_intact(record: &[u8], place: Place, offset: u32) -> bool {
    record[8..12] == body_sum(record, place, offset).to_le_bytes()
}

fn head_sum(head_and_key_id: &[u8], place: Place, offset: u32) -> u32 {
    let sum = crc32c::crc32c_append(place.at(offset), &head_and_key_id[4..8]);
    crc32c::crc32c_append(sum, &head_and_key_id[16..])
}

fn body_sum(record: &[u8], place: Place, offset: u32) -> u32 {
    crc32c::crc32c_append(place.at(offset), &record[12..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Place, Head, Vec<u8>) {
        let place = Place::new(&[7; 16], 1, (0, 2), 3);
        let head = Head {
            kind: Kind::Blob,
            revision: 0x0102_0304_0506_0708,
            keyspace: 9,
            version: 2,
            batch_offset: 64,
            key_id_len: 5,
            blob_len: 4,
        };
        let mut bytes = Vec::new();
        encode(&mut bytes, place, 100, &head, b"alice", b"blob");
        (place, head, bytes)
    }

    #[test]
    fn a_record_reads_back() {
        let (place, head, bytes) = sample();
        assert_eq!(parse_head(&bytes, place, 100), Ok(head));
        assert!(is_body_intact(&bytes, place, 100));
        assert_eq!(head.record_len() as usize, bytes.len());
    }

    #[test]
    fn the_bytes_are_as_documented() {
        let (_, _, bytes) = sample();
        let mut golden = b"KWR1".to_vec();
        golden.extend_from_slice(&[57, 0, 0, 0]);
        golden.extend_from_slice(&bytes[8..16]);
        golden.extend_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1, 9, 0, 0, 0, 2, 0, 0, 0]);
        golden.extend_from_slice(&[4, 0, 0, 0, 64, 0, 0, 0, 5, 0, 1, 0, 0, 0, 0, 0]);
        golden.extend_from_slice(b"aliceblob");
        assert_eq!(bytes, golden);
        assert_eq!(bytes[8..16], GOLDEN_SUMS);
    }

    // Computed by another program. Held fast so that a change of what the checksums cover is noticed: old logs would not open.
    const GOLDEN_SUMS: [u8; 8] = [35, 4, 215, 240, 196, 98, 193, 89];

    #[test]
    fn a_record_at_another_place_does_not_check() {
        let (place, _, bytes) = sample();
        let elsewhere = Place::new(&[7; 16], 1, (1, 2), 3);
        assert_eq!(parse_head(&bytes, place, 101), Err(HeadError::Bad));
        assert_eq!(parse_head(&bytes, elsewhere, 100), Err(HeadError::Bad));
        assert!(!is_body_intact(&bytes, place, 101));
    }

    #[test]
    fn every_flipped_bit_is_noticed_and_damage_to_the_blob_leaves_the_head_readable() {
        let (place, head, bytes) = sample();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse_head(&flipped, place, 100);
            let whole = flipped[..4] == MAGIC && is_body_intact(&flipped, place, 100);
            assert!(parsed.is_err() || !whole, "bit {bit}");
            if bit / 8 >= HEAD_LEN + 5 {
                assert_eq!(parsed, Ok(head));
            }
        }
    }

    #[test]
    fn a_short_front_asks_for_more() {
        let (place, _, bytes) = sample();
        for len in 0..HEAD_LEN {
            assert_eq!(
                parse_head(&bytes[..len], place, 100),
                Err(HeadError::Need(HEAD_LEN))
            );
        }
        for len in HEAD_LEN..HEAD_LEN + 5 {
            assert_eq!(
                parse_head(&bytes[..len], place, 100),
                Err(HeadError::Need(HEAD_LEN + 5))
            );
        }
    }
}
