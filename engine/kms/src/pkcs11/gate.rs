//! Whether the token may be used, readable from any thread: `lock()` closes it immediately even if the module hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Closed initially.
#[derive(Debug, Default)]
pub(super) struct VisitGate {
    /// Whether the worker can log in without an operator: there is a PIN file.
    opens_itself: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_open: bool,
    /// Closed by `lock()`: only an unlock opens it.
    is_locked: bool,
    /// Calls of `lock()` so far: an operation that began before the latest one has no effect after it.
    lock_count: u64,
    is_file_pin_refused: bool,
}

/// The time of a call, counted in locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visit(u64);

impl VisitGate {
    pub(super) fn new(opens_itself: bool) -> Self {
        Self {
            opens_itself,
            state: Mutex::default(),
        }
    }

    /// Returns the current time, open or not.
    pub(super) fn visit(&self) -> Visit {
        Visit(self.state().lock_count)
    }

    /// Returns the current time, if the token is open, or opens without an operator.
    pub(super) fn enter(&self) -> Option<Visit> {
        let state = self.state();
        let may_enter = state.is_open || (self.opens_itself && !state.is_locked);
        may_enter.then_some(Visit(state.lock_count))
    }

    /// Returns `true` if a login from the PIN file is allowed for a call from `visit`.
    pub(super) fn may_open_itself(&self, visit: Visit) -> bool {
        let state = self.state();
        self.opens_itself && !state.is_locked && state.lock_count == visit.0
    }

    pub(super) fn was_locked_since(&self, visit: Visit) -> bool {
        self.visit() != visit
    }

    /// Opens, unless it was locked after `visit`. Returns whether it is open now.
    pub(super) fn open(&self, visit: Visit) -> bool {
        let mut state = self.state();
        if state.lock_count == visit.0 {
            state.is_open = true;
            state.is_locked = false;
        }
        state.is_open
    }

    /// Closes because the login was lost without a lock.
    pub(super) fn shut(&self) {
        self.state().is_open = false;
    }

    pub(super) fn lock(&self) {
        let mut state = self.state();
        state.is_open = false;
        state.is_locked = true;
        state.lock_count += 1;
    }

    /// Returns `true` if the token refused the PIN in the file.
    pub(super) fn is_file_pin_refused(&self) -> bool {
        self.state().is_file_pin_refused
    }

    pub(super) fn note_file_pin(&self, is_refused: bool) {
        self.state().is_file_pin_refused = is_refused;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlock_from_before_a_lock_does_not_open() {
        let gate = VisitGate::default();
        assert!(gate.enter().is_none());
        let early = gate.visit();
        gate.lock();
        assert!(!gate.open(early));
        assert!(gate.was_locked_since(early));
        let late = gate.visit();
        assert!(gate.open(late));
        assert_eq!(gate.enter(), Some(late));
        gate.shut();
        assert!(gate.enter().is_none());
        assert!(!gate.was_locked_since(late));
    }

    #[test]
    fn a_gate_that_opens_itself_stays_shut_after_a_lock() {
        let gate = VisitGate::new(true);
        let early = gate.enter().unwrap();
        assert!(gate.may_open_itself(early));
        gate.lock();
        assert!(gate.enter().is_none());
        let late = gate.visit();
        assert!(!gate.may_open_itself(late));
        assert!(gate.open(late));
        // A login that is lost later is restored without an operator.
        gate.shut();
        assert_eq!(gate.enter(), Some(late));
        assert!(gate.may_open_itself(late) && !gate.may_open_itself(early));
    }
}
