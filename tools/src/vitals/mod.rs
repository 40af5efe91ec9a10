//! The status document with types, and what changed between two of them. Members that the server
//! does not send, as one of another version may, are 0, empty or false.

mod change;

use serde::Deserialize;

use crate::text;

pub use change::Change;

/// One status document.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServerStatus {
    /// The server's version.
    pub version: String,
    /// Its process.
    pub pid: u64,
    /// When it answered, by its clock, in ms since 1970.
    pub unix_ms: u64,
    /// Upper bounds of the buckets of every [`Latency`], in ms.
    pub latency_bounds_ms: Vec<f64>,
    /// Its KMSes.
    pub kms: Vec<Kms>,
    /// Its keyspaces.
    pub keyspaces: Vec<Keyspace>,
    /// Its shards.
    pub shards: Vec<Shard>,
}

/// One KMS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Kms {
    /// Its name.
    pub name: String,
    /// Its provider.
    pub provider: String,
    /// `unlocked`, `locked` or `uninitialised`.
    pub state: String,
    /// What an unlock needs: `none`, `passphrase`, `shares`, `pin` or `init`.
    pub need: String,
    /// `closed`, `open` or `half-open`.
    pub breaker: String,
    /// Calls in progress.
    pub calls_in_flight: u64,
    /// Calls that its budget would let go at once.
    pub rate_tokens: f64,
    /// Calls that the next hour needs.
    pub calls_per_hour_forecast: f64,
    /// Calls so far.
    pub calls: Vec<KmsCalls>,
    /// What is wrong, while the last call of a keyspace has failed.
    pub trouble: Option<KmsTrouble>,
    /// The versions of its key, if it has any.
    pub key_versions: Option<KeyVersions>,
}

/// Versions of a KMS's key.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KeyVersions {
    /// The latest that was seen.
    pub newest: u32,
    /// Keyspaces that are wrapped under an older one.
    pub keyspaces_behind: u64,
}

/// Why a KMS does not unwrap.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KmsTrouble {
    /// The cause in a word.
    pub cause: String,
    /// What happened, in the provider's words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Keyspaces whose last call failed.
    pub keyspaces: u64,
    /// Whether it is over, since a quarter of an hour at most.
    pub over: bool,
}

/// Calls to a KMS that ended alike.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct KmsCalls {
    /// The keyspace; empty for none.
    pub keyspace: String,
    /// What was asked.
    pub operation: String,
    /// How it ended.
    pub outcome: String,
    /// How often.
    pub count: u64,
}

/// One keyspace, over all shards.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Keyspace {
    /// Its name.
    pub name: String,
    /// `idle`, `live`, `renewing`, `acquiring`, `denied` or `locked`.
    pub state: String,
    /// Seconds left of its lease; 0 without one.
    pub dek_lease_left_s: f64,
    /// Unlocked keys held.
    pub resident_keys: u64,
    /// Requests answered from a live key at once.
    pub hits: u64,
    /// Requests that had to wait or were refused.
    pub misses: u64,
    /// Keys evicted because memory was full.
    pub evicted_total: u64,
    /// Loads in progress.
    pub flights: u64,
    /// Age of the oldest key served in the last second.
    pub oldest_served_age_ms: u64,
    /// Loads.
    pub rehydrate_total: u64,
    /// Loads that failed.
    pub rehydrate_fail_total: u64,
    /// How long they took.
    pub rehydrate_latency_ms: Latency,
    /// Requests that wait now.
    pub singleflight_waiters: u64,
    /// The most that ever waited at once.
    pub singleflight_waiters_max: u64,
    /// Waits that used up their budget.
    pub singleflight_wait_timeout_total: u64,
    /// Passes of the prefetcher.
    pub prefetch_scan_total: u64,
    /// Loads that it began.
    pub prefetch_trigger_total: u64,
    /// Keys that were due and passed over.
    pub prefetch_skipped_total: u64,
    /// Requests answered.
    pub requests: Vec<Requests>,
}

impl Keyspace {
    /// Requests answered with `outcome`.
    pub fn answered(&self, outcome: &str) -> u64 {
        let rows = self.requests.iter().filter(|row| row.outcome == outcome);
        text::sum(rows.map(|row| row.count))
    }

    /// Requests answered.
    pub fn answered_in_all(&self) -> u64 {
        text::sum(self.requests.iter().map(|row| row.count))
    }
}

/// Requests of one operation that were answered alike.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// How they were answered: a status in lower case, or `ok_stale`.
    pub outcome: String,
    /// How many.
    pub count: u64,
}

/// One shard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Shard {
    /// Its number.
    pub shard: u16,
    /// Whether it accepts requests.
    pub serving: bool,
    /// Whether all hot keys of the last run are loaded that can be.
    pub warm_start_settled: bool,
    /// Hot keys of the last run that are yet to be loaded.
    pub warm_start_keys_left: u64,
    /// Open connections.
    pub connections: u64,
    /// Requests taken from other shards.
    pub forwards_in_total: u64,
    /// Requests handed to other shards.
    pub forwards_out_total: u64,
    /// Requests that could not be handed over.
    pub forwards_refused_total: u64,
    /// Requests that wait for a load.
    pub parked_requests: u64,
    /// Loads that wait for a read.
    pub load_queue_depth: u64,
    /// How long they waited.
    pub load_wait_ms: Latency,
    /// Operations in the slow lane.
    pub slow_queue_depth: u64,
    /// Handlers that panicked.
    pub panics_total: u64,
    /// Turns and their length.
    pub turn_ms: Latency,
    /// Locked memory in use.
    pub arena_used_bytes: u64,
    /// Locked memory in all.
    pub arena_capacity_bytes: u64,
    /// Whether its log is closed for writing.
    pub store_poisoned: bool,
}

/// Lengths of time since the server's start, in ms.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// 95 of 100 are no longer.
    pub p95: f64,
    /// How many lie in each bucket, and beyond the last; empty without any.
    pub buckets: Vec<u64>,
}
