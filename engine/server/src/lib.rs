//! keywayd: Keyway's server.
//!
//! ```text
//!  clients ── TCP / Unix ──▶ shard 0 · core 0 ─┐   runtime/    glommio: executors, sockets, files, mesh
//!                            shard 1 · core 1  │   connection  moves bytes
//!                            …                 │   shard/      drives keyway_node's shard: log, keys, sockets
//!                  forwards ◀── mesh ──▶       ┘
//!         unwrap DEK │              │ snapshots
//!                    ▼              ▼
//!        control thread (KMS,    exporter thread
//!        keyspaces.json)         (metrics/)
//! ```
//!
//! What is decided about a request or a keyspace is decided in `keyway_node`.

pub mod clock;
pub mod config;
pub mod connection;
pub mod control;
mod data;
pub mod exit;
pub mod lifeline;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod node;
pub mod os_error;
pub mod peer;
mod plant;
pub mod runtime;
pub mod shard;
pub mod signals;
pub mod startup;
mod threads;
pub mod unix_path;
