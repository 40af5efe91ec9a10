//! Whether the token may be used, readable from any thread: `lock()` closes it immediately even if the module hangs.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Closed initially.
#[derive(Debug, Default)]
pub(super) struct LockGate {
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
pub(super) struct LockEpoch(u64);

impl LockGate {
    pub(super) fn new(opens_itself: bool) -> Self {
        Self {
            opens_itself,
            state: Mutex::default(),
        }
    }

    /// Returns the current time, open or not.
    pub(super) fn epoch(&self) -> LockEpoch {
        LockEpoch(self.state().lock_count)
    }

    /// Returns the current time, if the token is open, or opens without an operator.
    pub(super) fn enter(&self) -> Option<LockEpoch> {
        let state = self.state();
        let may_enter = state.is_open || (self.opens_itself && !state.is_locked);
        may_enter.then_some(LockEpoch(state.lock_count))
    }

    /// Returns `true` if a login from the PIN file is allowed for a call from `epoch`.
    pub(super) fn may_open_itself(&self, epoch: LockEpoch) -> bool {
        let state = self.state();
        self.opens_itself && !state.is_locked && state.lock_count == epoch.0
    }

    pub(super) fn was_locked_since(&self, epoch: LockEpoch) -> bool {
        self.epoch() != epoch
    }

    /// Opens, unless it was locked after `epoch`. Returns whether it is open now.
    pub(super) fn open(&self, epoch: LockEpoch) -> bool {
        let mut state = self.state();
        if state.lock_count == epoch.0 {
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
        let gate = LockGate::default();
        assert!(gate.enter().is_none());
        let early = gate.epoch();
        gate.lock();
        assert!(!gate.open(early));
        assert!(gate.was_locked_since(early));
        let late = gate.epoch();
        assert!(gate.open(late));
        assert_eq!(gate.enter(), Some(late));
        gate.shut();
        assert!(gate.enter().is_none());
        assert!(!gate.was_locked_since(late));
    }

    #[test]
    fn a_gate_that_opens_itself_stays_shut_after_a_lock() {
        let gate = LockGate::new(true);
        let early = gate.enter().unwrap();
        assert!(gate.may_open_itself(early));
        gate.lock();
        assert!(gate.enter().is_none());
        let late = gate.epoch();
        assert!(!gate.may_open_itself(late));
        assert!(gate.open(late));
        // A login that is lost later is restored without an operator.
        gate.shut();
        assert_eq!(gate.enter(), Some(late));
        assert!(gate.may_open_itself(late) && !gate.may_open_itself(early));
    }
}
