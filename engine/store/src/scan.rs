//! Walking a segment's records in order, past whatever is damaged.

use std::io;
use std::rc::Rc;

use crate::limits::SCAN_CHUNK_LEN;
use crate::record::{self, Head, HeadError, Place};
use crate::seam::File;

/// One step of a walk.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A whole record.
    Record {
        offset: u32,
        head: Head,
        key_id: &'a [u8],
        blob: &'a [u8],
    },
    /// Bytes that are no whole record. Where the head is whole, it tells whose record this was.
    Damage {
        offset: u32,
        len: u32,
        head: Option<(Head, &'a [u8])>,
    },
}

/// A walk over `start..end` of one segment.
pub(crate) struct Scanner<L> {
    file: Rc<L>,
    place: Place,
    /// Where the next item begins.
    position: u32,
    end: u32,
    /// The bytes from `buffer_offset` on; `buffer_offset <= position`.
    buffer: Vec<u8>,
    buffer_offset: u32,
}

/// Owned form of what `next` found, before the bytes are borrowed.
enum Found {
    Record(Head),
    Damage { len: u32, head: Option<Head> },
}

impl<L: File> Scanner<L> {
    /// Starts at `start`, which is where a record begins or what happens to lie there: a walk
    /// from anywhere finds the next whole record.
    pub fn new(file: Rc<L>, place: Place, start: u32, end: u32) -> Self {
        Self {
            file,
            place,
            position: start,
            end,
            buffer: Vec::new(),
            buffer_offset: start,
        }
    }

    /// Where the next item begins.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// The next item; none at the end. Memory stays within a record and a chunk.
    pub async fn next(&mut self) -> io::Result<Option<Item<'_>>> {
        if self.position >= self.end {
            return Ok(None);
        }
        let offset = self.position;
        let found = self.find().await?;
        let place_of = |buffer_offset: u32, head: &Head| {
            // With a whole head the bytes from it on are still in the buffer.
            let at = (offset - buffer_offset) as usize;
            let key_id =
                at + record::HEAD_LEN..at + record::HEAD_LEN + usize::from(head.key_id_len);
            (key_id.clone(), key_id.end..at + head.record_len() as usize)
        };
        Ok(Some(match found {
            Found::Record(head) => {
                let (key_id, blob) = place_of(self.buffer_offset, &head);
                self.position = offset + head.record_len();
                Item::Record {
                    offset,
                    head,
                    key_id: &self.buffer[key_id],
                    blob: &self.buffer[blob],
                }
            }
            Found::Damage { len, head } => {
                self.position = offset + len;
                let head = head.map(|head| {
                    let (key_id, _) = place_of(self.buffer_offset, &head);
                    (head, &self.buffer[key_id])
                });
                Item::Damage { offset, len, head }
            }
        }))
    }

    async fn find(&mut self) -> io::Result<Found> {
        let left = self.end - self.position;
        let Some(head) = self.head_at(self.position).await? else {
            let next = self.next_head(self.position + 1).await?;
            return Ok(Found::Damage {
                len: next - self.position,
                head: None,
            });
        };
        if head.record_len() > left {
            return Ok(Found::Damage {
                len: left,
                head: Some(head),
            });
        }
        let (place, position) = (self.place, self.position);
        let bytes = self.window(position, head.record_len() as usize).await?;
        if record::is_body_intact(bytes, place, position) {
            Ok(Found::Record(head))
        } else {
            Ok(Found::Damage {
                len: head.record_len(),
                head: Some(head),
            })
        }
    }

    /// The whole head at `offset`, if there is one.
    async fn head_at(&mut self, offset: u32) -> io::Result<Option<Head>> {
        let place = self.place;
        let mut len = record::HEAD_LEN;
        // Twice at most: once for the fixed part, once for the key id.
        loop {
            if len > (self.end - offset) as usize {
                return Ok(None);
            }
            match record::parse_head(self.window(offset, len).await?, place, offset) {
                Ok(head) => return Ok(Some(head)),
                Err(HeadError::Bad) => return Ok(None),
                Err(HeadError::Need(need)) => len = need,
            }
        }
    }

    /// Where the next whole head begins, from `offset` on; the end if there is none.
    async fn next_head(&mut self, mut offset: u32) -> io::Result<u32> {
        while (offset as usize) + record::HEAD_LEN <= self.end as usize {
            let len = SCAN_CHUNK_LEN.min((self.end - offset) as usize);
            let bytes = self.window(offset, len).await?;
            let magic = bytes
                .windows(record::MAGIC.len())
                .position(|four| four == record::MAGIC);
            match magic {
                Some(at) => {
                    offset += at as u32;
                    if self.head_at(offset).await?.is_some() {
                        return Ok(offset);
                    }
                    offset += 1;
                }
                // The last three bytes may begin a magic that the next window ends.
                None => offset += (len - (record::MAGIC.len() - 1)) as u32,
            }
        }
        Ok(self.end)
    }

    /// `len` bytes at `offset`, both within `position..end`, read if they are not there yet.
    async fn window(&mut self, offset: u32, len: usize) -> io::Result<&[u8]> {
        let have_end = self.buffer_offset as usize + self.buffer.len();
        if offset as usize + len > have_end {
            // All before the record in hand can go; during a search that is all before `offset`.
            let keep_from = offset.min(have_end as u32);
            let gone = keep_from - self.buffer_offset;
            self.buffer.drain(..gone as usize);
            self.buffer_offset = keep_from;
            let missing = offset as usize + len - have_end;
            let read_len = missing
                .max(SCAN_CHUNK_LEN)
                .min(self.end as usize - have_end);
            let bytes = self.file.read_at(have_end as u64, read_len).await?;
            if bytes.len() < missing {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!(
                        "{} of {read_len} bytes read at {have_end}: the file is shorter than it was",
                        bytes.len()
                    ),
                ));
            }
            self.buffer.extend_from_slice(&bytes);
        }
        let at = (offset - self.buffer_offset) as usize;
        Ok(&self.buffer[at..at + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Kind;
    use crate::seam::Files;
    use crate::std_files::{StdFile, StdFiles, now};

    const START: u32 = 64;

    fn place() -> Place {
        Place::new(&[1; 16], 1, (0, 1), 1)
    }

    fn append(bytes: &mut Vec<u8>, revision: u64, blob: &[u8]) {
        let offset = bytes.len() as u32;
        let head = Head {
            kind: Kind::Blob,
            revision,
            keyspace: 1,
            version: 1,
            batch_offset: offset,
            key_id_len: 3,
            blob_len: blob.len() as u32,
        };
        record::encode(bytes, place(), offset, &head, b"key", blob);
    }

    /// Offsets of the records, and offset and length of the damaged parts, in order.
    fn walk(bytes: &[u8]) -> (Vec<u32>, Vec<(u32, u32)>) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("segment");
        let file: StdFile = now(StdFiles.create(&path)).expect("a file");
        now(file.write_at(0, bytes.to_vec())).expect("a write");
        let mut scanner = Scanner::new(Rc::new(file), place(), START, bytes.len() as u32);
        let (mut records, mut damage) = (Vec::new(), Vec::new());
        while let Some(item) = now(scanner.next()).expect("a read") {
            match item {
                Item::Record { offset, .. } => records.push(offset),
                Item::Damage { offset, len, .. } => damage.push((offset, len)),
            }
        }
        assert_eq!(scanner.position(), bytes.len() as u32);
        assert!(scanner.buffer.capacity() <= 4 * SCAN_CHUNK_LEN);
        (records, damage)
    }

    #[test]
    fn a_record_behind_long_damage_is_found_wherever_the_reads_end() {
        // The next record begins around the end of a read, so that its magic, its head or its
        // key id lies in two of them.
        for shift in -70..8_i64 {
            let mut bytes = vec![0; START as usize];
            append(&mut bytes, 1, b"before");
            let damage_start = bytes.len();
            let next = (damage_start + 2 * SCAN_CHUNK_LEN) as i64 + shift;
            // Junk full of magics that begin nothing.
            while bytes.len() < next as usize {
                bytes.extend_from_slice(b"KWR1KWR");
            }
            bytes.truncate(next as usize);
            append(&mut bytes, 2, &[9; 1000]);
            let (records, damage) = walk(&bytes);
            assert_eq!(records, [START, next as u32], "shift {shift}");
            assert_eq!(
                damage,
                [(damage_start as u32, next as u32 - damage_start as u32)]
            );
        }
    }

    #[test]
    fn a_record_inside_a_blob_is_not_taken_for_one() {
        let mut inner = vec![0; START as usize];
        append(&mut inner, 1, b"inner");
        let mut bytes = vec![0; START as usize];
        append(&mut bytes, 2, &inner[START as usize..]);
        let end = bytes.len() as u32;
        // The outer head is damaged, so the search meets the inner record's bytes.
        bytes[START as usize + 20] ^= 1;
        assert_eq!(walk(&bytes), (vec![], vec![(START, end - START)]));
    }

    #[test]
    fn records_longer_than_a_read_are_whole() {
        let mut bytes = vec![0; START as usize];
        let mut offsets = Vec::new();
        for revision in 0..5 {
            offsets.push(bytes.len() as u32);
            append(
                &mut bytes,
                revision,
                &vec![revision as u8; SCAN_CHUNK_LEN + 77],
            );
        }
        assert_eq!(walk(&bytes), (offsets, vec![]));
    }
}
