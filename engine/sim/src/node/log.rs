//! A shard's blob log as a model: what was put is there, after a while, or not. It is slow, fails, hangs, fills up, and dies
//! with the process in the middle of a write.
//!
//! The world uses it by [`SimLog::begin`], [`SimLog::next_at`] and [`SimLog::take_done`], and the port by
//! [`SimLog::known`] and [`SimLog::revoke`].

use super::label::Label;
use crate::dice::Dice;
use keyway_node::port::{
    Blob, Expect, Found, KeyState, Known, Name, Page, ReadError, Row, Write, WriteError,
};
use keyway_node::shard::{Done, Errand, OwnedName, TaskId};
use std::collections::{BTreeMap, BTreeSet};

/// How the disk of a log behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogMood {
    Good,
    /// Nothing can be written, and nothing has changed.
    Full,
    /// A write fails, and may be there after a restart.
    FailsLate,
    /// Nothing can be read.
    ReadsFail,
}

/// A key's keyspace and id.
pub(super) type KeyName = (u32, Box<[u8]>);

/// The newest record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) version: u32,
    revision: u64,
    pub(super) state: KeyState,
    pub(super) bytes: Vec<u8>,
    /// Its write was answered with an error, or its revocation was in force and never written.
    pub(super) is_ghost: bool,
}

impl Record {
    /// A key's first version.
    pub(super) fn first(bytes: Vec<u8>) -> Self {
        Self {
            version: 1,
            revision: 1,
            state: KeyState::Live,
            bytes,
            is_ghost: false,
        }
    }
}

/// Something that takes time.
struct UnderWay {
    at: u64,
    task: TaskId,
    what: What,
}

enum What {
    /// A read, with what was there when it began if it is that which it finds.
    Read(KeyName, Option<Found>),
    Put(KeyName, Record),
    /// A put that waits for another one to the same key.
    Queued(KeyName, Write),
    /// A revocation that is in force is written.
    Revoke(KeyName),
    Refused(WriteError),
    List(u32, Vec<u8>, usize),
    Other(Done),
}

/// The log.
pub(super) struct SimLog {
    records: BTreeMap<KeyName, Record>,
    /// Revocations that are in force and not written.
    revoking: BTreeSet<KeyName>,
    /// What a failed write may have left on the disk.
    ghosts: Vec<(KeyName, Record)>,
    under_way: Vec<UnderWay>,
    revision: u64,
    dice: Dice,
    mood: LogMood,
    takes_us: u64,
    /// After a write of which it is not known whether it is there, nothing is written until the next start.
    is_broken: bool,
    /// Blobs that came to be durable since the last look.
    landed: Vec<Vec<u8>>,
}

/// Revocations that could not be written are tried again after this, µs.
const RETRY_US: u64 = 1_000_000;

impl SimLog {
    pub(super) fn new(dice: Dice) -> Self {
        Self {
            records: BTreeMap::new(),
            revoking: BTreeSet::new(),
            ghosts: Vec::new(),
            under_way: Vec::new(),
            revision: 0,
            dice,
            mood: LogMood::Good,
            takes_us: 100,
            is_broken: false,
            landed: Vec::new(),
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken
    }

    pub(super) fn set_mood(&mut self, mood: LogMood, takes_us: u64) {
        (self.mood, self.takes_us) = (mood, takes_us);
    }

    pub(super) fn records(&self) -> impl Iterator<Item = (&KeyName, &Record)> {
        self.records.iter()
    }

    pub(super) fn take_landed(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.landed)
    }

    /// The DEK's generation of a blob in flight that is older than this one.
    pub(super) fn pending_under_older(&self, keyspace: u32, generation: u32) -> Option<u32> {
        let pending = self.under_way.iter().filter_map(|it| match &it.what {
            What::Put(_, record) => Label::read(&record.bytes),
            What::Queued(_, Write::Blob { sealed, .. }) => Label::read(&sealed.bytes),
            _ => None,
        });
        let mut generations = pending
            .filter(|(label, _)| label.dek.keyspace == keyspace)
            .map(|(label, _)| label.dek.generation);
        generations.find(|older| *older < generation)
    }

    /// Begins what a shard asks for.
    pub(super) fn begin(&mut self, now: u64, task: TaskId, errand: Errand) {
        let what = match errand {
            Errand::Read(name) => {
                let name = named(name);
                let found = self.dice.one_in(2).then(|| self.find(&name));
                What::Read(name, found)
            }
            Errand::Put(name, write) => self.admit(named(name), write),
            Errand::List {
                keyspace,
                cursor,
                rows_max,
            } => {
                let rows = 1 + self.dice.below(rows_max.clamp(1, 6) as u64) as usize;
                What::List(keyspace, cursor, rows)
            }
            Errand::RevokedAt(_) => What::Other(Done::RevokedAt(Ok(Some(0)))),
            Errand::Generate(_) => What::Other(Done::Generated(Ok(vec![1].into()))),
            Errand::Reserve(..) => What::Other(Done::Reserved(match self.mood {
                LogMood::Good => Ok(()),
                _ => Err(WriteError::Store("the disk is full".to_owned())),
            })),
        };
        let at = now + 1 + self.takes_us / 2 + self.dice.below(self.takes_us.max(1));
        self.under_way.push(UnderWay { at, task, what });
    }

    /// Checks a put against what is there and what is in flight.
    fn admit(&mut self, name: KeyName, write: Write) -> What {
        if let Write::Revocation = write {
            return What::Revoke(name);
        }
        let is_pending = self.under_way.iter().any(|other| match &other.what {
            What::Put(of, _) | What::Revoke(of) => *of == name,
            _ => false,
        });
        if is_pending {
            return What::Queued(name, write);
        }
        if self.is_broken {
            return What::Refused(WriteError::Store("the log has failed".to_owned()));
        }
        self.revision += 1;
        let revision = self.revision;
        let found = self.records.get(&name);
        let is_revoked = self.revoking.contains(&name)
            || found.is_some_and(|found| found.state == KeyState::Revoked);
        match write {
            Write::Blob { sealed, expect } => {
                let is_there = found.filter(|found| found.state == KeyState::Live);
                let is_expected = match expect {
                    Expect::Absent => is_there.is_none(),
                    Expect::Revision(version, revision) => is_there.is_some_and(|found| {
                        (found.version, found.revision) == (version, revision)
                    }),
                };
                if is_revoked {
                    return What::Refused(WriteError::Revoked);
                }
                if !is_expected || found.is_some_and(|found| found.version > sealed.version) {
                    return What::Refused(WriteError::Conflict("changed".to_owned()));
                }
                let record = Record {
                    version: sealed.version,
                    revision,
                    state: KeyState::Live,
                    bytes: sealed.bytes,
                    is_ghost: false,
                };
                What::Put(name, record)
            }
            Write::Deletion if !is_revoked => What::Refused(match found {
                Some(found) if found.state == KeyState::Live => {
                    WriteError::Conflict("only a revoked key can be deleted".to_owned())
                }
                _ => WriteError::NotFound,
            }),
            Write::Deletion | Write::Revocation => {
                let version = found.map_or(0, |found| found.version);
                let record = Record {
                    version,
                    revision,
                    state: KeyState::Deleted,
                    bytes: Vec::new(),
                    is_ghost: false,
                };
                What::Put(name, record)
            }
        }
    }

    /// When the next thing ends.
    pub(super) fn next_at(&self) -> Option<u64> {
        let ends = self.under_way.iter();
        let ends = ends.filter(|it| !matches!(it.what, What::Queued(..)));
        ends.map(|it| it.at).min()
    }

    /// Takes what has ended.
    pub(super) fn take_done(&mut self, now: u64) -> Vec<(TaskId, Done)> {
        let mut done = Vec::new();
        while let Some(next) = self.next_at().filter(|at| *at <= now) {
            let at = self
                .under_way
                .iter()
                .position(|it| it.at == next && !matches!(it.what, What::Queued(..)));
            let Some(at) = at else { break };
            let UnderWay { task, what, .. } = self.under_way.remove(at);
            let freed = match &what {
                What::Put(name, _) | What::Revoke(name) => Some(name.clone()),
                _ => None,
            };
            done.push((task, self.end(what)));
            if let Some(name) = freed {
                self.admit_queued(now, &name);
            }
        }
        done
    }

    /// The next puts to a key that waited for another one, up to the first that is let in.
    fn admit_queued(&mut self, now: u64, name: &KeyName) {
        loop {
            let at = self
                .under_way
                .iter()
                .position(|it| matches!(&it.what, What::Queued(of, _) if of == name));
            let Some(at) = at else { return };
            let UnderWay { task, what, .. } = self.under_way.remove(at);
            let What::Queued(name, write) = what else {
                return;
            };
            let what = self.admit(name, write);
            let waits_on = matches!(what, What::Put(..) | What::Queued(..));
            let at = now + 1 + self.takes_us / 2;
            self.under_way.push(UnderWay { at, task, what });
            if waits_on {
                return;
            }
        }
    }

    fn end(&mut self, what: What) -> Done {
        match what {
            What::Read(..) if self.mood == LogMood::ReadsFail => {
                Done::Read(Err(ReadError::Io("the disk fails".to_owned())))
            }
            What::Read(_, Some(found)) => Done::Read(Ok(found)),
            What::Read(name, None) => Done::Read(Ok(self.find(&name))),
            What::Put(name, record) => Done::Put(self.put(name, record)),
            What::Revoke(name) => Done::Put(self.write_revocation(&name)),
            What::Refused(error) => Done::Put(Err(error)),
            What::List(keyspace, cursor, rows) => Done::Listed(match self.mood {
                LogMood::ReadsFail => Err("the disk fails".to_owned()),
                _ => Ok(self.page(keyspace, &cursor, rows)),
            }),
            What::Queued(..) => Done::Lost,
            What::Other(done) => done,
        }
    }

    fn put(&mut self, name: KeyName, record: Record) -> Result<u32, WriteError> {
        match self.mood {
            LogMood::Good | LogMood::ReadsFail => {
                let version = record.version;
                if record.state == KeyState::Live {
                    self.landed.push(record.bytes.clone());
                }
                self.records.insert(name, record);
                Ok(version)
            }
            LogMood::Full => Err(WriteError::Store("the disk is full".to_owned())),
            LogMood::FailsLate => {
                self.is_broken = true;
                self.ghosts.push((name, record));
                Err(WriteError::Unknown("the disk has failed".to_owned()))
            }
        }
    }

    fn write_revocation(&mut self, name: &KeyName) -> Result<u32, WriteError> {
        let Some(record) = self.records.get_mut(name) else {
            return Err(WriteError::NotFound);
        };
        let is_good = matches!(self.mood, LogMood::Good | LogMood::ReadsFail) && !self.is_broken;
        if record.state != KeyState::Revoked && !is_good {
            return Err(WriteError::NotPersisted("the disk fails".to_owned()));
        }
        record.state = KeyState::Revoked;
        self.revoking.remove(name);
        Ok(record.version)
    }

    /// Tries revocations again that could not be written. Returns when to try the next time.
    pub(super) fn retry(&mut self, now: u64) -> Option<u64> {
        for name in self.revoking.clone() {
            let is_pending = self.under_way.iter().any(|other| match &other.what {
                What::Put(of, _) | What::Revoke(of) => *of == name,
                _ => false,
            });
            if !is_pending {
                // It is in force whatever comes of it.
                let _ = self.write_revocation(&name);
            }
        }
        (!self.revoking.is_empty()).then_some(now + RETRY_US)
    }

    fn find(&self, name: &KeyName) -> Found {
        match self.records.get(name) {
            Some(record) if self.state_of(name, record) == KeyState::Live => Found::Blob(Blob {
                version: record.version,
                revision: record.revision,
                bytes: record.bytes.clone(),
            }),
            Some(record) if self.state_of(name, record) == KeyState::Revoked => Found::Revoked,
            _ => Found::Missing,
        }
    }

    pub(super) fn state_of(&self, name: &KeyName, record: &Record) -> KeyState {
        match self.revoking.contains(name) {
            true => KeyState::Revoked,
            false => record.state,
        }
    }

    fn page(&self, keyspace: u32, cursor: &[u8], rows_max: usize) -> Page {
        let mut page = Page::default();
        let from = (keyspace, Box::from(cursor));
        for (name, record) in self.records.range(from..) {
            let state = self.state_of(name, record);
            if name.0 != keyspace || (*name.1 == *cursor) || state == KeyState::Deleted {
                continue;
            }
            if page.rows.len() == rows_max {
                page.cursor = page
                    .rows
                    .last()
                    .map_or(Vec::new(), |row| row.key_id.clone());
                break;
            }
            page.rows.push(Row {
                key_id: name.1.to_vec(),
                blob: Blob {
                    version: record.version,
                    revision: record.revision,
                    bytes: match state {
                        KeyState::Live => record.bytes.clone(),
                        _ => Vec::new(),
                    },
                },
                state,
            });
        }
        page
    }

    /// What the index has of a key.
    pub(super) fn known(&self, name: Name<'_>) -> Option<Known> {
        let name = (name.keyspace, Box::from(name.key_id));
        let record = self.records.get(&name)?;
        Some(Known {
            version: record.version,
            revision: record.revision,
            state: self.state_of(&name, record),
        })
    }

    /// A key is revoked from now on.
    pub(super) fn revoke(&mut self, name: Name<'_>) -> Result<(), WriteError> {
        let name = (name.keyspace, Box::from(name.key_id));
        match self.records.get(&name).map(|record| record.state) {
            None | Some(KeyState::Deleted) => Err(WriteError::NotFound),
            Some(KeyState::Revoked) => Ok(()),
            Some(_) => {
                self.revoking.insert(name);
                Ok(())
            }
        }
    }

    /// The process dies: some of what was in flight is there.
    pub(super) fn crash(&mut self) {
        for UnderWay { what, .. } in std::mem::take(&mut self.under_way) {
            match what {
                What::Put(name, record) if self.dice.one_in(2) => {
                    self.records.insert(name, record);
                }
                What::Revoke(name) if self.dice.one_in(2) => {
                    if let Some(record) = self.records.get_mut(&name) {
                        record.state = KeyState::Revoked;
                    }
                }
                _ => {}
            }
        }
        for (name, record) in std::mem::take(&mut self.ghosts) {
            let newest = self.records.get(&name).map_or(0, |found| found.revision);
            if self.dice.one_in(2) && record.revision > newest {
                let is_ghost = true;
                self.records.insert(name, Record { is_ghost, ..record });
            }
        }
        for name in std::mem::take(&mut self.revoking) {
            // What its revocation has let retire is not held against the log.
            if let Some(record) = self.records.get_mut(&name) {
                record.is_ghost = true;
            }
        }
        self.landed.clear();
        self.is_broken = false;
    }

    /// The records of a log that is divided again.
    pub(super) fn take_records(&mut self) -> Vec<(KeyName, Record)> {
        std::mem::take(&mut self.records).into_iter().collect()
    }

    pub(super) fn add_record(&mut self, name: KeyName, record: Record) {
        self.revision = self.revision.max(record.revision);
        self.records.insert(name, record);
    }
}

fn named(name: OwnedName) -> KeyName {
    (name.keyspace, name.key_id)
}
