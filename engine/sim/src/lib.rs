//! Keyway's shards in virtual time.
//!
//! ```text
//!  seed ──▶ plan: shape of a node, list of steps
//!             │
//!             ▼
//!  clients ─▶ mesh ─▶ Shard 0 (the real keyway-core) ─▶ store: slow, failing, torn, stale
//!             mesh ─▶ Shard 1 …                      ─▶ control thread ─▶ KMS: slow, lost, denying
//!             │
//!             ▼  every input, every action
//!           oracle: the 21 invariants of the design, after every step, from books of its own
//! ```
//!
//! One seed gives one history, byte for byte. The shards are the code that serves; everything
//! around them is modelled here: mesh, store, KMS, control thread, clients, clock. What that leaves
//! to other tests is listed in `docs/VERIFICATION.md`.
//!
//! [`run_seed`] runs one history and tells what it broke, [`shrink`](shrink::shrink) makes a
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
pub use run::{Outcome, hash_of, run_seed, trace_of};
pub use shrink::{Shrunk, shrink};
