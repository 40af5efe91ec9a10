//! The states of a keyspace, and every way from one to another.
//!
//! ```text
//! CREATE ▶ Making ──written──▶ Open ◀───every shard acts── Opening
//!            │ undone           │ LOCK                       ▲ │ LOCK
//!            ▼                  ▼                    UNLOCK, │ ▼
//!          (gone)            Locking ──wiped everywhere──▶ Locked
//! ```
//!
//! A lock is in force before it is written, and an unlock only when it is: the ways that loosen begin with a write. What
//! became of the DEKs is kept beside this and goes on through a lock. What began before a lock is void: its epoch is older.

use crate::ids::Epoch;

/// How a keyspace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is being written for the first time, and is at no shard.
    Making,
    /// It may be used.
    Open,
    /// It is locked, and shards are wiping what they hold.
    Locking {
        /// Of the lock that they carry out.
        since: Epoch,
    },
    /// It is locked, and nothing of it is left.
    Locked,
    /// An unlock is written, and shards are being told.
    Opening,
}

/// What happens to a keyspace's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happens {
    /// It is written for the first time: open, or locked meanwhile.
    Written {
        /// The epoch, if it is locked.
        locked: Option<Epoch>,
    },
    /// It is locked.
    Locks(Epoch),
    /// Nothing is left of it at any shard, under the lock of this epoch.
    Wiped(Epoch),
    /// Its unlock is written.
    Opens,
    /// Every shard acts by that.
    Opened,
}

impl State {
    /// The state after something has happened. What comes too late, or cannot happen here, changes nothing.
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
            // It is told to shards with the rest when it is written.
            (State::Making, Locks(_) | Wiped(_) | Opens | Opened) => State::Making,
            (State::Open, Written { .. } | Wiped(_) | Opened) => State::Open,
            // A lock that comes while one is carried out joins it; an unlock waits until nothing is left.
            (State::Locking { since }, _) => State::Locking { since },
            (State::Locked, Written { .. } | Locks(_) | Wiped(_) | Opened) => State::Locked,
            (State::Opening, Written { .. } | Wiped(_) | Opens) => State::Opening,
        }
    }

    /// In one word.
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
    fn what_happens_leads_where_it_should() {
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
    fn only_a_write_leads_out_of_a_lock() {
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
