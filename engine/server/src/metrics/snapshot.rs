//! What shards and the control thread report once a second: plain values, no handles. A metric is declared here, in one
//! row: see [`super::declare`].

use std::collections::BTreeMap;

use serde_json::Value;

pub use keyway_node::figures::{HotSnapshot, KmsTrouble, SettingSnapshot, SettingsSnapshot, Until};

use super::declare::{Emit, Reading, Sample, figures};
use super::latency::Latency;
use super::requests::RequestCounts;

/// Where a keyspace stands with its DEK. Later ones matter more: over shards, the latest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockState {
    /// No lease, and none is needed.
    #[default]
    Idle,
    /// A lease is held.
    Live,
    /// A lease is held, and an unwrap is in flight for the next one.
    Renewing,
    /// No lease is held, and an unwrap is in flight.
    Acquiring,
    /// The KMS refuses.
    Denied,
    /// Locked by an operator.
    Locked,
}

impl LockState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Live,
        Self::Renewing,
        Self::Acquiring,
        Self::Denied,
        Self::Locked,
    ];

    /// In one lower-case word, for status documents and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Live => "live",
            Self::Renewing => "renewing",
            Self::Acquiring => "acquiring",
            Self::Denied => "denied",
            Self::Locked => "locked",
        }
    }
}

impl Reading for LockState {
    const LABELS: &'static [&'static str] = &["state"];

    fn export(&self, emit: &mut Emit<'_>) {
        for state in Self::ALL {
            let is_it = f64::from(u8::from(state == *self));
            emit(&[state.name()], Sample::Number(is_it));
        }
    }

    fn document(&self) -> Value {
        self.name().into()
    }
}

figures! {
    /// One keyspace on one shard, or over all of them.
    pub struct KeyspaceSnapshot labelled Some("keyspace"), |keyspace| keyspace.name.clone();
    {
        /// Keyspace id.
        id: u32,
        /// Keyspace name.
        name: String,
    }
    rehydrate_total: u64 = sum [Counter "rehydrate_total"] ["rehydrate_total"]
        "Local rehydrations, failed ones included.";
    rehydrate_fail_total: u64 = sum [Counter "rehydrate_fail_total"] ["rehydrate_fail_total"]
        "Rehydrations that failed. Repeated failures mean trouble with the data key or the KMS.";
    rehydrate_latency: Latency = sum [Histogram "rehydrate_latency_ms"] ["rehydrate_latency_ms"]
        "Time to read and open a key's blob, from the time its shard asks for the read, in milliseconds. Its p95 must stay below 2 ms.";
    singleflight_waiters: u64 = sum [Gauge "singleflight_waiters"] ["singleflight_waiters"]
        "Requests waiting for a refresh. Above 128, a refresh is stuck or one key is too hot.";
    singleflight_waiters_max: u64 = sum [] ["singleflight_waiters_max"]
        "The most requests that have waited for a refresh at the same time since the server started.";
    singleflight_wait_timeout_total: u64 = sum
        [Counter "singleflight_wait_timeout_total"] ["singleflight_wait_timeout_total"]
        "Waits that used up sign_wait_budget_us.";
    prefetch_scan_total: u64 = sum [Counter "prefetch_scan_total"] ["prefetch_scan_total"]
        "Passes of the prefetcher: one every 10 ms on each shard while it is enabled; beyond 1,024 keyspaces they take turns.";
    prefetch_trigger_total: u64 = sum [Counter "prefetch_trigger_total"] ["prefetch_trigger_total"]
        "Refreshes that the prefetcher started.";
    prefetch_warm_total: u64 = sum [Counter "keyway_prefetch_warm_total"] ["prefetch_warm_total"]
        "Loads of keys that were hot in the previous run.";
    prefetch_skipped_total: u64 = sum [Counter "prefetch_skipped_total"] ["prefetch_skipped_total"]
        "Keys that were due but skipped because max_in_flight was reached. The next pass considers them again.";
    hits: u64 = sum [Counter "keyway_hits_total"] ["hits"]
        "Requests served immediately from an unlocked key. The hit ratio is hits / (hits + misses).";
    misses: u64 = sum [Counter "keyway_misses_total"] ["misses"]
        "Requests that waited for a key or were refused.";
    evicted_total: u64 = sum [Counter "keyway_evicted_total"] ["evicted_total"]
        "Keys evicted before they expired because memory was full.";
    resident_keys: u64 = sum [Gauge "keyway_resident_keys"] ["resident_keys"]
        "Unlocked keys in memory.";
    resident_key_bytes: u64 = sum [Gauge "keyway_resident_key_bytes"] ["resident_key_bytes"]
        "Locked memory that unlocked keys use.";
    flights: u64 = sum [Gauge "keyway_flights"] ["flights"]
        "Refreshes in progress.";
    oldest_served_age_us: u64 = max
        [Gauge "keyway_oldest_served_age_seconds" per 1e6] ["oldest_served_age_ms" = |age_us| (age_us / 1_000).into()]
        "Age of the oldest key served within the last second.";
    aead_uses_ratio: f64 = max [Gauge "keyway_aead_uses_ratio"] ["aead_uses_ratio"]
        "Fraction of its 2^32 encryptions that the newest version of the most used AEAD key has spent, among the keys that \
         have encrypted since the server started. At 1 the key refuses to encrypt. Counts survive \
         restarts; a crash adds at most 2^24.";
    dek_lease_left_s: f64 = min [Gauge "keyway_dek_lease_left_seconds"] ["dek_lease_left_s"]
        "Remaining time of the data key's lease, on the shard where it is shortest; 0 without a lease.";
    state: LockState = max [Gauge "keyway_keyspace_state"] ["state"]
        "1 for the state of the keyspace's data key, 0 for the other states.";
    locked: bool = max [Gauge "keyway_keyspace_locked"] ["locked"]
        "1 while an operator has locked the keyspace.";
    requests: RequestCounts = sum [Counter "keyway_requests_total"] ["requests"]
        "Requests answered, by operation and outcome. Outcomes are the statuses in lower case, and ok_stale.";
}

/// How far a shard is with loading the keys that were hot in the last run.
#[derive(Clone, Copy, Debug, Default)]
pub struct WarmStartSnapshot {
    /// Whether all is loaded that can be.
    pub settled: bool,
    /// Keys that were hot.
    pub keys_total: u64,
    /// Of them, keys whose loading has not begun.
    pub keys_left: u64,
}

impl Reading for WarmStartSnapshot {
    fn export(&self, emit: &mut Emit<'_>) {
        emit(&[], Sample::Number(self.keys_left as f64));
    }

    fn document(&self) -> Value {
        self.keys_left.into()
    }
}

figures! {
    /// One shard.
    pub struct ShardSnapshot labelled Some("shard"), |shard| shard.shard.to_string();
    {
        /// Shard index.
        shard: u16,
        /// Whether it accepts requests; before that it reads its blob log.
        serving: bool,
        /// Blob log bytes read so far at start.
        recovered_bytes: u64,
        /// Blob log bytes to read at start.
        recovery_total_bytes: u64,
        /// Keyspaces by id.
        keyspaces: Vec<KeyspaceSnapshot>,
    }
    warm_start: WarmStartSnapshot = never [Gauge "keyway_shard_warm_start_keys_left"] []
        "Keys that were hot in the previous run and whose load has not started.";
    connections: u64 = never [Gauge "keyway_shard_connections"] ["connections"]
        "Open connections.";
    connections_refused_total: u64 = never [Counter "keyway_shard_connections_refused_total"] []
        "Connections closed on accept because a limit was reached.";
    unsent_answer_bytes: u64 = never [Gauge "keyway_shard_unsent_answer_bytes"] []
        "Response bytes that clients have not received yet.";
    control_requests_total: u64 = never [Counter "keyway_shard_control_requests_total"] []
        "Requests passed to the control thread.";
    accept_errors_total: u64 = never [Counter "keyway_shard_accept_errors_total"] []
        "Accepts that failed, for example for lack of descriptors.";
    protocol_errors_total: u64 = never [Counter "keyway_shard_protocol_errors_total"] ["protocol_errors_total"]
        "Connections closed because of malformed frames.";
    forwards_out_total: u64 = never [Counter "keyway_shard_forwards_out_total"] ["forwards_out_total"]
        "Requests forwarded to other shards.";
    forwards_in_total: u64 = never [Counter "keyway_shard_forwards_in_total"] ["forwards_in_total"]
        "Requests received from other shards.";
    forwards_refused_total: u64 = never [Counter "keyway_shard_forwards_refused_total"] ["forwards_refused_total"]
        "Forwards answered OVERLOADED because the mesh was full.";
    parked_requests: u64 = never [Gauge "keyway_shard_parked_requests"] ["parked_requests"]
        "Requests waiting for a key, another shard, the control thread or a write.";
    load_queue_depth: u64 = never [Gauge "keyway_shard_load_queue_depth"] ["load_queue_depth"]
        "Loads waiting for a read slot.";
    load_wait: Latency = never [Histogram "keyway_shard_load_wait_seconds"] ["load_wait_ms"]
        "Time that loads waited for a read slot. rehydrate_latency_ms starts after that wait.";
    slow_queue_depth: u64 = never [Gauge "keyway_shard_slow_queue_depth"] ["slow_queue_depth"]
        "Operations in the slow lane.";
    turn: Latency = never [Histogram "keyway_shard_turn_seconds"] ["turn_ms"]
        "Duration of the shard's turns (event-loop iterations).";
    panics_total: u64 = never [Counter "keyway_shard_panics_total"] ["panics_total"]
        "Panics caught in a request handler: report each. A panic in the cache core stops the server with exit status 1.";
    arena_used_bytes: u64 = never [Gauge "keyway_shard_arena_used_bytes"] ["arena_used_bytes"]
        "Locked memory in use.";
    arena_capacity_bytes: u64 = never [Gauge "keyway_shard_arena_capacity_bytes"] ["arena_capacity_bytes"]
        "Locked memory in total.";
    store_keys: u64 = never [Gauge "keyway_shard_store_keys"] ["store_keys"]
        "Keys in the blob log.";
    store_disk_bytes: u64 = never [Gauge "keyway_shard_store_disk_bytes"] ["store_disk_bytes"]
        "Size of the blob log on disk.";
    store_dead_bytes: u64 = never [Gauge "keyway_shard_store_dead_bytes"] ["store_dead_bytes"]
        "Dead bytes in the blob log, reclaimable by compaction.";
    store_index_bytes: u64 = never [Gauge "keyway_shard_store_index_bytes"] ["store_index_bytes"]
        "Memory of the blob log's index.";
    store_revoked_versions: u64 = never [Gauge "keyway_shard_store_revoked_versions"] ["store_revoked_versions"]
        "Key versions that were revoked alone and whose secret is still in the key's blob, encrypted.";
    store_poisoned: bool = never [Gauge "keyway_shard_store_poisoned"] ["store_poisoned"]
        "1 if the last write to the blob log failed and none has succeeded since. The shard retries twice a second.";
}

/// Calls to a KMS that ended alike.
#[derive(Clone, Debug)]
pub struct KmsCalls {
    /// Keyspace id; 0 for none.
    pub keyspace: u32,
    /// What was asked.
    pub operation: &'static str,
    /// How it ended.
    pub outcome: &'static str,
    /// How often so far.
    pub count: u64,
}

/// One KMS.
#[derive(Clone, Debug, Default)]
pub struct KmsSnapshot {
    /// Its name in the configuration.
    pub name: String,
    /// Its provider.
    pub provider: &'static str,
    /// `unlocked`, `locked` or `uninitialised`.
    pub state: &'static str,
    /// What an unlock needs: `none`, `passphrase`, `shares`, `pin`, or `init` if it has no key yet.
    pub need: &'static str,
    /// Calls so far, by rising keyspace.
    pub calls: Vec<KmsCalls>,
    /// How much of its budget is in use.
    pub budget: BudgetSnapshot,
    /// What its logins cost, in calls an hour.
    pub own_calls_per_hour: f64,
    /// What the lease of each of its keyspaces costs while it is in use, in calls an hour.
    pub lease_calls_per_hour: BTreeMap<u32, f64>,
    /// What is wrong, while the last call of a keyspace has failed.
    pub trouble: Option<KmsTrouble>,
    /// Versions of its key, where keys have versions.
    pub key_versions: Option<KeyVersions>,
}

/// How much of a KMS's budget is in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct BudgetSnapshot {
    /// Calls in progress.
    pub calls_in_flight: u32,
    /// Unwraps in progress or waiting.
    pub unwraps: u32,
    /// Calls that the rate would allow immediately.
    pub rate_tokens: u32,
    /// Retries that could be made immediately.
    pub retry_tokens: u32,
    /// `closed`, `open` or `half-open`.
    pub breaker: &'static str,
}

/// Versions of a KMS's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyVersions {
    /// The newest that was seen.
    pub newest: u32,
    /// Keyspaces with a DEK that an older version wrapped.
    pub keyspaces_behind: usize,
}

figures! {
    /// How `keyspaces.json` is being written.
    pub struct CatalogueSnapshot labelled None, |_| String::new();
    {}
    unwritten_changes: u64 = never [Gauge "keyway_keyspaces_unwritten_changes"] []
        "Locks and other withdrawals that are in force but could not be written. A restart would undo them.";
    write_failures_total: u64 = never [Counter "keyway_keyspaces_write_failures_total"] []
        "Writes of keyspaces.json that failed.";
}

impl KmsSnapshot {
    /// The keyspaces with ids greater than `after` for which there were calls, by id.
    pub fn keyspaces_after(&self, after: u32) -> impl Iterator<Item = u32> {
        let begins = self.calls.partition_point(|calls| calls.keyspace <= after);
        let calls = self.calls[begins..].chunk_by(|a, b| a.keyspace == b.keyspace);
        calls.filter_map(|of_one| Some(of_one.first()?.keyspace))
    }

    /// The calls for one keyspace, 0 for those for none.
    pub fn calls_for(&self, keyspace: u32) -> &[KmsCalls] {
        let begins = self
            .calls
            .partition_point(|calls| calls.keyspace < keyspace);
        let ends = self
            .calls
            .partition_point(|calls| calls.keyspace <= keyspace);
        &self.calls[begins..ends]
    }
}

/// What reaches the exporter.
#[derive(Clone, Debug)]
pub enum Snapshot {
    /// The control thread's, for the live page: every keyspace's settings.
    Settings(Vec<SettingsSnapshot>),
    /// The control thread's, for the live page.
    Hot(HotSnapshot),
    /// A shard's values.
    Shard(Box<ShardSnapshot>),
    /// The control thread's values: those of every KMS.
    Kms(Vec<KmsSnapshot>),
    /// The control thread's: what has become of changes of keyspaces.
    Catalogue(CatalogueSnapshot),
}
