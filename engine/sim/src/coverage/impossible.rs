//! Pairs of state and input that cannot occur, with the reason. A run that reaches one of them, or misses one that is not
//! listed, fails.

use super::{Input, KeyState};

/// The results of a load that counts. A result for a key without such a load is a [`Input::LateResult`], which occurs in
/// every state.
const RESULTS: &[Input] = &[
    Input::Loaded,
    Input::LoadedOlder,
    Input::NotFound,
    Input::Corrupt,
    Input::StoreRevoked,
    Input::DekMissing,
    Input::StoreFailed,
    Input::TimedOut,
    Input::Panicked,
];

/// States without a flight.
const AT_REST: &[KeyState] = &[
    KeyState::Absent,
    KeyState::Fresh,
    KeyState::FreshBackOff,
    KeyState::Stale,
    KeyState::StaleBackOff,
    KeyState::BackOff,
    KeyState::Negative,
    KeyState::Invalid,
    KeyState::Revoked,
    KeyState::NoLease,
    KeyState::Locked,
    KeyState::Denied,
];

/// States, inputs, and why none of the inputs can occur in any of the states.
pub const IMPOSSIBLE: &[(&[KeyState], &[Input], &str)] = &[
    (
        AT_REST,
        RESULTS,
        "there is no flight, and so no result of one: what arrives anyway is a late result",
    ),
    (
        AT_REST,
        &[Input::WaiterGone],
        "who waits, waits for a flight, and there is none",
    ),
    (
        &[KeyState::AwaitingDek],
        RESULTS,
        "the flight has no load in flight yet, or its load has just ended",
    ),
    (
        &[
            KeyState::FreshRefreshing,
            KeyState::StaleRefreshing,
            KeyState::InvalidRefreshing,
            KeyState::NegativeRefreshing,
        ],
        &[Input::StoreRevoked],
        "the shard is notified of a revocation before the store has it, and that ends the flight",
    ),
    (
        &[KeyState::InvalidRefreshing],
        &[Input::LoadedOlder],
        "a put ends INVALID, so no put was acknowledged that the load could be older than",
    ),
    (
        &[KeyState::NegativeRefreshing],
        &[
            Input::Loaded,
            Input::LoadedOlder,
            Input::Corrupt,
            Input::DekMissing,
        ],
        "the store has a blob only after a put, and that ends NEGATIVE first",
    ),
];
