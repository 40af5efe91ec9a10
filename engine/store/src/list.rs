//! Paging through a log's keys.

use std::collections::BTreeMap;

use crate::error::ReadError;
use crate::index::{Entry, KeyHash, KeyState, Position};
use crate::limits::{LIST_READ_BYTES_MAX, LIST_ROWS_MAX};
use crate::log::BlobLog;
use crate::record::{self, HEAD_LEN, Kind};
use crate::scan::{Item, Scanner};
use crate::seam::{File, Files};
use crate::segment::{self, HEADER_LEN};

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys, in an order that is the log's own. Fewer than asked for, even none, does not mean the
    /// end.
    pub rows: Vec<Row>,
    /// Where the next page begins; empty at the end. To be handed back as it is.
    pub cursor: Vec<u8>,
    /// A write failed and could not be truncated: the next start may find records that the rows do not show.
    pub unsettled: bool,
}

/// A key in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its keyspace.
    pub keyspace: u32,
    /// Its id.
    pub key_id: Vec<u8>,
    /// Its newest version.
    pub version: u32,
    /// See [`BlobLog::revoked_versions`].
    pub revoked: u128,
    /// Revision of its newest record.
    pub revision: u64,
    /// Whether it can be used.
    pub state: KeyState,
    /// Its durable blob. A revoked key has one until its revocation is durable, since a crash may undo that. Empty if
    /// there is none, or if it is damaged.
    pub blob: Vec<u8>,
}

/// The version of the cursor's bytes: this, u64 tag of this opening of the log, and the position
/// after which to go on, u64 twice; little-endian.
const CURSOR_VERSION: u8 = 2;

impl<F: Files> BlobLog<F> {
    /// Up to `limit` keys (1 to [`LIST_ROWS_MAX`], clamped) from `cursor` on, an empty one being
    /// the start; of one keyspace, or of all. Deleted keys are left out. Reads 4 MiB at most, and
    /// one record more, so that a page may be short.
    ///
    /// A key that is there, undamaged or damaged, from the first page to the last is listed exactly
    /// once, whatever is put, revoked or compacted meanwhile: the order is that of a hash of the
    /// key, which does not change. Any bytes are good as a cursor: with one that this opening of
    /// the log did not make the listing starts over.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn list(
        &self,
        cursor: &[u8],
        limit: usize,
        keyspace: Option<u32>,
    ) -> Result<Page, ReadError> {
        let limit = limit.clamp(1, LIST_ROWS_MAX);
        let (walk, tag) = {
            let index = &self.shared.state.borrow().index;
            let tag = tag_of(index.hash(0, b""));
            let after = decode_cursor(cursor, tag);
            (index.after(after, limit, keyspace), tag)
        };
        let mut page = Page::default();
        let mut read_bytes = 0;
        for (hash, entry) in walk.found {
            if let Some(row) = self.row(hash).await? {
                page.rows.push(row);
            }
            read_bytes += entry.record_len as usize;
            if read_bytes >= LIST_READ_BYTES_MAX {
                page.cursor = encode_cursor(tag, hash.position());
                break;
            }
        }
        if let Some(next) = walk.next
            && page.cursor.is_empty()
        {
            page.cursor = encode_cursor(tag, next);
        }
        // Last, so that it covers all rows.
        page.unsettled = self.shared.state.borrow().disk.is_broken;
        Ok(page)
    }

    /// A key as it is now. `None`: it is not to be listed, or nothing tells its id any more.
    async fn row(&self, hash: KeyHash) -> Result<Option<Row>, ReadError> {
        loop {
            let located = self.locate_hash(&self.shared.state.borrow(), hash);
            let Some((entry, Some(file))) = located else {
                return Ok(None);
            };
            if entry.state == KeyState::Deleted {
                return Ok(None);
            }
            let segment = entry.segment;
            let read = file
                .read_at(u64::from(entry.offset), entry.record_len as usize)
                .await;
            // It may have moved meanwhile, and the segment that it was in may be gone.
            let newest = self.shared.state.borrow().index.find(hash);
            if newest.is_some_and(|newest| !newest.lies_at(segment, entry.offset)) {
                continue;
            }
            let record = read.map_err(|source| ReadError::Io { segment, source })?;
            return Ok(self.read_row(&entry, &record));
        }
    }

    fn read_row(&self, entry: &Entry, record: &[u8]) -> Option<Row> {
        let place = segment::place(&self.shared.options, entry.segment);
        let head = record::parse_head(record, place, entry.offset).ok()?;
        let blob_at = HEAD_LEN + usize::from(head.key_id_len);
        let is_whole = entry.state != KeyState::Damaged
            && head.kind == Kind::Blob
            && head.record_len() as usize == record.len()
            && record::is_body_intact(record, place, entry.offset);
        let blob = match is_whole {
            true => record[blob_at..].to_vec(),
            false => Vec::new(),
        };
        let key_id = record.get(HEAD_LEN..blob_at)?.to_vec();
        let revoked = self.revoked_versions(head.keyspace, &key_id, entry.version);
        Some(Row {
            keyspace: head.keyspace,
            key_id,
            revoked,
            version: entry.version,
            revision: entry.revision,
            state: match entry.state {
                KeyState::Live if !is_whole => KeyState::Damaged,
                state => state,
            },
            blob,
        })
    }
}

/// Tells the cursors of one opening of the log from those of another, whose order is another.
fn tag_of(hash: KeyHash) -> u64 {
    let Position(first, second) = hash.position();
    first ^ second.rotate_left(32)
}

fn encode_cursor(tag: u64, after: Position) -> Vec<u8> {
    let mut cursor = vec![CURSOR_VERSION];
    for part in [tag, after.0, after.1] {
        cursor.extend_from_slice(&part.to_le_bytes());
    }
    cursor
}

fn decode_cursor(cursor: &[u8], tag: u64) -> Position {
    let start = Position(0, 0);
    let Some((&CURSOR_VERSION, parts)) = cursor.split_first() else {
        return start;
    };
    let mut parts = parts.chunks(8).map(|part| part.try_into());
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(found)), Some(Ok(first)), Some(Ok(second)), None)
            if u64::from_le_bytes(found) == tag =>
        {
            Position(u64::from_le_bytes(first), u64::from_le_bytes(second))
        }
        _ => start,
    }
}

/// A record that is being moved to another log.
pub(crate) struct Moving {
    pub kind: Kind,
    pub keyspace: u32,
    pub key_id: Vec<u8>,
    pub version: u32,
    pub revision: u64,
    pub blob: Vec<u8>,
}

/// Records of a log that is not being written, in the order of the log.
pub(crate) struct Stretch {
    pub rows: Vec<Moving>,
    /// Segment and offset to go on at; `None` at the end.
    pub next: Option<(u32, u32)>,
}

impl<F: Files> BlobLog<F> {
    /// The next of all records that the tables point to, from a segment and an offset on. In the
    /// order of the log, since they are all to be read.
    pub(crate) async fn records_from(
        &self,
        (segment, offset): (u32, u32),
    ) -> Result<Stretch, ReadError> {
        let mut rows = Vec::new();
        let found = {
            let segments: &BTreeMap<_, _> = &self.shared.state.borrow().segments;
            let next = segments.range(segment..).next();
            next.map(|(number, found)| (*number, found.file.clone(), found.len))
        };
        let Some((number, file, len)) = found else {
            return Ok(Stretch { rows, next: None });
        };
        let offset = if number == segment { offset } else { 0 };
        let start = offset.max(HEADER_LEN as u32);
        let place = segment::place(&self.shared.options, number);
        let mut scanner = Scanner::new(file, place, start, len);
        while rows.len() < LIST_ROWS_MAX {
            let io = |source| ReadError::Io {
                segment: number,
                source,
            };
            let (offset, head, key_id, blob) = match scanner.next().await.map_err(io)? {
                None => {
                    let next = number.checked_add(1).map(|number| (number, 0));
                    return Ok(Stretch { rows, next });
                }
                Some(Item::Record {
                    offset,
                    head,
                    key_id,
                    blob,
                }) => (offset, head, key_id, Some(blob)),
                Some(Item::Damage {
                    offset,
                    head: Some((head, key_id)),
                    ..
                }) => (offset, head, key_id, None),
                Some(Item::Damage { head: None, .. }) => continue,
            };
            let entry = {
                let state = self.shared.state.borrow();
                let hash = state.index.hash(head.keyspace, key_id);
                state.find(head.kind, hash, head.version)
            };
            let Some(entry) = entry.filter(|entry| entry.lies_at(number, offset)) else {
                continue;
            };
            let (kind, blob) = match (head.kind, blob) {
                // A count that cannot be read is as good as used up: it stays so.
                (Kind::Uses, None) => (Kind::Uses, u64::MAX.to_le_bytes().to_vec()),
                (Kind::Blob, None) => (Kind::Lost, Vec::new()),
                (kind, blob) => (kind, blob.unwrap_or_default().to_vec()),
            };
            rows.push(Moving {
                kind,
                keyspace: head.keyspace,
                key_id: key_id.to_vec(),
                version: entry.version,
                revision: entry.revision,
                blob,
            });
        }
        let next = Some((number, scanner.position()));
        Ok(Stretch { rows, next })
    }
}
