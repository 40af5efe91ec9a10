//! The port of a simulated shard: labels instead of keys, and time that passes.

use super::clock::Clock;
use super::label::{FAST, InMemory, Label, Memory, SLOW, SimDek, SimKey};
use super::log::ShardLog;
use super::plan::{Key, PanicsIn};
use super::{UNIX_MS, instant_of_unix_ms};
use crate::control::kms::{Dek, dek_of};
use crate::oracle::Violation;
use keyway_core::{Instant, Loaded};
use keyway_node::messages::DekBytes;
use keyway_node::port::{
    Blob, BlobHead, Cost, Known, Making, Name, NoRoom, OpError, OpenError, Operation, Port, Seal,
    Sealed, WriteError,
};
use keyway_node::shard::{TURN_US_MAX, Use};
use keyway_protocol::KeyVersions;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Room that a loaded key takes, bytes.
const KEY_BYTES: usize = 100;

/// What a port has seen its shard do.
#[derive(Clone, Debug)]
pub(super) enum Seen {
    Used(Used),
    Opened(Opened),
    Sealed(Dek, u64),
    Broken(Violation),
}

/// A key was used.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    /// Goes out as the signature.
    pub(super) number: u64,
    /// The client's id of the request, which is the only one with it.
    pub(super) request: u64,
    pub(super) keyspace: u32,
    pub(super) version: u32,
    pub(super) load: u64,
    pub(super) began_at: u64,
    pub(super) ended_at: u64,
    /// What the shard takes for the key's end.
    pub(super) expires_at: u64,
}

/// A key was loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opened {
    pub(super) load: u64,
    pub(super) began_at: u64,
    pub(super) opened_at: u64,
    pub(super) not_after: u64,
}

/// Numbers that no two shards of a history give twice.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    uses: Cell<u64>,
    loads: Cell<u64>,
}

impl Numbers {
    fn next(of: &Cell<u64>) -> u64 {
        of.set(of.get() + 1);
        of.get()
    }
}

/// What all shards of a process share: nothing that a shard could decide by.
#[derive(Clone, Default)]
pub(super) struct Shared {
    pub(super) numbers: Rc<Numbers>,
    pub(super) memory: Rc<Memory>,
    pub(super) panic: Rc<Cell<Option<PlantedPanic>>>,
}

/// An operation that panics, once.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlantedPanic {
    /// The client's id of the request.
    pub(super) request: u64,
    pub(super) key: Key,
    pub(super) place: PanicsIn,
}

/// One shard's port.
pub(super) struct SimPort {
    pub(super) shard: u16,
    pub(super) clock: Rc<Clock>,
    pub(super) log: ShardLog,
    pub(super) shared: Shared,
    pub(super) seen: RefCell<Vec<Seen>>,
}

impl SimPort {
    fn note(&self, seen: Seen) {
        self.seen.borrow_mut().push(seen);
    }

    pub(super) fn broken(&self, invariant: u8, what: String) {
        self.note(Seen::Broken(Violation { invariant, what }));
    }

    fn panic_if_planted(&self, place: PanicsIn, is_it: impl Fn(&PlantedPanic) -> bool) {
        let planted = self.shared.panic.get();
        if planted.is_some_and(|planted| planted.place == place && is_it(&planted)) {
            self.shared.panic.set(None);
            panic!("a planted panic");
        }
    }

    /// Drops from a blob what the log says is revoked, but for the newest version.
    fn without_revoked(&self, name: Name<'_>, label: Label) -> Label {
        let revoked = self.log.borrow().revoked_versions(name, label.version);
        Label {
            revoked: label.revoked | revoked & !1,
            ..label
        }
    }

    /// Does something that takes time. A turn begins nothing more once it has done its share.
    fn work(&self, is_slow: bool, what: &str) {
        let before = self.clock.work(is_slow);
        if before.worked_us >= TURN_US_MAX {
            let us = before.worked_us;
            self.broken(
                24,
                format!("{what} is begun in a turn that has worked {us} us"),
            );
        }
        if is_slow && before.slow > 0 {
            self.broken(24, format!("{what}: a second slow operation in one turn"));
        }
    }
}

impl Port for SimPort {
    type Key = SimKey;
    type Dek = SimDek;

    fn now(&self) -> Instant {
        Instant::from_micros(self.clock.read())
    }

    fn unix_ms(&self) -> u64 {
        UNIX_MS + self.clock.read() / 1_000
    }

    fn cost(&self, key: &SimKey, operation: &Operation<'_>) -> Cost {
        self.panic_if_planted(PanicsIn::Choice, |planted| {
            planted.request == operation.frame.request_id
        });
        match key.label.is_slow() {
            true => Cost::Slow,
            false => Cost::Fast,
        }
    }

    fn perform(
        &self,
        with: Use<'_, SimKey>,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        let (key, began_at) = (with.key(), self.clock.now());
        let version = key.version_for(operation.request)?;
        self.work(key.label.is_slow(), "an operation");
        let used = Used {
            number: Numbers::next(&self.shared.numbers.uses),
            request: operation.frame.request_id,
            keyspace: operation.frame.keyspace_id,
            version,
            load: key.load,
            began_at,
            ended_at: self.clock.now(),
            expires_at: with.expires_at().as_micros(),
        };
        out.extend_from_slice(&used.number.to_le_bytes());
        self.note(Seen::Used(used));
        // Half of a result may be written by then.
        self.panic_if_planted(PanicsIn::Result, |planted| planted.request == used.request);
        Ok(version)
    }

    fn take_dek(&self, dek: Box<DekBytes>) -> Result<SimDek, NoRoom> {
        let dek = dek_of(&dek);
        Ok(SimDek {
            dek,
            _place: InMemory::new(&self.shared.memory, self.shard, dek.keyspace),
        })
    }

    fn open(
        &self,
        dek: &SimDek,
        name: Name<'_>,
        blob: &Blob,
        began_at: Instant,
    ) -> Result<Loaded<SimKey>, OpenError> {
        self.work(false, "opening a blob");
        let label = match Label::read(&blob.bytes) {
            Some((label, key_id)) if label.dek == dek.dek && key_id == name.key_id => label,
            other => {
                self.broken(
                    13,
                    format!("{name:?}: a blob is opened with {dek:?}, and is {other:?}"),
                );
                return Err(OpenError::Corrupt("it does not open".to_owned()));
            }
        };
        let not_after = (label.not_after > 0).then(|| instant_of_unix_ms(label.not_after));
        let opened = Opened {
            load: Numbers::next(&self.shared.numbers.loads),
            began_at: began_at.as_micros(),
            opened_at: self.clock.now(),
            not_after: not_after.map_or(u64::MAX, Instant::as_micros),
        };
        self.note(Seen::Opened(opened));
        Ok(Loaded {
            version: label.version,
            dek_generation: label.dek.generation,
            key_bytes: KEY_BYTES,
            not_after,
            value: SimKey {
                load: opened.load,
                label,
                revoked: label.revoked | self.log.borrow().revoked_versions(name, label.version),
                _place: InMemory::new(&self.shared.memory, self.shard, name.keyspace),
            },
        })
    }

    fn seal(
        &self,
        under: &SimDek,
        name: Name<'_>,
        what: Seal<'_, SimDek>,
    ) -> Result<Option<Sealed>, WriteError> {
        self.work(false, "sealing a blob");
        let reopen = |bytes: &[u8], opener: &SimDek| match Label::read(bytes) {
            Some((label, _)) if label.dek == opener.dek => Ok(label),
            _ => Err(WriteError::Invalid("it does not open".to_owned())),
        };
        if !matches!(what, Seal::Resealed(..)) {
            self.panic_if_planted(PanicsIn::Sealing, |planted| {
                let key = planted.key;
                (key.keyspace, key.id().as_slice()) == (name.keyspace, name.key_id)
            });
        }
        let dek = under.dek;
        let label = match what {
            Seal::New {
                new_key,
                first_version,
                ..
            } => Label {
                dek,
                version: first_version,
                oldest: first_version,
                revoked: 0,
                algorithm: new_key.algorithm.map_or(FAST, |it| it.code()),
                not_after: new_key.not_after_unix_ms,
            },
            Seal::Rotated(blob, opener, _) => {
                let label = reopen(&blob.bytes, opener)?;
                Label {
                    dek,
                    version: blob.version + 1,
                    revoked: label.revoked << 1,
                    ..label
                }
            }
            Seal::Trimmed(blob, opener, below) => {
                let label = reopen(&blob.bytes, opener)?;
                if below > label.version {
                    return Err(WriteError::Conflict("the newest version stays".to_owned()));
                }
                if below <= label.oldest {
                    return Ok(None);
                }
                Label {
                    dek,
                    oldest: below,
                    ..label
                }
            }
            Seal::Resealed(bytes, opener) => Label {
                dek,
                ..reopen(bytes, opener)?
            },
        };
        let label = self.without_revoked(name, label);
        self.note(Seen::Sealed(dek, self.clock.now()));
        Ok(Some(Sealed {
            version: label.version,
            bytes: label.seal(name.key_id),
        }))
    }

    fn head_of(&self, blob: &[u8]) -> Result<BlobHead, String> {
        let (label, _) = Label::read(blob).ok_or_else(|| "it is no blob".to_owned())?;
        Ok(BlobHead {
            dek_generation: label.dek.generation,
            algorithm: label.algorithm,
            versions: Some(KeyVersions {
                oldest: label.oldest,
                revoked: label.revoked,
            }),
        })
    }

    fn can_make(&self, algorithm: Option<u8>) -> Result<Making, WriteError> {
        Ok(match algorithm {
            Some(SLOW) => Making::Slow,
            _ => Making::Quick,
        })
    }

    fn known(&self, name: Name<'_>) -> Option<Known> {
        self.log.borrow().known(name)
    }

    fn revoke(&self, name: Name<'_>, unix_ms: u64, _: bool) -> Result<(), WriteError> {
        self.log.borrow().revoke(name, unix_ms)
    }

    fn revoke_version(
        &self,
        name: Name<'_>,
        version: u32,
        unix_ms: u64,
        _: bool,
    ) -> Result<(), WriteError> {
        self.log.borrow().revoke_version(name, version, unix_ms)
    }
}
