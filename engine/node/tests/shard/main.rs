//! Tests of a complete shard, from bytes to bytes, without sockets, keys or a clock.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod bounded;
#[path = "../../../../testkit/counting_allocator.rs"]
mod counting_allocator;
mod deadlines;
mod hits;
mod panics;
mod rig;
mod rights;
mod stopping;
mod turns;
mod unsent;
mod writes;
