//! Time inside a turn.
//!
//! A turn reads the clock when it begins and after each unit of work (a frame, an order, a landed read, a request whose
//! wait is over). The reading after one unit is the next unit's `now`, so that every key that is handed out is checked
//! against a fresh reading, and a unit costs one.

use keyway_core::Instant;

use super::port::Port;

/// Work that a turn does before I/O is polled again, µs.
pub const TURN_US_MAX: u64 = 200;

/// A port, and the turn's last reading of its clock.
pub(crate) struct Timed<P> {
    pub(crate) port: P,
    now: Instant,
    /// No work was done since `now` was read.
    is_fresh: bool,
    began_at: Instant,
}

impl<P: Port> Timed<P> {
    pub(crate) fn new(port: P) -> Self {
        let now = port.now();
        Timed {
            port,
            now,
            is_fresh: true,
            began_at: now,
        }
    }

    /// Begins a turn.
    pub(crate) fn begin(&mut self) {
        self.began_at = self.read();
    }

    /// Returns the last reading of the clock.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Reads the clock, after some work. The clock never regresses.
    pub(crate) fn read(&mut self) -> Instant {
        self.now = self.port.now().max(self.now);
        self.is_fresh = true;
        self.now
    }

    /// Begins the next unit of work. Returns the time: the reading after the last unit, if it made one.
    pub(crate) fn next_unit(&mut self) -> Instant {
        if !self.is_fresh {
            self.read();
        }
        self.is_fresh = false;
        self.now
    }

    /// Ends a unit of work. Returns the time.
    pub(crate) fn end_unit(&mut self) -> Instant {
        if !self.is_fresh {
            self.read();
        }
        self.now
    }

    /// Returns how long the turn has taken so far, µs.
    pub(crate) fn taken_us(&self) -> u64 {
        self.now.saturating_since(self.began_at)
    }

    /// Returns whether the turn has done its share of work: what is left has to wait for the next one.
    pub(crate) fn is_over(&self) -> bool {
        self.taken_us() >= TURN_US_MAX
    }
}
