//! The oracle: it observes the inputs and outputs of a shard, keeps its own model, and never queries the shard for what
//! to expect.

mod keys;
mod serving;
mod tally;
mod terms;

pub(crate) use keys::{Alive, Ledger, SimKey};
pub(crate) use serving::Seen;
pub(crate) use tally::Tally;
pub(crate) use terms::{ExpectedGate, Terms};

use crate::plan::Name;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number in the design; 0 for the core's own audit and assertions, 22 for an answer that differs from the
    /// design's table.
    pub invariant: u8,
    /// What happened.
    pub what: String,
}

/// The invariants, by number.
pub const INVARIANTS: [&str; 44] = [
    "the core's own books agree, and its assertions hold",
    "nothing is used at or after effective_hard",
    "effective_hard and the lease move later by a load or a KMS success only",
    "plaintext is gone soon after its time",
    "one flight per key and shard, one unwrap per keyspace and process",
    "flights end within their time limit, once, by their own generation",
    "no request waits past budget or deadline",
    "a waiter that leaves changes no flight",
    "the end of a load, and a DEK that comes, reach every waiter",
    "older generations never commit, versions never go down",
    "after ForceRefresh nothing older is served",
    "after a revocation nothing is served",
    "prefetching keeps to max_in_flight and leaves the reserve",
    "what does not open is INVALID, is not served and calls no KMS",
    "NEGATIVE never hides an acknowledged put",
    "authorisation comes before state",
    "acknowledged writes are durable",
    "memory, queues and waiters stay within their limits",
    "one answer per request, on its own connection",
    "work past its deadline is not started",
    "requests are the sum of their outcomes, gauges return to zero",
    "when faults stop, every good key gets FRESH",
    "answers are those of the design's table",
    "nothing is used past its end however long those before it take",
    "a tick takes a bounded time",
    "after a lock or a withdrawal was answered, nothing that it took away is used",
    "what tightens is in force soon, whatever the disk and the KMS do, and once OK also after a crash",
    "emergency commands are answered in time under any load",
    "every blob's DEK is in the durable catalogue",
    "after a rotation's OK nothing is sealed under an older DEK",
    "tickets tell the truth, are unique, and end",
    "one answer per request",
    "commands keep their deadlines",
    "every answer fits a frame",
    "at rest all shards act by the newest revision, with exactly what was set",
    "nothing looser than the durable catalogue is ever in force",
    "queues and writes stay within their limits",
    "an operation that begins after a write was acknowledged sees it",
    "what was refused has changed nothing",
    "a listing holds every key that was there throughout",
    "work for leases is never delayed by a save",
    "a move keeps every DEK, wrapped by the KMS that the keyspace names",
    "a trimmed version is gone with the answer, and no other",
    "STATUS shows what is so",
];

pub(crate) type Checked<T = ()> = Result<T, Violation>;

/// Fails with a violation of the invariant unless the condition holds.
macro_rules! ensure {
    ($invariant:literal, $holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err($crate::oracle::Violation { invariant: $invariant, what: format!($($what)*) });
        }
    };
}
pub(crate) use ensure;

/// The promises made for one key, by any process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Promised {
    /// Highest version that was served.
    pub(crate) served_version: u32,
    /// Highest version whose put was acknowledged; 0 if none was, or the blob was lost since.
    pub(crate) put_version: u32,
    /// Highest version that the shard was notified of, whatever happened to it since.
    pub(crate) told_version: u32,
    /// The step of that acknowledgement: loads that began before are discarded.
    pub(crate) put_step: u64,
    pub(crate) revoked: bool,
    /// No load that began before this step may be served, except the one that the call itself started.
    pub(crate) refreshed_step: u64,
}

/// The oracle's model.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) ledger: Rc<Ledger>,
    pub(crate) promised: BTreeMap<Name, Promised>,
    /// By shard and keyspace, of the running process.
    pub(crate) terms: BTreeMap<(u16, u8), Terms>,
}

impl Oracle {
    pub(crate) fn promised(&mut self, name: Name) -> &mut Promised {
        self.promised.entry(name).or_default()
    }

    pub(crate) fn terms(&mut self, shard: u16, keyspace: u8) -> &mut Terms {
        self.terms
            .get_mut(&(shard, keyspace))
            .expect("every shard has every keyspace")
    }
}
