//! Places for what waits at a shard: how many there are, and for whom the last ones are kept.
//!
//! What takes something away has places of its own: a shard that is full of requests takes it, and the reverse. The job of
//! a revocation ends only when the log has written it, so while a disk hangs revocations keep the places that they have.
//! They therefore leave some free: for the commands of others, and, after those, for the operator.

use std::cell::Cell;
use std::rc::Rc;

use crate::connection::{IN_FLIGHT_PER_CONNECTION_MAX, Place, WAITING_RESERVED};

/// Requests of a shard that may wait for a flight, a peer, the log or control.
pub const WAITING_MAX: usize = 65_536;

/// Places beyond these for what takes something away.
pub const WAITING_FOR_EMERGENCY: usize = 32_768;

const _: () = assert!(IN_FLIGHT_PER_CONNECTION_MAX < WAITING_MAX);
const _: () =
    assert!(crate::connection::IN_FLIGHT_PER_PRINCIPAL_MAX < WAITING_MAX - WAITING_RESERVED);
const _: () = assert!(
    crate::connection::REVOCATIONS_PER_PRINCIPAL_MAX < WAITING_FOR_EMERGENCY - 2 * WAITING_RESERVED
);

/// What a place is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It takes nothing away.
    Request,
    /// It waits for the log, which may hang.
    Revocation,
    /// It takes something away, and control answers it whatever the disk does.
    Command,
}

/// Who wants a place, and what for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    pub(crate) purpose: Purpose,
    /// The server's user or root, on the Unix socket.
    pub(crate) is_operator: bool,
}

impl Claim {
    /// For a request that leaves the operator's places free, also if the operator sends it.
    pub(crate) const REQUEST: Claim = Claim {
        purpose: Purpose::Request,
        is_operator: false,
    };

    /// Returns how many places this leaves free for others.
    fn leaves_free(self) -> usize {
        match (self.purpose, self.is_operator) {
            (Purpose::Request, true) => 0,
            (Purpose::Request, false) => WAITING_RESERVED,
            (Purpose::Revocation, false) => 2 * WAITING_RESERVED,
            (Purpose::Command, false) => WAITING_RESERVED,
            (Purpose::Revocation, true) => WAITING_RESERVED / 2,
            (Purpose::Command, true) => 0,
        }
    }
}

/// The places of a shard.
#[derive(Default)]
pub(crate) struct Places {
    requests: Rc<Cell<usize>>,
    emergencies: Rc<Cell<usize>>,
}

impl Places {
    /// Takes a place, unless the rest is kept for others.
    pub(crate) fn take(&self, claim: Claim) -> Option<WaitingPlace> {
        let (taken, places_max) = match claim.purpose {
            Purpose::Request => (&self.requests, WAITING_MAX),
            Purpose::Revocation | Purpose::Command => (&self.emergencies, WAITING_FOR_EMERGENCY),
        };
        if taken.get() + claim.leaves_free() >= places_max {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(WaitingPlace {
            taken: Rc::clone(taken),
            share: None,
        })
    }
}

/// A place, free again when dropped.
pub(crate) struct WaitingPlace {
    taken: Rc<Cell<usize>>,
    /// Of what its principal may have.
    share: Option<Place>,
}

impl WaitingPlace {
    /// Keeps a part of a principal's share for as long.
    pub(crate) fn with_share(mut self, share: Option<Place>) -> Self {
        self.share = share;
        self
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.taken.set(self.taken.get().saturating_sub(1));
        self.share = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_claim_finds_places_that_the_ones_before_it_cannot_take() {
        let places = Places::default();
        let mut taken = Vec::new();
        let mut fill = |purpose, is_operator| {
            let before = taken.len();
            let claim = Claim {
                purpose,
                is_operator,
            };
            taken.extend(std::iter::from_fn(|| places.take(claim)));
            taken.len() - before
        };
        let all = WAITING_FOR_EMERGENCY;
        assert_eq!(fill(Purpose::Revocation, false), all - 2 * WAITING_RESERVED);
        assert_eq!(fill(Purpose::Command, false), WAITING_RESERVED);
        assert_eq!(fill(Purpose::Revocation, true), WAITING_RESERVED / 2);
        assert_eq!(fill(Purpose::Command, true), WAITING_RESERVED / 2);
        // Requests have places of their own.
        assert_eq!(
            fill(Purpose::Request, false),
            WAITING_MAX - WAITING_RESERVED
        );
        assert_eq!(fill(Purpose::Request, true), WAITING_RESERVED);
        taken.clear();
        assert_eq!((places.requests.get(), places.emergencies.get()), (0, 0));
    }
}
