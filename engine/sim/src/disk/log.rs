//! One shard's blob log, in virtual time.

use super::errands::run;
use super::executor::{Executor, finish};
use super::mood::Decider;
use keyway_errands::state_of;
use keyway_node::port::{Blob, Found, KeyState, Known, Name, Sealed, Write, WriteError};
use keyway_node::shard::{Done, Errand, OwnedName};
use keyway_store::virtual_files::VirtualFiles;
use keyway_store::{BlobLog, Compaction, LIST_ROWS_MAX, Stats};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

type Log = BlobLog<VirtualFiles>;

/// After a put, the next step of a compaction is taken after this, µs.
const COMPACTION_US: u64 = 50_000;
/// Bytes of such a step.
const COMPACTION_BYTES: usize = 2_000;
/// What could not be written is tried again after this, µs.
const RETRY_US: u64 = 500_000;
/// The generation of a secret takes up to this, µs.
const GENERATION_US: u64 = 20_000;

/// A key of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Its keyspace.
    pub keyspace: u32,
    /// Its id in it.
    pub key_id: Vec<u8>,
    /// Its newest version.
    pub version: u32,
    /// Whether it can be used.
    pub state: KeyState,
    /// Versions that were revoked alone: bit `i` is the one `i` below the newest.
    pub revoked: u128,
    /// Its durable blob, if it has one.
    pub bytes: Vec<u8>,
}

/// The log of one shard in one process. `T` names an errand.
pub struct SimLog<T> {
    files: VirtualFiles,
    decider: Rc<RefCell<Decider>>,
    log: Log,
    executor: Executor,
    ended: Rc<Ended<T>>,
    /// Errands that need no disk, with their ends.
    timed: Vec<(u64, T, Done)>,
    now_us: u64,
    compact_at: Option<u64>,
    retry_at: Option<u64>,
}

/// What has ended since the last look.
pub(super) struct Ended<T> {
    errands: RefCell<Vec<(T, Done)>>,
    landed: RefCell<Vec<Vec<u8>>>,
    /// Blobs of puts that have not ended, by number.
    puts: RefCell<BTreeMap<u64, Vec<u8>>>,
    puts_so_far: Cell<u64>,
    /// A write has ended: there may be something to compact, or to try again.
    pub(super) wrote: Cell<bool>,
    is_compacting: Cell<bool>,
    is_retrying: Cell<bool>,
    /// Segments that compactions have removed.
    removed: Cell<u64>,
}

impl<T: 'static> SimLog<T> {
    pub(super) fn new(
        files: VirtualFiles,
        decider: Rc<RefCell<Decider>>,
        log: Log,
        now_us: u64,
    ) -> Self {
        Self {
            files,
            decider,
            log,
            executor: Executor::default(),
            ended: Rc::new(Ended {
                errands: RefCell::default(),
                landed: RefCell::default(),
                puts: RefCell::default(),
                puts_so_far: Cell::default(),
                wrote: Cell::new(true),
                is_compacting: Cell::default(),
                is_retrying: Cell::default(),
                removed: Cell::default(),
            }),
            timed: Vec::new(),
            now_us,
            compact_at: None,
            retry_at: None,
        }
    }

    /// Begins an errand at `now_us`.
    pub fn begin(&mut self, now_us: u64, task: T, errand: Errand) {
        self.pass(now_us);
        if let Errand::Generate(_) = errand {
            let at = self.now_us + 1 + GENERATION_US / 2;
            let done = Done::Generated(Ok(vec![1].into()));
            self.timed.push((at, task, done));
            return;
        }
        let (log, ended) = (self.log.clone(), Rc::clone(&self.ended));
        self.executor.spawn(async move {
            let done = run(&log, errand, &ended).await;
            ended.errands.borrow_mut().push((task, done));
        });
        self.executor.run();
    }

    /// Returns when there is something to take or to do next, µs.
    #[must_use]
    pub fn next_at(&self) -> Option<u64> {
        if self.executor.is_woken() || !self.ended.errands.borrow().is_empty() {
            return Some(self.now_us);
        }
        self.next_event()
    }

    fn next_event(&self) -> Option<u64> {
        let timed = self.timed.iter().map(|(at, ..)| *at).min();
        let ends = [self.files.next_at(), timed, self.compact_at, self.retry_at];
        ends.into_iter().flatten().min()
    }

    /// Lets the time pass until `now_us`, and returns the errands that have ended, in their order.
    pub fn take_done(&mut self, now_us: u64) -> Vec<(T, Done)> {
        self.pass(now_us);
        self.ended.errands.take()
    }

    fn pass(&mut self, now_us: u64) {
        loop {
            self.executor.run();
            self.schedule_upkeep();
            let Some(at) = self.next_event().filter(|at| *at <= now_us) else {
                break;
            };
            self.now_us = self.now_us.max(at);
            self.files.advance(self.now_us);
            self.fire();
        }
        self.now_us = self.now_us.max(now_us);
        self.files.advance(self.now_us);
        self.executor.run();
    }

    fn fire(&mut self) {
        while let Some(at) = self.timed.iter().position(|(at, ..)| *at <= self.now_us) {
            let (_, task, done) = self.timed.remove(at);
            self.ended.errands.borrow_mut().push((task, done));
        }
        let (log, ended) = (self.log.clone(), Rc::clone(&self.ended));
        if self.compact_at.is_some_and(|at| at <= self.now_us) {
            self.compact_at = None;
            self.ended.is_compacting.set(true);
            self.executor.spawn(async move {
                let step = log.compact_step(COMPACTION_BYTES).await;
                let is_removed = matches!(step, Ok(Compaction::Removed { .. }));
                ended
                    .removed
                    .set(ended.removed.get() + u64::from(is_removed));
                // Something may be left, or it failed.
                ended
                    .wrote
                    .set(ended.wrote.get() || !matches!(step, Ok(Compaction::Idle)));
                ended.is_compacting.set(false);
            });
        }
        let (log, ended) = (self.log.clone(), Rc::clone(&self.ended));
        if self.retry_at.is_some_and(|at| at <= self.now_us) {
            self.retry_at = None;
            self.ended.is_retrying.set(true);
            self.executor.spawn(async move {
                // Comes again while there is something to try.
                let _ = log.retry_revocations().await;
                ended.is_retrying.set(false);
            });
        }
    }

    /// Compactions follow writes; what is to be tried again is tried again.
    fn schedule_upkeep(&mut self) {
        if self.compact_at.is_none() && !self.ended.is_compacting.get() && self.ended.wrote.take() {
            self.compact_at = Some(self.now_us + COMPACTION_US);
        }
        let stats = self.log.stats();
        let is_failing = stats.poisoned || stats.revocations_bytes > 0;
        if is_failing && self.retry_at.is_none() && !self.ended.is_retrying.get() {
            self.retry_at = Some(self.now_us + RETRY_US);
        }
    }

    /// Returns what the index has of a key.
    #[must_use]
    pub fn known(&self, name: Name<'_>) -> Option<Known> {
        keyway_errands::known(&self.log, name)
    }

    /// Revokes a key, from now on.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn revoke(&self, name: Name<'_>, unix_ms: u64) -> Result<(), WriteError> {
        keyway_errands::revoke(&self.log, name, unix_ms, false)
    }

    /// Revokes one version of a key, from now on.
    ///
    /// # Errors
    /// Nothing has changed.
    pub fn revoke_version(
        &self,
        name: Name<'_>,
        version: u32,
        unix_ms: u64,
    ) -> Result<(), WriteError> {
        keyway_errands::revoke_version(&self.log, name, version, unix_ms, false)
    }

    /// Returns which versions of a key are revoked alone: bit `i` is the one `i` below `newest`.
    #[must_use]
    pub fn revoked_versions(&self, name: Name<'_>, newest: u32) -> u128 {
        keyway_errands::revoked_versions(&self.log, name, newest)
    }

    /// Returns how many revocations of one version are remembered.
    #[must_use]
    pub fn revoked_versions_count(&self) -> usize {
        self.log.revoked_versions_count()
    }

    /// Returns the newest blob of a key, without any time passing.
    #[must_use]
    pub fn blob_now(&self, name: OwnedName) -> Option<Blob> {
        match self.without_time(keyway_errands::read(&self.log, &name)) {
            Ok(Found::Blob(blob)) => Some(blob),
            _ => None,
        }
    }

    /// Returns whether one version of a key is revoked.
    #[must_use]
    pub fn is_version_revoked(&self, name: Name<'_>, version: u32) -> bool {
        self.revoked_versions(name, version) & 1 == 1
    }

    /// Takes the blobs that have been acknowledged since the last look.
    pub fn take_landed(&mut self) -> Vec<Vec<u8>> {
        self.ended.landed.take()
    }

    /// Returns the blobs of puts that have not ended.
    #[must_use]
    pub fn in_flight_puts(&self) -> Vec<Vec<u8>> {
        self.ended.puts.borrow().values().cloned().collect()
    }

    /// Puts a new key, without any time passing.
    ///
    /// # Panics
    /// The key is there.
    pub fn put_now(&self, name: Name<'_>, sealed: Sealed) {
        let absent = keyway_store::Expect::Absent;
        let (keyspace, key_id) = (name.keyspace, name.key_id);
        let put = self
            .log
            .put_blob(keyspace, key_id, sealed.version, sealed.bytes, absent);
        self.without_time(put).expect("the key is new");
    }

    /// Returns how many errands and other tasks have not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.executor.len() + self.timed.len()
    }

    /// Returns how many segments compactions have removed.
    #[must_use]
    pub fn compacted(&self) -> u64 {
        self.ended.removed.get()
    }

    /// Returns the statistics of the log.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.log.stats()
    }

    /// Reads all keys that are not deleted, without any time passing.
    ///
    /// # Panics
    /// The log cannot be read: that has no faults here.
    #[must_use]
    pub fn records(&self) -> Vec<LogRecord> {
        self.without_time(async {
            let (mut records, mut cursor) = (Vec::new(), Vec::new());
            loop {
                let page = self.log.list(&cursor, LIST_ROWS_MAX, None).await;
                let page = page.expect("a read without faults");
                records.extend(page.rows.into_iter().map(|row| LogRecord {
                    keyspace: row.keyspace,
                    key_id: row.key_id,
                    version: row.version,
                    state: state_of(row.state),
                    revoked: row.revoked,
                    bytes: row.blob,
                }));
                cursor = page.cursor;
                if cursor.is_empty() {
                    return records;
                }
            }
        })
    }

    /// Returns the version and the count that were put last for a key, without any time passing.
    ///
    /// # Panics
    /// The log cannot be read: that has no faults here.
    #[must_use]
    pub fn uses(&self, name: Name<'_>) -> Option<(u32, u64)> {
        self.without_time(async {
            let uses = self.log.uses(name.keyspace, name.key_id).await;
            uses.expect("a read without faults")
        })
    }

    fn without_time<O>(&self, future: impl Future<Output = O>) -> O {
        let was = std::mem::replace(&mut self.decider.borrow_mut().is_instant, true);
        let output = finish(future);
        self.decider.borrow_mut().is_instant = was;
        output
    }
}

impl<T> Ended<T> {
    pub(super) fn begin_put(&self, write: &Write) -> u64 {
        let number = self.puts_so_far.get();
        self.puts_so_far.set(number + 1);
        if let Write::Blob { sealed, .. } = write {
            self.puts.borrow_mut().insert(number, sealed.bytes.clone());
        }
        number
    }

    pub(super) fn end_put(&self, number: u64, is_acknowledged: bool) {
        let bytes = self.puts.borrow_mut().remove(&number);
        if let Some(bytes) = bytes.filter(|_| is_acknowledged) {
            self.landed.borrow_mut().push(bytes);
        }
        self.wrote.set(true);
    }
}
