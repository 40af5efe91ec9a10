//! Paging through a log's keys.

use crate::error::ReadError;
use crate::index::KeyState;
use crate::limits::{LIST_ROWS_MAX, LIST_SCAN_BYTES_MAX};
use crate::log::BlobLog;
use crate::record::Kind;
use crate::scan::{Item, Scanner};
use crate::seam::Files;
use crate::segment::{self, HEADER_LEN};

/// A part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys, in the order of their newest records in the log. Fewer than asked for, even none,
    /// does not mean the end.
    pub rows: Vec<Row>,
    /// Where the next page begins; empty at the end. To be handed back as it is.
    pub cursor: Vec<u8>,
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
    /// Revision of its newest record.
    pub revision: u64,
    /// Whether it can be used.
    pub state: KeyState,
    /// Its blob if it is live, else empty.
    pub blob: Vec<u8>,
}

/// The version of the cursor's bytes: this, u32 segment, u32 offset, little-endian.
const CURSOR_VERSION: u8 = 1;

impl<F: Files> BlobLog<F> {
    /// Up to `limit` keys (1 to [`LIST_ROWS_MAX`], clamped) from `cursor` on, an empty one being
    /// the start; of one keyspace, or of all. Reads 4 MiB at most, so that a page may be short.
    ///
    /// A key that is there, undamaged or damaged, from the first page to the last is listed at
    /// least once. It is listed again if it was put or moved by a compaction meanwhile; then the
    /// later row is the newer. Any bytes are good as a cursor: one that this log did not make
    /// begins somewhere, or at the start.
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
        let (mut segment, mut offset) = decode_cursor(cursor);
        let mut rows = Vec::new();
        let mut read_bytes = 0;
        loop {
            let Some((number, file, len)) = self.segment_from(segment) else {
                return Ok(Page {
                    rows,
                    cursor: Vec::new(),
                });
            };
            if number != segment {
                offset = 0;
            }
            let start = offset.clamp(HEADER_LEN as u32, len.max(HEADER_LEN as u32));
            let place = segment::place(&self.shared.options, number);
            let mut scanner = Scanner::new(file, place, start, len);
            loop {
                let position = scanner.position();
                let read_here = u64::from(position - start);
                if rows.len() >= limit || read_bytes + read_here >= LIST_SCAN_BYTES_MAX {
                    return Ok(Page {
                        rows,
                        cursor: encode_cursor(number, position),
                    });
                }
                let io = |source| ReadError::Io {
                    segment: number,
                    source,
                };
                let Some(item) = scanner.next().await.map_err(io)? else {
                    read_bytes += read_here;
                    break;
                };
                let (offset, head, key_id, blob) = match item {
                    Item::Record {
                        offset,
                        head,
                        key_id,
                        blob,
                    } => (offset, head, key_id, blob),
                    Item::Damage {
                        offset,
                        head: Some((head, key_id)),
                        ..
                    } => (offset, head, key_id, &[][..]),
                    Item::Damage { head: None, .. } => continue,
                };
                if head.kind == Kind::Mark || keyspace.is_some_and(|only| only != head.keyspace) {
                    continue;
                }
                let entry = {
                    let index = &self.shared.state.borrow().index;
                    index.find(index.hash(head.keyspace, key_id))
                };
                let Some(entry) = entry.filter(|entry| entry.lies_at(number, offset)) else {
                    continue;
                };
                let whole = entry.state == KeyState::Live && !blob.is_empty();
                rows.push(Row {
                    keyspace: head.keyspace,
                    key_id: key_id.to_vec(),
                    version: entry.version,
                    revision: entry.revision,
                    state: match entry.state {
                        KeyState::Live if !whole => KeyState::Damaged,
                        state => state,
                    },
                    blob: if whole { blob.to_vec() } else { Vec::new() },
                });
            }
            let Some(next) = number.checked_add(1) else {
                return Ok(Page {
                    rows,
                    cursor: Vec::new(),
                });
            };
            (segment, offset) = (next, 0);
        }
    }

    /// The first segment from `number` on, with its durable length.
    fn segment_from(&self, number: u32) -> Option<(u32, std::rc::Rc<F::File>, u32)> {
        let state = self.shared.state.borrow();
        let (number, segment) = state.segments.range(number..).next()?;
        Some((*number, segment.file.clone(), segment.len))
    }
}

fn encode_cursor(segment: u32, offset: u32) -> Vec<u8> {
    let mut cursor = vec![CURSOR_VERSION];
    cursor.extend_from_slice(&segment.to_le_bytes());
    cursor.extend_from_slice(&offset.to_le_bytes());
    cursor
}

fn decode_cursor(cursor: &[u8]) -> (u32, u32) {
    match *cursor {
        [CURSOR_VERSION, s0, s1, s2, s3, o0, o1, o2, o3] => (
            u32::from_le_bytes([s0, s1, s2, s3]),
            u32::from_le_bytes([o0, o1, o2, o3]),
        ),
        _ => (0, 0),
    }
}
