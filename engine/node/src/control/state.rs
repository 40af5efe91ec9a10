//! The states of a keyspace and their transitions.
//!
//! ```text
//! CREATE ▶ Making ──written──▶ Open ◀───every shard acts── Opening
//!            │ undone           │ LOCK                       ▲ │ LOCK
//!            ▼                  ▼                    UNLOCK, │ ▼
//!          (gone)            Locking ──wiped everywhere──▶ Locked
//! ```
//!
//! A lock is in force before it is written, and an unlock only after: transitions that loosen begin with a write. Works
//! on the DEKs are tracked separately and continue through a lock, but what began before a lock has an older epoch and is
//! discarded.

use crate::ids::Epoch;

/// The state of a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being written for the first time, and no shard has it.
    Making,
    /// It can be used.
    Open,
    /// It is locked, and shards are wiping their keys.
    Locking {
        /// The epoch of the lock.
        since: Epoch,
    },
    /// It is locked, and every shard has wiped it.
    Locked,
    /// An unlock is written, and is being published to the shards.
    Opening,
}

/// An event in the life of a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// It is written for the first time: open, or locked in the meantime.
    Written {
        /// The epoch, if it is locked.
        locked: Option<Epoch>,
    },
    /// It is locked.
    Locks(Epoch),
    /// Every shard has wiped it, under the lock of this epoch.
    Wiped(Epoch),
    /// Its unlock is written.
    Opens,
    /// Every shard applies the unlock.
    Opened,
}

impl State {
    /// Returns the state after an event. An event that is late, or cannot occur in this state, has no effect.
    #[must_use]
    pub fn after(self, happens: Happens) -> State {
        use Happens::{Locks, Opened, Opens, Wiped, Written};
        match (self, happens) {
            (State::Making, Written { locked: None }) => State::Open,
            (
                State::Making,
                Written {
                    locked: Some(since),
                },
            ) => State::Locking { since },
            (State::Open | State::Opening, Locks(since)) => State::Locking { since },
            (State::Locking { since }, Wiped(wiped)) if wiped >= since => State::Locked,
            (State::Locked | State::Open, Opens) => State::Opening,
            (State::Opening, Opened) => State::Open,
            // It is published to shards with the rest when it is written.
            (State::Making, Locks(_) | Wiped(_) | Opens | Opened) => State::Making,
            (State::Open, Written { .. } | Wiped(_) | Opened) => State::Open,
            // A lock that arrives while another is executed joins it; an unlock waits until everything is wiped.
            (State::Locking { since }, _) => State::Locking { since },
            (State::Locked, Written { .. } | Locks(_) | Wiped(_) | Opened) => State::Locked,
            (State::Opening, Written { .. } | Wiped(_) | Opens) => State::Opening,
        }
    }

    /// Returns the state as one word.
    pub const fn name(self) -> &'static str {
        match self {
            State::Making => "making",
            State::Open => "open",
            State::Locking { .. } => "locking",
            State::Locked => "locked",
            State::Opening => "opening",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Epoch = Epoch(1);
    const NEW: Epoch = Epoch(2);

    /// Every state × every event.
    #[test]
    fn every_event_in_every_state_has_the_expected_result() {
        let states = [
            State::Making,
            State::Open,
            State::Locking { since: NEW },
            State::Locked,
            State::Opening,
        ];
        let events = [
            Happens::Written { locked: None },
            Happens::Written { locked: Some(NEW) },
            Happens::Locks(NEW),
            Happens::Wiped(OLD),
            Happens::Wiped(NEW),
            Happens::Opens,
            Happens::Opened,
        ];
        let expected = [
            // written, written locked, locks, wiped before, wiped, opens, opened
            "open locking making making making making making",
            "open open locking open open opening open",
            "locking locking locking locking locked locking locking",
            "locked locked locked locked locked opening locked",
            "opening opening locking opening opening opening open",
        ];
        for (state, expected) in states.into_iter().zip(expected) {
            let after: Vec<&str> = events.map(|event| state.after(event).name()).to_vec();
            assert_eq!(after.join(" "), expected, "from {}", state.name());
        }
    }

    #[test]
    fn only_a_write_ends_a_lock() {
        for locked in [State::Locking { since: NEW }, State::Locked] {
            for event in [
                Happens::Written { locked: None },
                Happens::Locks(NEW),
                Happens::Wiped(NEW),
                Happens::Opened,
            ] {
                let after = locked.after(event);
                assert!(matches!(after, State::Locking { .. } | State::Locked));
            }
        }
    }
}
