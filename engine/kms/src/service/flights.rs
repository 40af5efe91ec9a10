//! Many callers, one call: a caller that requests a key which is being unwrapped waits for that call.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::UnwrappedDek;
use crate::KmsError;

/// Identifies a flight. The record is part of it, so that callers with different records do not share an answer. So is
/// the number of locks before it, so that a caller after a lock does not share an answer from before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    pub(super) keyspace: u32,
    pub(super) generation: u32,
    pub(super) record: Arc<[u8]>,
    pub(super) lock_count: u64,
}

pub(super) type UnwrapResult = Result<UnwrappedDek, KmsError>;

/// Where a waiter gets the answer. An error at the receiver means that the flight ended without one.
pub(super) type Receiver = watch::Receiver<Option<UnwrapResult>>;

/// The flights in progress, at most `flights_max`.
#[derive(Debug)]
pub(super) struct Flights {
    flights_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    flights: HashMap<FlightKey, (u64, Receiver)>,
    /// Identifies the next flight, so that the end of one never removes a later one.
    next_id: u64,
}

/// How a caller joined.
pub(super) enum Joined {
    /// Another caller's flight is in progress.
    Follower(Receiver),
    /// The caller's own: it must ensure that the call is made.
    Leader(Flight, Receiver),
    /// There are too many flights.
    Full,
}

impl Flights {
    pub(super) fn new(flights_max: usize) -> Arc<Self> {
        Arc::new(Self {
            flights_max,
            table: Mutex::default(),
        })
    }

    pub(super) fn join(self: &Arc<Self>, key: FlightKey) -> Joined {
        let mut table = self.table();
        if let Some((_, receiver)) = table.flights.get(&key) {
            return Joined::Follower(receiver.clone());
        }
        if table.flights.len() >= self.flights_max {
            return Joined::Full;
        }
        let (sender, receiver) = watch::channel(None);
        let id = table.next_id;
        table.next_id += 1;
        table.flights.insert(key.clone(), (id, receiver.clone()));
        Joined::Leader(
            Flight {
                flights: self.clone(),
                key,
                id,
                sender,
            },
            receiver,
        )
    }

    pub(super) fn len(&self) -> usize {
        self.table().flights.len()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is one insertion or removal, so a panic elsewhere leaves the table consistent.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One flight. However it ends, by an answer, a panic or the end of the runtime, it first leaves the table and then
/// reaches every waiter, so that a later caller starts another.
pub(super) struct Flight {
    flights: Arc<Flights>,
    key: FlightKey,
    id: u64,
    sender: watch::Sender<Option<UnwrapResult>>,
}

impl Flight {
    pub(super) fn key(&self) -> &FlightKey {
        &self.key
    }

    pub(super) fn land(self, answer: UnwrapResult) {
        self.remove();
        self.sender.send_replace(Some(answer));
    }

    fn remove(&self) {
        let mut table = self.flights.table();
        if table
            .flights
            .get(&self.key)
            .is_some_and(|(id, _)| *id == self.id)
        {
            table.flights.remove(&self.key);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.remove();
    }
}
