//! Keyway in virtual time: the shards' cores, the control state machine, the blob logs, and the whole node.
//!
//! ```text
//!  seed ──▶ plan: shape of a node, list of steps
//!             │
//!             ▼
//!  clients ─▶ mesh ─▶ Shard 0 (the real keyway-core) ─▶ store: slow, failing, torn, stale
//!             mesh ─▶ Shard 1 …                      ─▶ control thread ─▶ KMS: slow, lost, denying
//!             │
//!             ▼  every input, every action
//!           oracle: the invariants, after every step, from books of its own
//! ```
//!
//! One seed gives one history, byte for byte. The picture is the oldest world's, in which the cores are the code that
//! serves and everything around them is modelled. [`control`] runs the state machine that serves over modelled shards,
//! [`disk`] the blob logs that serve over a virtual disk, and [`node`] shards, connections, control and logs together,
//! with clients that speak bytes. What that leaves to other tests is listed in `docs/VERIFICATION.md`.
//!
//! `run_seed` of each world runs one history and returns what it broke; [`shrink`](shrink::shrink) and `trace_of` make a
//! failing one short enough to read.

#![forbid(unsafe_code)]

pub mod control;
mod coverage;
mod dice;
pub mod disk;
mod history;
mod kms;
pub mod node;
mod oracle;
mod plan;
mod run;
mod schedule;
mod shrink;
mod store;
mod trace;
mod world;

pub use coverage::{Coverage, IMPOSSIBLE, Input, KeyState, impossible};
pub use oracle::{INVARIANTS, Violation};
pub use run::{RunResult, hash_of, run_seed, trace_of};
pub use shrink::{Shrunk, shrink};
