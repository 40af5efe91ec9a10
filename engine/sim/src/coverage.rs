//! Which inputs occurred in which states of a key.

mod impossible;

pub use impossible::IMPOSSIBLE;

use crate::oracle::ExpectedGate;
use keyway_core::{LeaseEvent, Lifecycle, LoadError, View};

macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $all:ident: $($variant:ident),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "the names say it")]
        pub enum $name { $($variant),+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}

named! {
    /// A state of a key: its life-cycle state, and what prevents its use.
    KeyState, STATES:
    Absent, Loading, AwaitingDek, Fresh, FreshRefreshing, FreshBackOff, Stale, StaleRefreshing,
    StaleBackOff, BackOff, Negative, NegativeRefreshing, Invalid, InvalidRefreshing, Revoked,
    NoLease, Locked, Denied,
}

named! {
    /// An input that affects a key.
    Input, INPUTS:
    Request, RequestInAHurry, RequestOverdue, Force, DekWanted, WaiterGone, Stored, Revoked, Hot, Loaded,
    LoadedOlder, NotFound, Corrupt, StoreRevoked, DekMissing, StoreFailed, TimedOut, Panicked,
    LateResult, Granted, Refused, KmsLocked, Unavailable, Failed, Lock, Unlock, Settings, Tick,
}

const PAIRS: usize = KeyState::ALL.len() * Input::ALL.len();

/// How often each input occurred in each state.
#[derive(Clone, Debug)]
pub struct Coverage {
    counts: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self {
            counts: vec![0; PAIRS],
        }
    }
}

impl Coverage {
    pub(crate) fn reached(&mut self, state: KeyState, input: Input) {
        self.counts[state as usize * Input::ALL.len() + input as usize] += 1;
    }

    /// Returns how often the input occurred in the state.
    #[must_use]
    pub fn count(&self, state: KeyState, input: Input) -> u64 {
        self.counts[state as usize * Input::ALL.len() + input as usize]
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.counts.iter_mut().zip(&other.counts) {
            *sum += more;
        }
    }

    /// Returns the number of pairs that were reached.
    #[must_use]
    pub fn reached_pairs(&self) -> usize {
        self.counts.iter().filter(|count| **count > 0).count()
    }

    /// Returns the number of all pairs.
    #[must_use]
    pub const fn pairs() -> usize {
        PAIRS
    }

    /// Returns the pairs that were not reached, and are not listed as impossible.
    #[must_use]
    pub fn missing(&self) -> Vec<(KeyState, Input)> {
        self.pairs_where(|state, input, count| count == 0 && impossible(state, input).is_none())
    }

    /// Returns the pairs that were reached although they are listed as impossible.
    #[must_use]
    pub fn contradicted(&self) -> Vec<(KeyState, Input)> {
        self.pairs_where(|state, input, count| count > 0 && impossible(state, input).is_some())
    }

    fn pairs_where(&self, wanted: impl Fn(KeyState, Input, u64) -> bool) -> Vec<(KeyState, Input)> {
        let mut pairs = Vec::new();
        for state in KeyState::ALL {
            for input in Input::ALL {
                if wanted(*state, *input, self.count(*state, *input)) {
                    pairs.push((*state, *input));
                }
            }
        }
        pairs
    }
}

/// Returns why an input cannot occur in a state.
#[must_use]
pub fn impossible(state: KeyState, input: Input) -> Option<&'static str> {
    IMPOSSIBLE
        .iter()
        .find(|(states, inputs, _)| states.contains(&state) && inputs.contains(&input))
        .map(|(_, _, why)| *why)
}

impl KeyState {
    pub(crate) fn of(view: &View, gate: ExpectedGate, leased: bool) -> Self {
        match gate {
            _ if view.lifecycle == Lifecycle::Revoked => return Self::Revoked,
            ExpectedGate::Locked => return Self::Locked,
            ExpectedGate::Denied => return Self::Denied,
            ExpectedGate::Open => {}
        }
        match (view.lifecycle, view.refreshing, view.backing_off) {
            (Lifecycle::Absent | Lifecycle::BackOff, ..) if !leased => Self::NoLease,
            (Lifecycle::Absent, ..) => Self::Absent,
            (Lifecycle::Loading, ..) => Self::Loading,
            (Lifecycle::AwaitingDek, ..) => Self::AwaitingDek,
            (Lifecycle::Fresh, true, _) => Self::FreshRefreshing,
            (Lifecycle::Fresh, false, true) => Self::FreshBackOff,
            (Lifecycle::Fresh, false, false) => Self::Fresh,
            (Lifecycle::Stale, true, _) => Self::StaleRefreshing,
            (Lifecycle::Stale, false, true) => Self::StaleBackOff,
            (Lifecycle::Stale, false, false) => Self::Stale,
            (Lifecycle::BackOff, ..) => Self::BackOff,
            (Lifecycle::Negative, true, _) => Self::NegativeRefreshing,
            (Lifecycle::Negative, false, _) => Self::Negative,
            (Lifecycle::Invalid, true, _) => Self::InvalidRefreshing,
            (Lifecycle::Invalid, false, _) => Self::Invalid,
            (Lifecycle::Revoked, ..) => Self::Revoked,
        }
    }
}

impl Input {
    pub(crate) fn of(error: LoadError) -> Self {
        match error {
            LoadError::NotFound => Self::NotFound,
            LoadError::Corrupt => Self::Corrupt,
            LoadError::Revoked => Self::StoreRevoked,
            LoadError::DekMissing => Self::DekMissing,
            LoadError::Store => Self::StoreFailed,
            LoadError::TimedOut => Self::TimedOut,
            LoadError::Panicked => Self::Panicked,
        }
    }

    pub(crate) fn of_lease(event: LeaseEvent) -> Self {
        match event {
            LeaseEvent::Granted { .. } => Self::Granted,
            LeaseEvent::Denied | LeaseEvent::Disabled => Self::Refused,
            LeaseEvent::Locked => Self::KmsLocked,
            LeaseEvent::Unavailable { .. } => Self::Unavailable,
            LeaseEvent::Failed => Self::Failed,
        }
    }
}
