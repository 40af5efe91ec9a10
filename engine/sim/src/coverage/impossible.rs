//! Pairs of state and input that cannot meet, with the reason. A run that reaches one of them, or
//! misses one that is not here, fails.

use super::{Input, KeyState};

/// What a load that counts may bring. A result that comes to a key without such a load is a
/// [`Input::LateResult`], and that one meets every state.
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

/// States, inputs, why none of the inputs meets any of the states.
pub const IMPOSSIBLE: &[(&[KeyState], &[Input], &str)] = &[
    (
        AT_REST,
        RESULTS,
        "there is no flight, and so no result of one: what comes all the same is a late result",
    ),
    (
        AT_REST,
        &[Input::WaiterGone],
        "who waits, waits for a flight, and there is none",
    ),
    (
        &[KeyState::AwaitingDek],
        RESULTS,
        "the flight has no load on its way yet, or its load has just ended",
    ),
    (
        &[
            KeyState::FreshRefreshing,
            KeyState::StaleRefreshing,
            KeyState::InvalidRefreshing,
            KeyState::NegativeRefreshing,
        ],
        &[Input::StoreRevoked],
        "a revocation is told to the shard before the store has it, and that ends the flight",
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
