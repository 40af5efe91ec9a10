//! The load generator: one thread, non-blocking sockets, epoll.
//!
//! ```text
//!  Arrivals ──due──▶ Run ──frames──▶ Connection ×N ──▶ server
//!                     │                  │
//!                  Pending slot ◀──────answers──▶ Recorder (HDR histograms, seconds)
//! ```
//!
//! Open loop: requests are due at times that do not depend on the answers, and latency counts from
//! the due time. So a server that stalls for a second is charged with the wait of every request
//! that was due in that second, whether or not the generator got round to sending it.

mod arrivals;
mod connection;
mod frame;
mod pending;
mod recorder;
mod run;

pub use arrivals::Pace;
pub use frame::encode;
pub use recorder::{Recording, Second, Seconds};
pub use run::{Answered, Load, PATIENCE, run};
