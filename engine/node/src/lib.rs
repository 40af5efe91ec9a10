//! Everything that decides in a Keyway node: shards, connections, control and the catalogue of keyspaces, as
//! deterministic state machines.
//!
//! ```text
//!      engine/server: does                          engine/node: decides
//!   sockets, files, clocks ── handle_* ──▶ shard/      one per core: requests, keys, leases
//!                          ◀─ poll_effect ─   ▲ │
//!                                     ToShard │ │ ToControl, each on an emergency and an ordinary lane
//!                                             │ ▼
//!   KMS services, keyspaces.json ──────────▶ control/  one: commands, locks, unlocks, rotation, leases
//!                          ◀─ poll_effect ─   │
//!                                             ▼
//!                                          catalogue/  keyspaces at rest
//! ```
//!
//! The crate does no I/O, starts nothing, and has neither a clock nor randomness of its own: what it needs of either is
//! an argument. The same inputs in the same order give the same outputs, so that the simulator runs what ships.
//! `scripts/check-imports` and this crate's `clippy.toml` keep it so.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod connection;
pub mod control;
pub mod figures;
pub mod hot;
pub mod ids;
pub mod keyspace_change;
pub mod limits;
pub mod messages;
pub mod policy;
pub mod shard;
pub mod time;

pub use shard::port;

#[cfg(test)]
mod splitmix;
mod time_limits;
