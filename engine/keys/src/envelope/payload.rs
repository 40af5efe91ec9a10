//! The payload: a key's live versions, newest first.

use crate::algorithm::Algorithm;
use crate::arena::{Arena, ArenaBytes, ArenaError, SLOT_BYTES_MAX};
use crate::envelope::TAG_LEN;
use crate::material::{MATERIAL_LEN_MAX, len_is_valid};

/// Live versions that a key has at most; a rotation drops the oldest beyond that.
pub const VERSIONS_MAX: usize = 8;

const HEAD_LEN: usize = 4;
const ENTRY_HEAD_LEN: usize = 16;

/// Greatest length of a payload, in bytes.
pub(crate) const PAYLOAD_LEN_MAX: usize =
    HEAD_LEN + VERSIONS_MAX * (ENTRY_HEAD_LEN + MATERIAL_LEN_MAX);

const _: () = assert!(PAYLOAD_LEN_MAX + TAG_LEN <= SLOT_BYTES_MAX);
const _: () = assert!(
    PAYLOAD_LEN_MAX <= u16::MAX as usize,
    "ranges are kept as u16"
);

/// One version to be written.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) version: u32,
    pub(crate) created_unix_ms: u64,
    pub(crate) material: &'a [u8],
}

/// Where one version lies within the payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VersionAt {
    pub(crate) version: u32,
    pub(crate) created_unix_ms: u64,
    start: u16,
    end: u16,
}

/// A decrypted payload in the arena, checked.
#[derive(Debug)]
pub(crate) struct Payload {
    bytes: ArenaBytes,
    versions: [VersionAt; VERSIONS_MAX],
    /// 1..=VERSIONS_MAX
    version_count: usize,
}

/// The payload of `entries`, newest first, in the arena, followed by `TAG_LEN` bytes of room.
pub(crate) fn write_payload(
    arena: &Arena,
    entries: &[Entry<'_>],
) -> Result<ArenaBytes, ArenaError> {
    assert!((1..=VERSIONS_MAX).contains(&entries.len()));
    let material_len: usize = entries.iter().map(|entry| entry.material.len()).sum();
    let payload_len = HEAD_LEN + entries.len() * ENTRY_HEAD_LEN + material_len;
    let mut bytes = ArenaBytes::zeroed(arena, payload_len + TAG_LEN)?;
    bytes[0] = u8::try_from(entries.len()).expect("at most 8 entries");
    let mut at = HEAD_LEN;
    for entry in entries {
        let len = u32::try_from(entry.material.len()).expect("a slot is far smaller than 4 GiB");
        bytes[at..at + 4].copy_from_slice(&entry.version.to_le_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&entry.created_unix_ms.to_le_bytes());
        at += ENTRY_HEAD_LEN;
        bytes[at..at + entry.material.len()].copy_from_slice(entry.material);
        at += entry.material.len();
    }
    Ok(bytes)
}

impl Payload {
    /// Checks the decrypted `bytes` of a key of `algorithm`. The error says what is wrong.
    pub(crate) fn parse(bytes: ArenaBytes, algorithm: Algorithm) -> Result<Self, &'static str> {
        let mut versions = [VersionAt::default(); VERSIONS_MAX];
        let Some((head, mut rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            return Err("it ends within its head");
        };
        let [count, reserved @ ..] = *head;
        let version_count = usize::from(count);
        if reserved != [0; 3] {
            return Err("its reserved bytes are not zero");
        }
        if !(1..=VERSIONS_MAX).contains(&version_count) {
            return Err("it does not hold 1 to 8 versions");
        }
        let mut newer = None;
        for at in &mut versions[..version_count] {
            let Some((head, behind)) = rest.split_first_chunk::<ENTRY_HEAD_LEN>() else {
                return Err("it ends within a version's head");
            };
            let [v0, v1, v2, v3, l0, l1, l2, l3, created @ ..] = *head;
            at.version = u32::from_le_bytes([v0, v1, v2, v3]);
            at.created_unix_ms = u64::from_le_bytes(created);
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            if at.version == 0 || newer.is_some_and(|newer| at.version >= newer) {
                return Err("its versions do not go down to 1 or more");
            }
            newer = Some(at.version);
            if !len_is_valid(algorithm, len) {
                return Err("a version's length does not fit the algorithm");
            }
            if behind.len() < len {
                return Err("it ends within a version");
            }
            let start = bytes.len() - behind.len();
            at.start = u16::try_from(start).map_err(|_| "it is longer than any payload")?;
            at.end = u16::try_from(start + len).map_err(|_| "it is longer than any payload")?;
            rest = &behind[len..];
        }
        if !rest.is_empty() {
            return Err("it has trailing bytes");
        }
        Ok(Self {
            bytes,
            versions,
            version_count,
        })
    }

    /// The live versions, newest first.
    pub(crate) fn versions(&self) -> &[VersionAt] {
        &self.versions[..self.version_count]
    }

    /// The newest version.
    pub(crate) fn newest(&self) -> &VersionAt {
        &self.versions[0]
    }

    /// The version of that number, 0 for the newest.
    pub(crate) fn find(&self, version: u32) -> Option<&VersionAt> {
        if version == 0 {
            return Some(self.newest());
        }
        self.versions().iter().find(|at| at.version == version)
    }

    /// The material of one of this payload's versions.
    pub(crate) fn material(&self, at: &VersionAt) -> &[u8] {
        &self.bytes[usize::from(at.start)..usize::from(at.end)]
    }

    /// Bytes of arena memory in use.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.bytes.slot_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::ArenaOptions;

    fn arena() -> Arena {
        Arena::new(ArenaOptions {
            capacity_bytes: 1 << 16,
            lock: false,
        })
        .unwrap()
    }

    fn written(entries: &[Entry<'_>]) -> Vec<u8> {
        let bytes = write_payload(&arena(), entries).unwrap();
        bytes[..bytes.len() - TAG_LEN].to_vec()
    }

    fn parse(bytes: &[u8]) -> Result<Payload, &'static str> {
        let bytes = ArenaBytes::copied(&arena(), bytes).unwrap();
        Payload::parse(bytes, Algorithm::Aes256Gcm)
    }

    fn two() -> Vec<u8> {
        let entry = |version, fill: &'static [u8; 32]| Entry {
            version,
            created_unix_ms: u64::from(version) * 1000,
            material: fill,
        };
        written(&[entry(9, &[9; 32]), entry(4, &[4; 32])])
    }

    #[test]
    fn versions_read_back_newest_first() {
        let payload = parse(&two()).unwrap();
        let numbers: Vec<_> = payload.versions().iter().map(|at| at.version).collect();
        assert_eq!(numbers, [9, 4]);
        assert_eq!(payload.find(0), Some(payload.newest()));
        let older = payload.find(4).unwrap();
        assert_eq!(older.created_unix_ms, 4000);
        assert_eq!(payload.material(older), [4; 32]);
        assert_eq!(payload.find(5), None);
    }

    #[test]
    fn every_truncation_and_any_trailing_byte_is_refused() {
        let mut bytes = two();
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len]).is_err(), "{len}");
        }
        bytes.push(0);
        assert!(parse(&bytes).is_err());
    }

    #[test]
    fn other_forms_are_refused() {
        for (offset, value) in [
            (0, 0),
            (0, 9),
            (1, 1),
            (4, 4),
            (4, 0),
            (8, 31),
            (11, 1),
            (52, 9),
        ] {
            let mut bytes = two();
            assert_ne!(bytes[offset], value);
            bytes[offset] = value;
            assert!(parse(&bytes).is_err(), "{value} at {offset}");
        }
    }
}
