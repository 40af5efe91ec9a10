//! Which side has to make the next move.
//!
//! A connection is closed for being slow only while the server waits for the client: the rest of a frame while the
//! connection is read, or an answer to be taken. Such waits are added up from one look to the next, so the server's own
//! pauses do not count.

use keyway_core::Instant;

use super::patience::Patience;

/// Time for HELLO, for the rest of a frame, or for a peer to receive bytes of an answer.
pub const STALL_US_MAX: u64 = 10_000_000;

/// Time that a connection whose principal has no right may ask for nothing.
pub const RIGHTLESS_IDLE_US_MAX: u64 = 5_000_000;

/// Waits for a peer: for its bytes, for it to receive answers, and for any request.
pub(crate) struct Stall {
    looked_at: Instant,
    sent_at_last_look: u64,
    for_bytes: Patience,
    for_taking: Patience,
    for_request: Patience,
}

/// What a connection waits for at a look.
pub(super) struct Waits {
    /// The rest of a frame, or HELLO, is missing while the connection is read.
    pub owes_bytes: bool,
    /// Bytes that the peer has not taken.
    pub unsent: usize,
    /// Bytes that it has taken so far.
    pub sent_total: u64,
    /// It has no right, and no request in flight.
    pub is_useless: bool,
}

impl Stall {
    pub(super) fn new(now: Instant) -> Self {
        Stall {
            looked_at: now,
            sent_at_last_look: 0,
            for_bytes: Patience::default(),
            for_taking: Patience::default(),
            for_request: Patience::default(),
        }
    }

    /// Notes that a frame came.
    pub(crate) fn note_frame(&mut self) {
        self.for_bytes.reset();
        self.for_request.reset();
    }

    /// Adds up the time since the last look. Returns whether the server has waited too long.
    pub(super) fn look(&mut self, now: Instant, waits: Waits) -> bool {
        let elapsed_us = now.saturating_since(self.looked_at);
        self.looked_at = now;
        let takes = self.sent_at_last_look != waits.sent_total;
        self.sent_at_last_look = waits.sent_total;
        if takes || waits.unsent == 0 {
            self.for_taking.reset();
        }
        let all = [
            (&mut self.for_bytes, waits.owes_bytes, STALL_US_MAX),
            (
                &mut self.for_taking,
                waits.unsent > 0 && !takes,
                STALL_US_MAX,
            ),
            (
                &mut self.for_request,
                waits.is_useless,
                RIGHTLESS_IDLE_US_MAX,
            ),
        ];
        let mut is_stalled = false;
        for (patience, waits, max_us) in all {
            is_stalled |= waits && patience.waited(elapsed_us) > max_us;
        }
        is_stalled
    }

    /// Returns how long nothing was asked for, µs.
    pub(super) fn useless_us(&self) -> u64 {
        self.for_request.total_us()
    }

    /// Returns for how long, up to the last look, the peer has taken nothing of what is unsent, µs.
    pub(crate) fn untaken_us(&self) -> u64 {
        self.for_taking.total_us()
    }
}
