//! Callers of an unwrap, and the lock that may come between: what callers share, and what a lock takes from them.
//!
//! Callers and locks meet here from any thread, so nothing in this file depends on a runtime or a clock; the tests next
//! to it run it under a scheduler that explores the orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::flights::{Flight, FlightKey, Flights, Joined, UnwrapResult};

/// The flights, and how often the provider was locked.
pub(super) struct UnwrapGroup {
    flights: Arc<Flights>,
    /// An answer from before the latest lock is not returned after it.
    lock_count: AtomicU64,
}

/// The time of a call, counted in locks.
#[derive(Clone, Copy)]
pub(super) struct LockEpoch(u64);

/// The result of a shared call.
pub(super) enum Shared {
    /// An answer.
    Answered(UnwrapResult),
    /// The flight ended without one.
    Lost,
    /// A lock came between; there may have been an answer.
    LockedMeanwhile,
    /// There are too many flights.
    Full,
}

impl UnwrapGroup {
    pub(super) fn new(flights_max: usize) -> Self {
        Self {
            flights: Flights::new(flights_max),
            lock_count: AtomicU64::new(0),
        }
    }

    /// Waits for the call in flight for this DEK; if there is none, `start_call` must start one.
    pub(super) async fn join_or_start(
        &self,
        keyspace: u32,
        generation: u32,
        record: &[u8],
        start_call: impl FnOnce(Flight),
    ) -> Shared {
        let epoch = self.epoch();
        let key = FlightKey {
            keyspace,
            generation,
            record: record.into(),
            lock_count: epoch.0,
        };
        let mut receiver = match self.flights.join(key) {
            Joined::Follower(receiver) => receiver,
            Joined::Leader(flight, receiver) => {
                start_call(flight);
                receiver
            }
            Joined::Full => return Shared::Full,
        };
        let answer = match receiver.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone(),
            Err(_) => None,
        };
        if self.was_locked_since(epoch) {
            return Shared::LockedMeanwhile;
        }
        answer.map_or(Shared::Lost, Shared::Answered)
    }

    /// Locks: after this returns, no caller gets a DEK that was unwrapped before.
    pub(super) fn lock(&self, lock_provider: impl FnOnce()) {
        // In this order: a caller that reads the new count finds the provider locked. In the other order, a caller in
        // between would unwrap under the new count and get the DEK after the lock.
        lock_provider();
        self.lock_count.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn epoch(&self) -> LockEpoch {
        LockEpoch(self.lock_count.load(Ordering::SeqCst))
    }

    pub(super) fn was_locked_since(&self, epoch: LockEpoch) -> bool {
        self.epoch().0 != epoch.0
    }

    /// Returns the number of flights in progress.
    pub(super) fn len(&self) -> usize {
        self.flights.len()
    }
}
