//! Opening a log: what the previous process left is read, classified and repaired.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use crate::batch::Queue;
use crate::commit::create_segment;
use crate::error::OpenError;
use crate::index::{Applied, Entry, Index, KeyHash, KeyState};
use crate::limits::DAMAGE_NAMED_MAX;
use crate::log::{
    Beside, BlobLog, Committed, Compaction, DiskState, Health, LogOptions, Segment, Shared, State,
};
use crate::notify::Notify;
use crate::record::Head;
use crate::revoked::RevokedVersions;
use crate::scan::{Item, Scanner};
use crate::seam::{File, Files};
use crate::segment::{self, HEADER_LEN, Header};

/// How far an opening has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes of all segments.
    pub bytes_total: u64,
    /// Whole records found.
    pub records: u64,
}

/// What an opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Segment files, after it.
    pub segments: usize,
    /// Whole records found, superseded ones too.
    pub records: u64,
    /// Keys in the index.
    pub live_records: usize,
    /// Bytes of the segments, after it.
    pub bytes: u64,
    /// Bytes cut from the end of the last segment: a write that the last life did not finish.
    pub cut_bytes: u64,
    /// Whole records among them. They belonged to the same unfinished write as the torn one
    /// before them, unless the disk lost acknowledged bytes of the very last write.
    pub cut_records: u64,
    /// Damaged places: bytes that had been durable and are not what was written. The first
    /// [`DAMAGE_NAMED_MAX`] of them.
    pub damage: Vec<Damage>,
    /// All of them.
    pub damage_count: u64,
    /// The revision that the next write gets.
    pub next_revision: u64,
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the segment file.
    pub segment: u32,
    /// First damaged byte, or the start of the damaged record.
    pub offset: u32,
    /// Bytes that could not be used.
    pub len: u32,
    /// Keyspace, key id and version, if they can still be determined: that key is then answered as
    /// damaged unless a later record supersedes this one. If they cannot, an older record of
    /// the key may have become valid again: restore the segment from a backup.
    pub key: Option<(u32, Vec<u8>, u32)>,
}

impl<F: Files> BlobLog<F> {
    /// Opens the log in `options.dir`, which exists; an empty directory is an empty log.
    ///
    /// Every segment is read once, the last one twice. A torn end of the last segment is cut off,
    /// damage elsewhere is reported and stepped over. `progress` is called every megabyte or so.
    ///
    /// # Errors
    /// The disk fails, or a segment belongs to another log. Damaged bytes are no error.
    pub async fn open(
        files: F,
        options: LogOptions,
        progress: impl FnMut(Progress),
    ) -> Result<(Self, Recovery), OpenError> {
        options.validate()?;
        let opening = Opening {
            state: State {
                index: Index::new(&options.index_seed),
                beside: Beside {
                    uses: Index::new(&options.index_seed),
                    versions: RevokedVersions::new(options.versions_of),
                },
                segments: BTreeMap::new(),
                next_revision: 1,
                health: Health::Writable,
                queue: Queue::default(),
                revocations: Queue::default(),
                pending: BTreeMap::new(),
                leading: false,
                disk: DiskState::default(),
                compaction: Compaction::default(),
                committed: Committed::default(),
            },
            without: BTreeMap::new(),
            recovery: Recovery::default(),
            reporter: Reporter {
                callback: progress,
                progress: Progress::default(),
            },
            files: &files,
            options: &options,
        };
        let (state, recovery) = opening.run().await?;
        let shared = Shared {
            files,
            options,
            state: RefCell::new(state),
            commits: Notify::default(),
        };
        Ok((
            Self {
                shared: Rc::new(shared),
            },
            recovery,
        ))
    }
}

struct Opening<'a, F: Files, P> {
    files: &'a F,
    options: &'a LogOptions,
    state: State<F::File>,
    /// The versions that the newest blobs leave out, of keys where there are any.
    without: BTreeMap<KeyHash, u128>,
    recovery: Recovery,
    reporter: Reporter<P>,
}

impl<F: Files, P: FnMut(Progress)> Opening<'_, F, P> {
    async fn run(mut self) -> Result<(State<F::File>, Recovery), OpenError> {
        let dir = &self.options.dir;
        let names = self.files.list(dir).await.map_err(failed("listing", dir))?;
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|name| segment::number_of(name))
            .collect();
        numbers.sort_unstable();
        let mut found = Vec::new();
        for number in numbers {
            let path = dir.join(segment::file_name(number));
            let file = self
                .files
                .open(&path)
                .await
                .map_err(failed("opening", &path))?;
            let len = file.len().await.map_err(failed("measuring", &path))?;
            self.reporter.progress.bytes_total += len;
            found.push((number, file, len));
        }
        let count = found.len();
        let last_found = found.last().map(|(number, ..)| *number);
        for (at, (number, file, len)) in found.into_iter().enumerate() {
            self.segment(number, Rc::new(file), len, at + 1 == count)
                .await?;
        }
        self.drop_versions();
        let last_kept = self.state.segments.keys().next_back().copied();
        let last_was_half_made = last_kept != last_found;
        // Names that were made and not synced before a crash.
        self.files
            .sync_dir(dir)
            .await
            .map_err(failed("syncing", dir))?;
        if let Some(number) = self.segment_to_make(last_was_half_made) {
            let floor = self.state.next_revision;
            let segment = create_segment(self.files, self.options, number, floor).await;
            let segment = segment.map_err(failed("creating a segment in", dir))?;
            self.state.segments.insert(number, segment);
        }
        self.reporter.report();
        self.recovery.segments = self.state.segments.len();
        self.recovery.records = self.reporter.progress.records;
        self.recovery.live_records = self.state.index.len();
        self.recovery.bytes = self
            .state
            .segments
            .values()
            .map(|segment| u64::from(segment.len))
            .sum();
        self.recovery.next_revision = self.state.next_revision;
        Ok((self.state, self.recovery))
    }

    /// The number of the segment that must be made to have one to append to; none if the last one
    /// will do.
    ///
    /// Where a partially written segment was removed, the one before it was sealed, so its end was not
    /// repaired as a last segment's is. If it is damaged, its last record may claim bytes beyond the
    /// end, or its header may be truncated: what is appended there is not found again.
    fn segment_to_make(&self, last_was_half_made: bool) -> Option<u32> {
        let Some((number, last)) = self.state.segments.last_key_value() else {
            return Some(1);
        };
        // At the end of the numbers it is the only one there is to append to.
        (last_was_half_made && last.damaged)
            .then(|| number.checked_add(1))
            .flatten()
    }

    async fn segment(
        &mut self,
        number: u32,
        file: Rc<F::File>,
        len: u64,
        is_last: bool,
    ) -> Result<(), OpenError> {
        let path = self.options.dir.join(segment::file_name(number));
        let len = u32::try_from(len).map_err(|_| OpenError::Foreign {
            path: path.display().to_string(),
            why: format!("it has {len} bytes, a segment has less than 4 GiB"),
        })?;
        let header = file
            .read_at(0, HEADER_LEN)
            .await
            .map_err(failed("reading", &path))?;
        let header_is_damaged = match segment::parse_header(&header, self.options, number) {
            Header::Ours { revision_floor } => {
                self.state.next_revision = self.state.next_revision.max(revision_floor);
                false
            }
            // A crash while it was made: its header is synced before a record goes in.
            Header::Damaged if is_last && len as usize <= HEADER_LEN => {
                return self
                    .files
                    .remove(&path)
                    .await
                    .map_err(failed("removing", &path));
            }
            Header::Damaged => true,
            Header::Foreign(why) => {
                return Err(OpenError::Foreign {
                    path: path.display().to_string(),
                    why,
                });
            }
        };
        let end = if is_last {
            self.repair_tail(number, &file, len, &path).await?
        } else {
            len
        };
        let segment = Segment {
            file: file.clone(),
            len: end,
            reserved_to: 0,
            live_bytes: 0,
            damaged: false,
        };
        self.state.segments.insert(number, segment);
        if header_is_damaged {
            let len = HEADER_LEN.min(len as usize) as u32;
            self.note_damage(Damage {
                segment: number,
                offset: 0,
                len,
                key: None,
            });
        }
        let place = segment::place(self.options, number);
        let mut scanner = Scanner::new(file, place, HEADER_LEN as u32, end);
        while let Some(item) = scanner.next().await.map_err(failed("reading", &path))? {
            let advanced = match item {
                Item::Record {
                    offset,
                    head,
                    key_id,
                    blob,
                } => {
                    self.reporter.progress.records += 1;
                    let whole = (head.kind.state(), blob);
                    self.apply((number, offset), &head, key_id, whole);
                    head.record_len()
                }
                Item::Damage { offset, len, head } => {
                    if let Some((head, key_id)) = head {
                        let damaged = (head.kind.damaged_state(), &[][..]);
                        self.apply((number, offset), &head, key_id, damaged);
                    }
                    let key =
                        head.map(|(head, key_id)| (head.keyspace, key_id.to_vec(), head.version));
                    self.note_damage(Damage {
                        segment: number,
                        offset,
                        len,
                        key,
                    });
                    len
                }
            };
            self.reporter.advance(u64::from(advanced));
        }
        Ok(())
    }

    /// Makes the end of the last segment whole and durable, and returns where it is now.
    ///
    /// A batch is begun only after all before it is durable, and its records tell where it began.
    /// So what is damaged before the last batch's start was durable once: it is damage, and is
    /// left. What is damaged after it may never have been acknowledged: the segment ends there.
    async fn repair_tail(
        &mut self,
        number: u32,
        file: &Rc<F::File>,
        len: u32,
        path: &Path,
    ) -> Result<u32, OpenError> {
        let place = segment::place(self.options, number);
        let mut scanner = Scanner::new(file.clone(), place, HEADER_LEN as u32, len);
        let mut batch_offset = None;
        // Damage that no later batch has proved to have been durable, and the records after it.
        let mut torn: Option<(u32, u64)> = None;
        while let Some(item) = scanner.next().await.map_err(failed("reading", path))? {
            let head = match &item {
                Item::Record { head, .. } => Some(head),
                Item::Damage { head, .. } => head.as_ref().map(|(head, _)| head),
            };
            if let Some(head) = head {
                batch_offset = batch_offset.max(Some(head.batch_offset));
            }
            torn = torn.filter(|(offset, _)| Some(*offset) >= batch_offset);
            match (&item, &mut torn) {
                (Item::Record { .. }, Some((_, records))) => *records += 1,
                (Item::Damage { offset, .. }, None) if Some(*offset) >= batch_offset => {
                    torn = Some((*offset, 0));
                }
                (Item::Record { .. }, None) | (Item::Damage { .. }, _) => {}
            }
        }
        let end = torn.map_or(len, |(offset, _)| offset);
        if let Some((offset, records)) = torn {
            self.recovery.cut_bytes = u64::from(len - offset);
            self.recovery.cut_records = records;
            self.reporter.advance(u64::from(len - offset));
            file.truncate(u64::from(offset))
                .await
                .map_err(failed("cutting", path))?;
        }
        // If the last life's last sync failed, the page cache may show what the disk does not
        // hold, and a sync alone would not write it again. So the last batch is written again.
        let rewrite_from = batch_offset.unwrap_or(0).min(end);
        let bytes = file
            .read_at(u64::from(rewrite_from), (end - rewrite_from) as usize)
            .await;
        let bytes = bytes.map_err(failed("reading", path))?;
        if !bytes.is_empty() {
            file.write_at(u64::from(rewrite_from), bytes)
                .await
                .map_err(failed("writing", path))?;
        }
        file.sync_data().await.map_err(failed("syncing", path))?;
        Ok(end)
    }

    fn apply(
        &mut self,
        (segment, offset): (u32, u32),
        head: &Head,
        key_id: &[u8],
        (state, blob): (Option<KeyState>, &[u8]),
    ) {
        self.state.next_revision = self
            .state
            .next_revision
            .max(head.revision.saturating_add(1));
        let Some(state) = state else { return };
        let hash = self.state.index.hash(head.keyspace, key_id);
        let held = self.state.beside.versions.held(state, head.version, blob);
        let entry = Entry {
            revision: head.revision,
            segment,
            offset,
            record_len: head.record_len(),
            keyspace: head.keyspace,
            version: head.version,
            oldest: held.oldest,
            state,
        };
        let applied = self.state.apply(head.kind, hash, entry, held.without);
        if applied == Applied::Superseded || !head.kind.is_of_key() {
            return;
        }
        match held.without {
            0 => self.without.remove(&hash),
            without => self.without.insert(hash, without),
        };
    }

    /// Drops the revocations of versions that no blob holds any more, and that were found after the blob: copies of a
    /// compaction are out of order.
    fn drop_versions(&mut self) {
        for key in self.state.beside.versions.keys() {
            let without = self.without.get(&key).copied().unwrap_or(0);
            self.state.drop_versions(key, without);
        }
    }

    fn note_damage(&mut self, damage: Damage) {
        let segment = self.state.segments.get_mut(&damage.segment);
        segment
            .expect("damage is noted while its segment is open")
            .damaged = true;
        self.recovery.damage_count += 1;
        if self.recovery.damage.len() < DAMAGE_NAMED_MAX {
            self.recovery.damage.push(damage);
        }
    }
}

/// Calls back periodically.
struct Reporter<P> {
    callback: P,
    progress: Progress,
}

/// Bytes between two calls.
const PROGRESS_BYTES: u64 = 1 << 20;

impl<P: FnMut(Progress)> Reporter<P> {
    fn advance(&mut self, bytes: u64) {
        let before = self.progress.bytes_done / PROGRESS_BYTES;
        self.progress.bytes_done += bytes;
        if self.progress.bytes_done / PROGRESS_BYTES != before {
            (self.callback)(self.progress);
        }
    }

    fn report(&mut self) {
        self.progress.bytes_done = self.progress.bytes_total;
        (self.callback)(self.progress);
    }
}

fn failed(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io {
        what: format!("{doing} {}", path.display()),
        source,
    }
}
