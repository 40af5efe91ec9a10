//! Payloads of KEY_GENERATE, KEY_IMPORT, KEY_ROTATE, KEY_REVOKE, KEY_TRIM and KEY_LIST, and of the
//! answer to KEY_LIST.

use alloc::vec::Vec;

use crate::limits::{CURSOR_LEN_MAX, KEY_LIST_ROWS_MAX, MATERIAL_LEN_MAX};
use crate::reader::{Reader, at_least, at_most, in_range};
use crate::{Algorithm, KeyFormat, KeyState, Octets, ProtocolError, Usage, check_key_id};

/// What is fixed about a key when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Its algorithm. `None` only for imports, where the material tells it.
    pub algorithm: Option<Algorithm>,
    /// Whether GET may ever give its secret out.
    pub exportable: bool,
    /// What it may be used for; none stands for all that its algorithm can do.
    pub usage: Usage,
    /// When it ceases to be valid, in ms since 1970; 0 for never.
    pub not_after_unix_ms: u64,
}

const FLAG_EXPORTABLE: u8 = 1;

impl NewKey {
    fn read(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        let algorithm = match reader.u8("algorithm")? {
            0 => None,
            code => Some(Algorithm::try_from(code)?),
        };
        let flags = reader.u8("key flags")?;
        if flags & !FLAG_EXPORTABLE != 0 {
            return Err(ProtocolError::UnknownFlags {
                field: "key flags",
                bits: u64::from(flags & !FLAG_EXPORTABLE),
            });
        }
        Ok(Self {
            algorithm,
            exportable: flags & FLAG_EXPORTABLE != 0,
            usage: Usage::from_bits(reader.u16("usage")?)?,
            not_after_unix_ms: reader.u64("not_after_unix_ms")?,
        })
    }

    fn append(&self, out: &mut Vec<u8>) {
        out.push(self.algorithm.map_or(0, Algorithm::code));
        out.push(if self.exportable { FLAG_EXPORTABLE } else { 0 });
        out.extend_from_slice(&self.usage.bits().to_le_bytes());
        out.extend_from_slice(&self.not_after_unix_ms.to_le_bytes());
    }
}

/// KEY_GENERATE. The answer is empty; its `key_version` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGenerate {
    /// What to make. The algorithm must be given.
    pub new_key: NewKey,
}

impl KeyGenerate {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let new_key = NewKey::read(&mut reader)?;
        reader.finish("KEY_GENERATE")?;
        let generate = Self { new_key };
        generate.check()?;
        Ok(generate)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        self.new_key.append(out);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        if self.new_key.algorithm.is_none() {
            return Err(ProtocolError::Rule {
                field: "algorithm",
                rule: "a key to be generated needs one",
            });
        }
        Ok(())
    }
}

/// A key's own bytes, and how they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Material<'a> {
    /// How the bytes are written.
    pub format: KeyFormat,
    /// 1 to `MATERIAL_LEN_MAX` bytes.
    pub bytes: Octets<'a>,
}

impl<'a> Material<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Self, ProtocolError> {
        let format = KeyFormat::try_from(reader.u8("key format")?)?;
        reader.reserved::<3>("reserved")?;
        let material = Self {
            format,
            bytes: Octets(reader.rest()),
        };
        material.check()?;
        Ok(material)
    }

    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.format.code(), 0, 0, 0]);
        out.extend_from_slice(&self.bytes);
    }

    fn check(&self) -> Result<(), ProtocolError> {
        at_least("key material", self.bytes.len(), 1)?;
        at_most("key material", self.bytes.len(), MATERIAL_LEN_MAX)
    }
}

/// KEY_IMPORT. The answer is empty; its `key_version` is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyImport<'a> {
    /// What to make of it.
    pub new_key: NewKey,
    /// The key.
    pub material: Material<'a>,
}

impl<'a> KeyImport<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        Ok(Self {
            new_key: NewKey::read(&mut reader)?,
            material: Material::read(reader)?,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.material.check()?;
        self.new_key.append(out);
        self.material.append(out);
        Ok(())
    }
}

/// KEY_ROTATE. The answer is empty; its `key_version` is the new version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRotate<'a> {
    /// The next version's material; `None` for the server to generate it.
    pub material: Option<Material<'a>>,
}

impl<'a> KeyRotate<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let material = if payload.is_empty() {
            None
        } else {
            Some(Material::read(Reader::new(payload))?)
        };
        Ok(Self { material })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        if let Some(material) = &self.material {
            material.check()?;
            material.append(out);
        }
        Ok(())
    }
}

/// KEY_REVOKE. The answer is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRevoke {
    /// The one version to revoke; 0 for the whole key.
    pub key_version: u32,
}

impl KeyRevoke {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        if payload.is_empty() {
            return Ok(Self { key_version: 0 });
        }
        // The whole key is written as an empty payload, so that there is one way to write it.
        let key_version = read_version("KEY_REVOKE", "version", payload)?;
        Ok(Self { key_version })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        if self.key_version != 0 {
            out.extend_from_slice(&self.key_version.to_le_bytes());
        }
    }
}

/// KEY_TRIM: removes the versions below a number. The answer is empty; its `key_version` is the
/// newest, which always stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyTrim {
    /// The lowest version to keep, from 1.
    pub below: u32,
}

impl KeyTrim {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let below = read_version("KEY_TRIM", "below", payload)?;
        Ok(Self { below })
    }

    pub(super) fn encode(self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        in_range("below", u64::from(self.below), 1, u64::from(u32::MAX))?;
        out.extend_from_slice(&self.below.to_le_bytes());
        Ok(())
    }
}

fn read_version(
    message: &'static str,
    field: &'static str,
    payload: &[u8],
) -> Result<u32, ProtocolError> {
    let mut reader = Reader::new(payload);
    let version = reader.u32(field)?;
    reader.finish(message)?;
    in_range(field, u64::from(version), 1, u64::from(u32::MAX))?;
    Ok(version)
}

/// KEY_LIST: one page of the keys that one shard owns. The answer is a [`KeyListAnswer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyList<'a> {
    /// The shard that is asked.
    pub shard: u16,
    /// The most rows wanted, at most `KEY_LIST_ROWS_MAX`; 0 stands for that many.
    pub limit: u16,
    /// Where to go on: the cursor of the page before, or empty to start.
    pub cursor: Octets<'a>,
}

impl<'a> KeyList<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let list = Self {
            shard: reader.u16("shard")?,
            limit: reader.u16("limit")?,
            cursor: Octets(reader.rest()),
        };
        list.check()?;
        Ok(list)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.extend_from_slice(&self.shard.to_le_bytes());
        out.extend_from_slice(&self.limit.to_le_bytes());
        out.extend_from_slice(&self.cursor);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        in_range(
            "limit",
            u64::from(self.limit),
            0,
            u64::from(KEY_LIST_ROWS_MAX),
        )?;
        at_most("cursor", self.cursor.len(), CURSOR_LEN_MAX)
    }

    /// The most rows that the answer may hold: 1 to `KEY_LIST_ROWS_MAX`.
    #[must_use]
    pub fn rows_max(&self) -> u16 {
        match self.limit {
            0 => KEY_LIST_ROWS_MAX,
            limit => limit,
        }
    }
}

/// One page of KEY_LIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyListAnswer<'a> {
    /// Where the next page starts; empty if this is the last.
    pub cursor: Octets<'a>,
    /// The keys.
    pub rows: KeyRows<'a>,
}

impl<'a> KeyListAnswer<'a> {
    /// Reads a page and checks every row.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let cursor_len = usize::from(reader.u16("cursor_len")?);
        at_most("cursor", cursor_len, CURSOR_LEN_MAX)?;
        let cursor = Octets(reader.bytes("cursor", cursor_len)?);
        let rows = reader.rest();
        let mut reader = Reader::new(rows);
        let mut count = 0;
        while reader.remaining() > 0 {
            count += 1;
            in_range("rows", count, 0, u64::from(KEY_LIST_ROWS_MAX))?;
            KeyRow::read(&mut reader)?;
        }
        let rows = KeyRows { bytes: rows };
        Ok(Self { cursor, rows })
    }

    /// Appends a page; on an error nothing is appended.
    pub fn encode<'r>(
        cursor: &[u8],
        rows: impl IntoIterator<Item = KeyRow<'r>>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        at_most("cursor", cursor.len(), CURSOR_LEN_MAX)?;
        let start = out.len();
        out.extend_from_slice(&(cursor.len() as u16).to_le_bytes());
        out.extend_from_slice(cursor);
        let appended = (1..).zip(rows).try_for_each(|(count, row)| {
            in_range("rows", count, 0, u64::from(KEY_LIST_ROWS_MAX))?;
            row.append(out)
        });
        if appended.is_err() {
            out.truncate(start);
        }
        appended
    }
}

/// The rows of a page, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRows<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for KeyRows<'a> {
    type Item = KeyRow<'a>;

    fn next(&mut self) -> Option<KeyRow<'a>> {
        if self.bytes.is_empty() {
            return None;
        }
        let mut reader = Reader::new(self.bytes);
        let row = KeyRow::read(&mut reader).expect("the page was checked when it was decoded");
        self.bytes = reader.rest();
        Some(row)
    }
}

/// One key of KEY_LIST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRow<'a> {
    /// The key.
    pub key_id: &'a str,
    /// Its newest version.
    pub key_version: u32,
    /// Its algorithm; `None` where nothing tells it any more, as of a revoked key.
    pub algorithm: Option<Algorithm>,
    /// Whether it can be used.
    pub state: KeyState,
    /// The versions that it has; `None` where nothing tells them.
    pub versions: Option<KeyVersions>,
}

/// The versions of a key: from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyVersions {
    /// The oldest, from 1. What is below was trimmed, or is of a key that was deleted.
    pub oldest: u32,
    /// Those that were revoked one by one: bit `i` is set if the version `i` below the newest is.
    pub revoked: u128,
}

impl KeyVersions {
    /// The revoked versions of a key whose newest version is `newest`, in ascending order.
    pub fn revoked_of(self, newest: u32) -> impl Iterator<Item = u32> {
        let below = (0..u128::BITS).rev();
        let below = below.filter(move |below| self.revoked >> below & 1 == 1);
        below.filter_map(move |below| newest.checked_sub(below))
    }

    /// The same versions, and those of `revoked` that are among them are revoked as well.
    #[must_use]
    pub fn with_revoked(self, newest: u32, revoked: u128) -> Self {
        Self {
            revoked: self.revoked | (revoked & !self.beyond(newest)),
            ..self
        }
    }

    /// The bits of versions below the oldest.
    fn beyond(self, newest: u32) -> u128 {
        let kept = newest.saturating_sub(self.oldest).saturating_add(1);
        u128::MAX.checked_shl(kept).unwrap_or(0)
    }

    /// Returns whether these can be the versions of a key whose newest version is `newest`.
    #[must_use]
    pub fn are_of(self, newest: u32) -> bool {
        self.check(newest).is_ok()
    }

    fn read(reader: &mut Reader<'_>, newest: u32) -> Result<Option<Self>, ProtocolError> {
        let oldest = reader.u32("row_oldest")?;
        let revoked = u128::from_le_bytes(reader.array("row_revoked")?);
        if oldest == 0 {
            return none_of(revoked).map(|()| None);
        }
        let versions = Self { oldest, revoked };
        versions.check(newest)?;
        Ok(Some(versions))
    }

    fn check(self, newest: u32) -> Result<(), ProtocolError> {
        let (oldest, max) = (u64::from(self.oldest), u64::from(newest));
        in_range("row_oldest", oldest, 1, max)?;
        none_of(self.revoked & self.beyond(newest))
    }
}

/// Refuses bits of versions that cannot be revoked.
fn none_of(bits: u128) -> Result<(), ProtocolError> {
    match bits {
        0 => Ok(()),
        _ => Err(ProtocolError::NotZero {
            field: "row_revoked",
            value: (bits | bits >> 64) as u64,
        }),
    }
}

impl<'a> KeyRow<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, ProtocolError> {
        let len = usize::from(reader.u8("id_len")?);
        let key_id = check_key_id(reader.bytes("key_id", len)?)?;
        let key_version = reader.u32("row_version")?;
        Ok(Self {
            key_id,
            key_version,
            algorithm: match reader.u8("row_algorithm")? {
                0 => None,
                code => Some(Algorithm::try_from(code)?),
            },
            state: KeyState::try_from(reader.u8("row_state")?)?,
            versions: KeyVersions::read(reader, key_version)?,
        })
    }

    fn append(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        check_key_id(self.key_id.as_bytes())?;
        if let Some(versions) = self.versions {
            versions.check(self.key_version)?;
        }
        out.push(self.key_id.len() as u8);
        out.extend_from_slice(self.key_id.as_bytes());
        out.extend_from_slice(&self.key_version.to_le_bytes());
        out.push(self.algorithm.map_or(0, Algorithm::code));
        out.push(self.state.code());
        let (oldest, revoked) = self.versions.map_or((0, 0), |v| (v.oldest, v.revoked));
        out.extend_from_slice(&oldest.to_le_bytes());
        out.extend_from_slice(&revoked.to_le_bytes());
        Ok(())
    }
}
