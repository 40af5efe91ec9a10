//! How long the server has waited for a peer, without the time in which the server itself did not run.

use std::cell::Cell;

/// What one look adds at most. Looks are a second apart; a longer gap is the server's own (a stopped process, a lost
/// processor), and the peer's bytes may be waiting in the kernel.
const LOOK_US_MAX: u64 = 2_000_000;

/// A wait that is added up look by look.
#[derive(Debug, Default)]
pub struct Patience {
    total_us: Cell<u64>,
}

impl Patience {
    /// Adds the time since the last look; returns the sum since the last reset, in microseconds.
    pub fn waited(&self, elapsed_us: u64) -> u64 {
        let total_us = self.total_us.get() + elapsed_us.min(LOOK_US_MAX);
        self.total_us.set(total_us);
        total_us
    }

    /// The sum since the last reset, in microseconds.
    pub fn total_us(&self) -> u64 {
        self.total_us.get()
    }

    /// The peer has made its move.
    pub fn reset(&self) {
        self.total_us.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_of_the_server_counts_as_one_look() {
        let patience = Patience::default();
        assert_eq!(patience.waited(1_000_000), 1_000_000);
        assert_eq!(patience.waited(3_600_000_000), 3_000_000);
        patience.reset();
        assert_eq!(patience.waited(1_000_000), 1_000_000);
    }
}
