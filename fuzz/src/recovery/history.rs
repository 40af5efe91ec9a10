//! What was put into a log, and where each record must lie.

use std::collections::BTreeMap;
use std::future::Future;
use std::task::Poll;

use keyway_store::SEGMENT_BYTES_MIN;

use crate::script::Script;

/// Bytes before a segment's first record.
pub(super) const HEADER_LEN: usize = 64;

/// Bytes of a record before its key id.
const HEAD_LEN: usize = 48;

/// The most batches of one log.
pub(super) const STEPS_MAX: usize = 24;

/// The most puts that are in progress at the same time.
const BATCH_MAX: usize = 4;

/// Few, so that keys have several versions.
const KEYS: [&[u8]; 6] = [b"a", b"b", b"KWR1", b"carol", b"d/e", &[0x7e; 128]];

/// One record.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) key_id: Vec<u8>,
    pub(super) version: u32,
    /// `None` is a revocation.
    pub(super) blob: Option<Vec<u8>>,
    /// Its segment file, from 0.
    pub(super) file: usize,
    /// Where it ends in that file, in bytes.
    pub(super) end: usize,
}

/// All records of a log, in its order.
#[derive(Default)]
pub(super) struct History {
    pub(super) puts: Vec<Put>,
    /// The log was closed, which marks its end.
    pub(super) closed: bool,
    newest: BTreeMap<Vec<u8>, (u32, bool)>,
    place: Place,
}

/// Where the next record goes.
struct Place {
    file: usize,
    end: usize,
}

impl Default for Place {
    fn default() -> Self {
        Self {
            file: 0,
            end: HEADER_LEN,
        }
    }
}

impl Place {
    /// Takes room for a record: in this segment, or alone in the next if it would outgrow it.
    fn take(&mut self, len: usize) {
        let is_empty = self.end == HEADER_LEN;
        if !is_empty && self.end + len > SEGMENT_BYTES_MIN as usize {
            self.file += 1;
            self.end = HEADER_LEN;
        }
        self.end += len;
    }

    /// Takes room for a revocation, which goes into the segment that there is.
    fn take_here(&mut self, len: usize) {
        self.end += len;
    }
}

/// What a revocation has in the place of a blob: its time.
const TIME_LEN: usize = 8;

impl History {
    /// Puts of different keys, to be made at the same time.
    pub(super) fn next_batch(&mut self, script: &mut Script<'_>) -> Vec<Put> {
        let mut batch: Vec<Put> = Vec::new();
        for _ in 0..1 + usize::from(script.u8()) % BATCH_MAX {
            let key_id = KEYS[usize::from(script.u8()) % KEYS.len()];
            let kind = script.u8();
            let fill = script.u8();
            let len = 1 + script.below(if kind & 0x40 == 0 { 200 } else { 5_000 });
            let (version, is_revoked) = self.newest.get(key_id).copied().unwrap_or_default();
            if is_revoked || batch.iter().any(|put| put.key_id == key_id) {
                continue;
            }
            // One in sixteen revokes, if there is anything to revoke.
            let revoke = kind & 0x0f == 0 && version > 0;
            // Revocations are written apart from puts: here each is a batch of its own.
            if revoke && !batch.is_empty() {
                continue;
            }
            let blob = if kind & 0x20 == 0 {
                vec![fill; len]
            } else {
                // Bytes that look like records: magics, lengths.
                b"KWR1\x64\x00\x00\x00"
                    .iter()
                    .copied()
                    .cycle()
                    .take(len)
                    .collect()
            };
            let version = if revoke { version } else { version + 1 };
            self.newest.insert(key_id.to_vec(), (version, revoke));
            let head_len = HEAD_LEN + key_id.len();
            match revoke {
                true => self.place.take_here(head_len + TIME_LEN),
                false => self.place.take(head_len + blob.len()),
            }
            batch.push(Put {
                key_id: key_id.to_vec(),
                version,
                blob: (!revoke).then_some(blob),
                file: self.place.file,
                end: self.place.end,
            });
            if revoke {
                break;
            }
        }
        batch
    }

    /// Each key's records, oldest first.
    pub(super) fn by_key(&self) -> BTreeMap<Vec<u8>, Vec<&Put>> {
        let mut by_key: BTreeMap<Vec<u8>, Vec<&Put>> = BTreeMap::new();
        for put in &self.puts {
            by_key.entry(put.key_id.clone()).or_default().push(put);
        }
        by_key
    }

    /// How many records the log has.
    pub(super) fn record_count(&self) -> u64 {
        self.puts.len() as u64 + u64::from(self.closed)
    }

    /// Checks that the files end where the records' lengths say, so that the places are right.
    ///
    /// # Panics
    /// If they do not.
    pub(super) fn check_places(&self, files: &BTreeMap<String, Vec<u8>>) {
        let mut ends = vec![HEADER_LEN; files.len()];
        for put in &self.puts {
            ends[put.file] = put.end;
        }
        if self.closed {
            // The mark is written like any record.
            let mut place = Place {
                file: self.place.file,
                end: self.place.end,
            };
            place.take(HEAD_LEN);
            ends[place.file] = place.end;
        }
        let lens: Vec<usize> = files.values().map(Vec::len).collect();
        assert_eq!(lens, ends, "the records lie elsewhere");
    }
}

/// Polls all futures together on this thread until each is done; gives their outputs in order.
pub(super) async fn all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures
        .into_iter()
        .map(|future| (Box::pin(future), None))
        .collect();
    std::future::poll_fn(|context| {
        let mut waiting = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(ready) => *output = Some(ready),
                    Poll::Pending => waiting = true,
                }
            }
        }
        if waiting {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
    let outputs = running.into_iter();
    outputs.filter_map(|(_, output)| output).collect()
}
