//! The payload: a key's live versions, newest first.

use crate::algorithm::{Algorithm, SECRET_LEN_MAX};
use crate::arena::{Arena, ArenaBytes, ArenaError, SLOT_BYTES_MAX};
use crate::envelope::{Format, TAG_LEN};
use crate::error::OpError;
use crate::material::len_is_valid;

/// Versions that a key holds at most, revoked ones counted. Beyond it, or beyond
/// [`PAYLOAD_LEN_MAX`], a rotation is refused until old versions are trimmed.
pub const VERSIONS_MAX: usize = 128;

/// Versions that a blob of format 1 holds at most.
const VERSIONS_MAX_1: usize = 8;

/// Versions of the longest symmetric key that are promised to fit.
const SYMMETRIC_VERSIONS_MIN: usize = 64;

const HEAD_LEN: usize = 4;
const ENTRY_HEAD_LEN: usize = 16;

/// Greatest length of a payload, in bytes.
pub(crate) const PAYLOAD_LEN_MAX: usize = SLOT_BYTES_MAX - TAG_LEN;

const _: () = assert!(
    HEAD_LEN + SYMMETRIC_VERSIONS_MIN * (ENTRY_HEAD_LEN + SECRET_LEN_MAX) <= PAYLOAD_LEN_MAX
);
const _: () = assert!(
    VERSIONS_MAX <= u8::MAX as usize,
    "they are counted in a byte"
);

/// One version to be written.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) version: u32,
    pub(crate) created_unix_ms: u64,
    /// Empty: the version is revoked.
    pub(crate) material: &'a [u8],
}

/// Where one version lies within the payload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VersionAt {
    pub(crate) version: u32,
    pub(crate) created_unix_ms: u64,
    start: u32,
    end: u32,
    is_revoked: bool,
}

impl VersionAt {
    /// Whether the version is revoked: its number stays, and its material is not used. It is gone, except of the newest
    /// one, which a blob always has.
    pub(crate) fn is_revoked(&self) -> bool {
        self.is_revoked
    }
}

/// A decrypted payload in the arena, checked.
#[derive(Debug)]
pub(crate) struct Payload {
    bytes: ArenaBytes,
    /// 1..=VERSIONS_MAX
    versions: Vec<VersionAt>,
}

/// The length of the payload of `entries`, in bytes; `None` if they are too many or too long for
/// one blob.
pub(crate) fn payload_len(entries: &[Entry<'_>]) -> Option<usize> {
    let material_len: usize = entries.iter().map(|entry| entry.material.len()).sum();
    let len = HEAD_LEN + entries.len() * ENTRY_HEAD_LEN + material_len;
    (entries.len() <= VERSIONS_MAX && len <= PAYLOAD_LEN_MAX).then_some(len)
}

/// The payload of `entries`, newest first, in the arena, followed by `TAG_LEN` bytes of room.
pub(crate) fn write_payload(
    arena: &Arena,
    entries: &[Entry<'_>],
) -> Result<ArenaBytes, ArenaError> {
    assert!(!entries.is_empty());
    let payload_len = payload_len(entries).expect("the caller checked that the versions fit");
    let mut bytes = ArenaBytes::zeroed(arena, payload_len + TAG_LEN)?;
    bytes[0] = u8::try_from(entries.len()).expect("at most VERSIONS_MAX entries");
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
    pub(crate) fn parse(
        bytes: ArenaBytes,
        algorithm: Algorithm,
        format: Format,
    ) -> Result<Self, &'static str> {
        let (versions_max, wrong_count) = match format {
            Format::One => (VERSIONS_MAX_1, "it does not hold 1 to 8 versions"),
            Format::Two | Format::Three => (VERSIONS_MAX, "it does not hold 1 to 128 versions"),
        };
        let Some((head, mut rest)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            return Err("it ends within its head");
        };
        let [count, reserved @ ..] = *head;
        let version_count = usize::from(count);
        if reserved != [0; 3] {
            return Err("its reserved bytes are not zero");
        }
        if !(1..=versions_max).contains(&version_count) {
            return Err(wrong_count);
        }
        let mut newer = None;
        let mut versions = Vec::with_capacity(version_count);
        for index in 0..version_count {
            let Some((head, behind)) = rest.split_first_chunk::<ENTRY_HEAD_LEN>() else {
                return Err("it ends within a version's head");
            };
            let [v0, v1, v2, v3, l0, l1, l2, l3, created @ ..] = *head;
            let version = u32::from_le_bytes([v0, v1, v2, v3]);
            let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
            if version == 0 || newer.is_some_and(|newer| version >= newer) {
                return Err("its versions do not go down to 1 or more");
            }
            newer = Some(version);
            let is_revoked = format != Format::One && index > 0 && len == 0;
            if !is_revoked && !len_is_valid(algorithm, len) {
                return Err("a version's length does not fit the algorithm");
            }
            if behind.len() < len {
                return Err("it ends within a version");
            }
            let start = bytes.len() - behind.len();
            let place = |at| u32::try_from(at).map_err(|_| "it is longer than any payload");
            versions.push(VersionAt {
                version,
                created_unix_ms: u64::from_le_bytes(created),
                start: place(start)?,
                end: place(start + len)?,
                is_revoked,
            });
            rest = &behind[len..];
        }
        if !rest.is_empty() {
            return Err("it has trailing bytes");
        }
        Ok(Self { bytes, versions })
    }

    /// Revokes versions of which the blob does not say so, and wipes their material, except the newest one's.
    pub(crate) fn revoke(&mut self, is_revoked: impl Fn(u32) -> bool) {
        for (index, at) in self.versions.iter_mut().enumerate() {
            if at.is_revoked || !is_revoked(at.version) {
                continue;
            }
            at.is_revoked = true;
            if index > 0 {
                crate::wipe::wipe(&mut self.bytes[at.start as usize..at.end as usize]);
                at.end = at.start;
            }
        }
    }

    /// The versions, newest first; revoked ones too.
    pub(crate) fn versions(&self) -> &[VersionAt] {
        &self.versions
    }

    /// The versions as they are written.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        self.versions.iter().map(|at| Entry {
            version: at.version,
            created_unix_ms: at.created_unix_ms,
            material: self.material(at),
        })
    }

    /// The newest version.
    pub(crate) fn newest(&self) -> &VersionAt {
        &self.versions[0]
    }

    /// The version of that number, 0 for the newest. It can be used.
    pub(crate) fn find(&self, version: u32) -> Result<&VersionAt, OpError> {
        let found = match version {
            0 => Some(self.newest()),
            _ => self.versions.iter().find(|at| at.version == version),
        };
        match found {
            Some(at) if at.is_revoked() => Err(OpError::VersionRevoked),
            Some(at) => Ok(at),
            None => Err(OpError::NoSuchVersion),
        }
    }

    /// The material of one of this payload's versions.
    pub(crate) fn material(&self, at: &VersionAt) -> &[u8] {
        &self.bytes[at.start as usize..at.end as usize]
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
        Payload::parse(bytes, Algorithm::Aes256Gcm, Format::Two)
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
        assert_eq!(payload.find(0), Ok(payload.newest()));
        let older = payload.find(4).unwrap();
        assert_eq!(older.created_unix_ms, 4000);
        assert_eq!(payload.material(older), [4; 32]);
        assert_eq!(payload.find(5), Err(OpError::NoSuchVersion));
    }

    #[test]
    fn a_version_without_material_is_revoked_except_the_newest_and_in_format_1() {
        let entry = |version, material| Entry {
            version,
            created_unix_ms: 1,
            material,
        };
        let bytes = written(&[entry(9, &[9; 32]), entry(4, &[])]);
        let payload = parse(&bytes).unwrap();
        assert!(payload.versions()[1].is_revoked());
        assert_eq!(payload.find(4), Err(OpError::VersionRevoked));
        let in_arena = ArenaBytes::copied(&arena(), &bytes).unwrap();
        assert!(Payload::parse(in_arena, Algorithm::Aes256Gcm, Format::One).is_err());
        assert!(parse(&written(&[entry(9, &[]), entry(4, &[4; 32])])).is_err());
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
            (0, 3),
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
