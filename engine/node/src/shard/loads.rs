//! Loads: reads by urgency, as many at a time as there are read slots, and opening what was read.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use keyway_core::{FlightId, Instant, KeyId, KeyspaceId, LoadError, Loaded, Urgency};

use super::Shard;
use super::effect::{Errand, OwnedName};
use super::figures::Observation;
use super::port::{Blob, Found, Name, OpenError, Port, ReadError};
use super::report::Report;
use super::tasks::{Load, Task};

/// Reads of the log in flight on one shard: more only queue in the kernel.
pub const READS_MAX: usize = 16;

/// Of these, reads that refreshes ahead of need may have in flight. A scan starts many at once; all together they would
/// only hold each other up.
pub const PREFETCH_READS_MAX: usize = 2;

const _: () = assert!(PREFETCH_READS_MAX < READS_MAX);

/// A load that waits for a read slot.
pub(crate) struct QueuedLoad {
    pub(crate) flight: FlightId,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key_id: KeyId,
    pub(crate) asked_at: Instant,
}

/// Loads that wait for a read slot, by urgency. Bounded by the core's flights.
#[derive(Default)]
pub(crate) struct LoadQueue {
    on_demand: VecDeque<QueuedLoad>,
    urgent: VecDeque<QueuedLoad>,
    ahead: VecDeque<QueuedLoad>,
    /// Reads in progress.
    reads: usize,
}

impl LoadQueue {
    /// Returns how many loads wait.
    pub(crate) fn len(&self) -> usize {
        self.on_demand.len() + self.urgent.len() + self.ahead.len()
    }

    /// Returns whether the load of a key waits for a read slot.
    pub(crate) fn holds(&self, keyspace: KeyspaceId, key_id: &[u8]) -> bool {
        let mut all = self.on_demand.iter().chain(&self.urgent).chain(&self.ahead);
        all.any(|load| load.keyspace == keyspace && *load.key_id == *key_id)
    }

    pub(crate) fn push(&mut self, urgency: Urgency, load: QueuedLoad) {
        match urgency {
            Urgency::OnDemand => self.on_demand.push_back(load),
            Urgency::Urgent => self.urgent.push_back(load),
            Urgency::Ahead => self.ahead.push_back(load),
        }
    }

    /// Takes the next load that may start. Those that no request waits for leave slots free for those that one does.
    fn pop(&mut self) -> Option<QueuedLoad> {
        if self.reads >= READS_MAX {
            return None;
        }
        if let Some(load) = self.on_demand.pop_front() {
            return Some(load);
        }
        if self.reads >= PREFETCH_READS_MAX {
            return None;
        }
        self.urgent.pop_front().or_else(|| self.ahead.pop_front())
    }
}

impl<P: Port> Shard<P> {
    /// Starts queued loads while there are read slots; those that a request waits for go first.
    pub(super) fn start_loads(&mut self) {
        let now = self.timed.now();
        while let Some(load) = self.loads.pop() {
            // If its flight is over, what the load would bring is not wanted any more.
            if !self.core.call(|core| core.begin_load(now, load.flight)) {
                continue;
            }
            let us = now.saturating_since(load.asked_at);
            self.out.observe(Observation::LoadWait { us });
            self.loads.reads += 1;
            self.read(Load {
                flight: load.flight,
                keyspace: load.keyspace,
                key_id: load.key_id,
                began_at: now,
            });
        }
    }

    fn read(&mut self, load: Load) {
        let name = OwnedName {
            keyspace: load.keyspace.0,
            key_id: Box::from(&*load.key_id),
        };
        self.tasks
            .begin(&mut self.out, Task::Load(load), Errand::Read(name));
    }

    /// Returns whether the key was written since a blob was read. The log drops what it knows of a revoked version once the
    /// newest blob does not hold it: an older blob must not be opened then.
    fn was_replaced(&self, load: &Load, blob: &Blob) -> bool {
        let name = Name {
            keyspace: load.keyspace.0,
            key_id: &load.key_id,
        };
        let known = self.timed.port.known(name);
        known.is_some_and(|known| known.revision != blob.revision)
    }

    /// Opens what was read, and hands it to the core. A panic on the way is an answer like any other. What is not the
    /// newest blob any more is read again, in the same read slot: each time takes another write in between.
    pub(super) fn land(&mut self, load: Load, found: Option<Result<Found, ReadError>>) {
        if let Some(Ok(Found::Blob(blob))) = &found
            && self.was_replaced(&load, blob)
        {
            return self.read(load);
        }
        self.loads.reads -= 1;
        let loaded = match found {
            None => Err(LoadError::Panicked),
            Some(found) => {
                let opened = catch_unwind(AssertUnwindSafe(|| self.open(&load, found)));
                opened.unwrap_or_else(|_| {
                    self.out.panics_total += 1;
                    self.out.report(Report::HandlerPanicked);
                    Err(LoadError::Panicked)
                })
            }
        };
        let now = self.timed.read();
        if let Some(at) = self.governed.find(load.keyspace.0) {
            let (keyspace, us) = (load.keyspace.0, now.saturating_since(load.began_at));
            self.out.observe(Observation::Rehydrated { keyspace, us });
            self.governed[at].tally.load(now, &load.key_id, us.max(1));
        }
        self.core
            .call(|core| core.handle_loaded(now, load.flight, loaded));
    }

    fn open(
        &mut self,
        load: &Load,
        found: Result<Found, ReadError>,
    ) -> Result<Loaded<P::Key>, LoadError> {
        let keyspace = load.keyspace.0;
        let blob = match found {
            Ok(Found::Blob(blob)) => blob,
            Ok(Found::Missing) => return Err(LoadError::NotFound),
            Ok(Found::Revoked) => return Err(LoadError::Revoked),
            Err(ReadError::Damaged(_)) => return Err(LoadError::Corrupt),
            Err(ReadError::Io(error)) => {
                self.out.report(Report::ReadFailed { keyspace, error });
                return Err(LoadError::Store);
            }
        };
        let port = &self.timed.port;
        let head = port.head_of(&blob.bytes).map_err(|_| LoadError::Corrupt)?;
        let dek = self.shelf.find(keyspace, head.dek_generation);
        let dek = dek.ok_or(LoadError::DekMissing)?;
        let name = Name {
            keyspace,
            key_id: &load.key_id,
        };
        port.open(dek, name, &blob, load.began_at)
            .map_err(|error| match error {
                OpenError::NoRoom(error) => {
                    self.out.report(Report::NoRoomForKey { keyspace, error });
                    LoadError::Store
                }
                OpenError::Corrupt(error) => {
                    self.out.report(Report::NotOpened { keyspace, error });
                    LoadError::Corrupt
                }
            })
    }
}
