//! One Keyway shard as a pure state machine: no I/O, no clock, no key bytes.
//!
//! ```text
//!            inputs: handle_*(now, ..)                          outputs
//!
//!   requests ───── handle_request ──────┐             ┌──▶ Verdict: Serve(Grant) | Wait | Refuse
//!   writes ─────── handle_wanted ───────┤             ├──▶ poll_action():
//!   operators ──── handle_force_refresh ┤             │
//!                  handle_lock/unlock   │   ┌───────┐ │      Load ──▶ store ──▶ handle_loaded
//!   store ──────── begin_load           ├──▶│ Shard │─┤      Unwrap ─▶ KMS ───▶ handle_lease
//!                  handle_loaded        │   └───────┘ │      DropDek
//!                  handle_stored        │             │      Report
//!                  handle_revoked       │             ├──▶ poll_ready(now), for those who waited:
//!   last run ───── handle_warm_key ─────┤             │      Serve(Grant) | Refreshed | Dek | Refuse
//!   KMS ────────── handle_lease         │             │
//!   clock ──────── handle_tick ─────────┘             └──▶ collect_hottest() ──▶ next run
//! ```
//!
//! # Order of calls
//!
//! 1. Create the shard with its limits and a seed, and its keyspaces with [`handle_keyspace`](Shard::handle_keyspace).
//! 2. Read the clock for each input, and for each call of [`poll_ready`](Shard::poll_ready). `now` never decreases from
//!    one call to the next.
//! 3. After each input, or at the end of each turn, drain [`poll_action`](Shard::poll_action) and execute the actions in
//!    order.
//! 4. Each [`Action::Load`] is followed by one [`begin_load`](Shard::begin_load) immediately before the read and, if that
//!    returns `true`, by one [`handle_loaded`](Shard::handle_loaded); each [`Action::Unwrap`] by one
//!    [`handle_lease`](Shard::handle_lease). This includes failures: a panic of the loader is a result. Late results are
//!    recognised and ignored.
//! 5. A request that waits is returned exactly once by [`poll_ready`](Shard::poll_ready), unless
//!    [`handle_waiter_gone`](Shard::handle_waiter_gone) withdraws it first. Poll it after each input until the turn ends,
//!    and continue in the next turn: waiters stay queued, and other inputs may come between.
//! 6. Call [`handle_tick`](Shard::handle_tick) every millisecond or two.
//! 7. Call [`handle_stored`](Shard::handle_stored) and [`handle_revoked`](Shard::handle_revoked) when the write is
//!    durable and before it is acknowledged.
//!
//! # Promises
//!
//! * A key is only released as a [`Grant`], and only the expiry check creates one. A `Grant` borrows the shard, so it
//!   cannot outlive the turn.
//! * `effective_hard = min(loaded_at + hard_ttl, DEK lease end, not_after)`; `loaded_at` is when the load began. Only a
//!   load or a KMS success moves it later.
//! * After [`handle_stored`](Shard::handle_stored) nothing older than what was stored is served.
//! * One flight per key, one unwrap per keyspace; each flight ends within its time limit.
//! * The same seed and the same inputs give the same outputs: no code iterates over a hash map.
//! * Every list, map and queue is bounded by a field of [`Limits`]; the queue of actions by what one input can cause,
//!   provided that it is drained.
//!
//! # Design choices
//!
//! * **Renewals** start at half of the lease, less a fraction that a process draws once ([`Limits::renew_early_ppm`]), so
//!   that a fleet that started together drifts apart. It is the same for all shards: one answer of the KMS serves all of
//!   them, so they also renew together.
//! * **Idle keyspaces.** A lease is renewed only if a key was requested since the last grant. Otherwise renewal is
//!   checked again every sixteenth of the lease, and more often near its end; the lease then ends, the plaintext is
//!   dropped, and the next request starts an unwrap.
//! * **Jitter** only shortens the soft TTL, by a fraction drawn at each load.
//! * **Prefetch** starts in passes, every [`SCAN_PERIOD_US`]. A timer puts a key into one of two queues of its keyspace,
//!   so counting what a pass leaves is reading the queues' lengths.
//! * **Warm start.** A key that was hot in a previous run is queued only under a live lease, and only if the next pass
//!   would reach it, so the queue is no longer than the share of `max_in_flight`; the caller keeps the rest. Its load has
//!   no privilege: see [`handle_warm_key`](Shard::handle_warm_key). Heat is a count of hits, halved at each load: one addition on
//!   the fast path, and no other bookkeeping ([`Hottest`]).
//! * **A put** ends the live key immediately: an answer with the older version after the put was acknowledged would be
//!   wrong, so requests wait for the load of the newer one, whatever the policy.
//! * **A key past its own `not_after`** is INVALID until the blob changes.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod action;
mod backoff;
mod counters;
mod entry;
mod event;
mod ewma;
mod flight;
mod grant;
mod hottest;
mod keyspace;
mod limits;
mod list;
mod prefetch;
mod rng;
mod settings;
mod shard;
pub mod slots;
mod time;
pub mod wheel;

pub use action::{
    Action, Admission, DekRequest, DekVerdict, FlightId, KeyId, KeyspaceId, LeaseEvent, LoadError,
    Loaded, Outcome, Refusal, Request, Token, Urgency, Verdict,
};
pub use counters::{Counters, Gauges, Refusals, Totals};
pub use event::{Event, InvalidCause};
pub use grant::Grant;
pub use hottest::Hottest;
pub use keyspace::{UnlockState, UnlockStatus};
pub use limits::{Limits, LimitsError, RENEW_EARLY_PPM_MAX, renewals_per_lease};
pub use prefetch::{SCAN_PERIOD_US, SCANNED_MAX};
pub use settings::{OnSoftExpiry, Setting, SettingName, Settings, SettingsError};
pub use shard::{
    HOTTEST_SCAN_STEP, KEYSPACES_MAX, Lifecycle, NEGATIVE_US, Shard, View, Violation, WarmAdmission,
};
pub use time::{Instant, TICK_US};
