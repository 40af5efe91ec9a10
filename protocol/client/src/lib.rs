//! The Keyway client: blocking and for tokio, on one core.
//!
//! ```text
//!  blocking::Client      tokio::Client       typed calls, deadlines, retries
//!        │                     │
//!        ├──── Call, Attempts ─┤             what to send; what to do with an outcome
//!        ├──── Hub ────────────┤             which connection; when to connect again
//!        ├──── Exchange ───────┤             request ids, who waits for which answer
//!        │                     │
//!  threads, std sockets   tasks, tokio sockets
//! ```
//!
//! `Call`, `Attempts`, `ConnectionTable` and `Exchange` do no I/O and read no clock, so both flavours behave
//! alike and can be tested without sockets.
//!
//! - **Pipelining**: any number of calls (up to [`IN_FLIGHT_MAX`] per connection) share a
//!   connection and are answered in any order.
//! - **Shard-aware**: HELLO hands over the shard map. A call goes to the port of the shard that
//!   owns its key; when that connection fails, to any that works, where it is forwarded.
//! - **Deadlines**: every call has one. It travels with the request and is kept here as well.
//! - **Retries** within the deadline: RETRY, OVERLOADED and UNAVAILABLE after the server's hint
//!   with jitter; requests that got no answer because a connection broke, if they change nothing.
//!   A write that got no answer is not sent again: its error says that the outcome is unknown.
//! - **Reconnecting** with full jitter, when a call needs the connection.
//!
//! ```no_run
//! # #[cfg(feature = "blocking")]
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use keyway_client::{Call, Input, KeyPath, Scheme, blocking::Client};
//!
//! let client = Client::connect("127.0.0.1:7420")?;
//! let key: KeyPath = "prod/alice".parse()?;
//! let answer = client.sign(&key, Scheme::Default, Input::Message(b"one"))?;
//! println!("{} bytes by version {}", answer.value.len(), answer.key_version);
//!
//! // Many in flight at the same time, from one thread.
//! let messages: [&[u8]; 3] = [b"two", b"three", b"four"];
//! let pending = messages.map(|message| {
//!     client.submit(Call::sign(&key, Scheme::Default, Input::Message(message)))
//! });
//! for pending in pending {
//!     println!("{:02x?}", pending.wait()?.value);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

#[cfg(not(any(feature = "blocking", feature = "tokio")))]
compile_error!("choose a flavour: feature `blocking` or `tokio`");

mod address;
mod answer;
mod attempts;
mod buffer;
mod call;
mod connection_table;
mod error;
mod exchange;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod jitter;
mod listing;
mod methods;
mod options;
mod secret;
mod status_page;

#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "tokio")]
pub mod tokio;

pub use keyway_protocol::{
    Algorithm, HotBy, KeyFormat, KeyId, KeyPath, KeyState, KeyVersions, KeyspaceName, KmsName,
    ProtocolError, Scheme, Status, Usage,
};

pub use address::Address;
pub use answer::Answer;
pub use call::{Call, Custody, Input, KeyOptions, UnlockWith};
pub use error::{Blame, CallEffect, Error, Refusal};
pub use exchange::IN_FLIGHT_MAX;
pub use listing::{
    HotFigure, HotKey, HotKeys, HotTotals, KeyPage, KeyspaceChange, KeyspaceHistory, KeyspaceInfo,
    KeyspacePage, KmsOpening, KmsState, ListedKey, Override, Reseal, SharesGiven, UnlockState,
    UnlockStatus,
};
pub use options::Options;
pub use secret::Secret;
pub use status_page::StatusPage;
