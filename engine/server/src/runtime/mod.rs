//! The one place that knows glommio: executors, tasks, timers, sockets, files and the mesh, each
//! behind a narrow face.
//!
//! Rules that hold for everything in here, each paid for by a measurement (docs/ARCHITECTURE.md):
//! an unfinished task is never cancelled or dropped; there is no timer per request; a panic in a
//! handler is caught; after about 200 µs of work a task sleeps 1 µs so that I/O is polled.

pub mod executor;
pub mod files;
pub mod listener;
pub mod mesh;
pub mod socket;
pub mod tasks;
pub mod uring;
