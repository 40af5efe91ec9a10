//! What a shard tells of itself once a second: plain figures, no handles.

use std::collections::BTreeMap;

use keyway_protocol::HotBy;

use super::latency::Latency;

/// Operations that are counted apart, in the order of [`RequestCounts`].
pub const OPERATIONS: [&str; 11] = [
    "sign",
    "verify",
    "mac",
    "encrypt",
    "decrypt",
    "derive",
    "public_key",
    "get",
    "force_refresh",
    "key_admin",
    "other",
];

/// Outcomes that are counted apart: the wire's statuses by number, `ok` and a stale `ok` apart.
pub const OUTCOMES: [&str; 18] = [
    "ok",
    "retry",
    "needs_unlock",
    "unavailable",
    "overloaded",
    "not_found",
    "invalid",
    "revoked",
    "forbidden",
    "bad_request",
    "unsupported",
    "deadline_exceeded",
    "mismatch",
    "conflict",
    "no_keyspace",
    "internal",
    "not_persisted",
    "ok_stale",
];

/// Index of a stale OK in [`OUTCOMES`].
pub const OUTCOME_OK_STALE: usize = 17;

/// Requests answered, by operation and outcome.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts(pub [[u64; OUTCOMES.len()]; OPERATIONS.len()]);

/// Where a keyspace stands with its DEK. Later ones matter more: over shards, the latest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockState {
    /// No lease, and nobody has asked for one.
    #[default]
    Idle,
    /// A lease is held.
    Live,
    /// A lease is held, and the KMS is being asked for the next one.
    Renewing,
    /// No lease is held, and the KMS is being asked for one.
    Asking,
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
        Self::Asking,
        Self::Denied,
        Self::Locked,
    ];

    /// In one lower-case word, for status documents and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Live => "live",
            Self::Renewing => "renewing",
            Self::Asking => "asking",
            Self::Denied => "denied",
            Self::Locked => "locked",
        }
    }
}

/// One keyspace on one shard.
#[derive(Clone, Debug, Default)]
pub struct KeyspaceSnapshot {
    /// Keyspace id.
    pub id: u32,
    /// Keyspace name.
    pub name: String,
    /// `rehydrate_total`.
    pub rehydrate_total: u64,
    /// `rehydrate_fail_total`.
    pub rehydrate_fail_total: u64,
    /// `rehydrate_latency_ms`.
    pub rehydrate_latency: Latency,
    /// `singleflight_waiters`.
    pub singleflight_waiters: u64,
    /// Highest `singleflight_waiters` since the server started.
    pub singleflight_waiters_max: u64,
    /// `singleflight_wait_timeout_total`.
    pub singleflight_wait_timeout_total: u64,
    /// `prefetch_scan_total`.
    pub prefetch_scan_total: u64,
    /// `prefetch_trigger_total`.
    pub prefetch_trigger_total: u64,
    /// Loads of keys that were hot in an earlier run.
    pub prefetch_warm_total: u64,
    /// `prefetch_skipped_total`.
    pub prefetch_skipped_total: u64,
    /// Requests answered from a live key at once.
    pub hits: u64,
    /// Requests that had to wait or were refused.
    pub misses: u64,
    /// Keys evicted before their time, for room.
    pub evicted_total: u64,
    /// Unlocked keys held.
    pub resident_keys: u64,
    /// Locked memory that they take, in bytes.
    pub resident_key_bytes: u64,
    /// Flights under way.
    pub flights: u64,
    /// Age of the oldest key served since the last snapshot, in microseconds.
    pub oldest_served_age_us: u64,
    /// Share of its encryptions that the most used AEAD key has done under its newest version.
    pub aead_uses_ratio: f64,
    /// Seconds left of the DEK lease; 0 without one.
    pub dek_lease_left_s: f64,
    /// Where it stands with its DEK.
    pub state: LockState,
    /// Whether an operator has locked it.
    pub locked: bool,
    /// Requests by operation and outcome.
    pub requests: RequestCounts,
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

/// One shard.
#[derive(Clone, Debug, Default)]
pub struct ShardSnapshot {
    /// Shard index.
    pub shard: u16,
    /// Whether it accepts requests; before that it reads its blob log.
    pub serving: bool,
    /// How far its warm start is.
    pub warm_start: WarmStartSnapshot,
    /// Blob log bytes read so far at start.
    pub recovered_bytes: u64,
    /// Blob log bytes to read at start.
    pub recovery_total_bytes: u64,
    /// Keyspaces by id.
    pub keyspaces: Vec<KeyspaceSnapshot>,
    /// Open connections.
    pub connections: u64,
    /// Connections refused at the limit.
    pub connections_refused_total: u64,
    /// Bytes of answers that clients have not taken.
    pub unsent_answer_bytes: u64,
    /// Requests handed to the control thread.
    pub control_requests_total: u64,
    /// Failed accepts (out of descriptors, say).
    pub accept_errors_total: u64,
    /// Connections closed for malformed bytes.
    pub protocol_errors_total: u64,
    /// Requests handed to other shards.
    pub forwards_out_total: u64,
    /// Requests taken from other shards.
    pub forwards_in_total: u64,
    /// Forwards refused because the mesh was full.
    pub forwards_refused_total: u64,
    /// Requests parked for a flight.
    pub parked_requests: u64,
    /// Loads waiting for a read slot.
    pub load_queue_depth: u64,
    /// How long loads waited for a read slot.
    pub load_wait: Latency,
    /// Operations in the slow lane.
    pub slow_queue_depth: u64,
    /// Turns taken and their length.
    pub turn: Latency,
    /// Panics caught in a handler.
    pub panics_total: u64,
    /// Arena bytes in use.
    pub arena_used_bytes: u64,
    /// Arena bytes in all.
    pub arena_capacity_bytes: u64,
    /// Keys in the blob log.
    pub store_keys: u64,
    /// Bytes of the blob log on disk.
    pub store_disk_bytes: u64,
    /// Bytes of it that no live record needs.
    pub store_dead_bytes: u64,
    /// Memory of its index.
    pub store_index_bytes: u64,
    /// Whether a failed write or sync has closed it for writing.
    pub store_poisoned: bool,
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
    /// Calls so far, by rising keyspace.
    pub calls: Vec<KmsCalls>,
    /// Calls under way.
    pub calls_in_flight: u32,
    /// Unwraps under way or waiting.
    pub unwraps: u32,
    /// Calls that the rate would let go at once.
    pub rate_tokens: u32,
    /// Retries that could be made at once.
    pub retry_tokens: u32,
    /// `closed`, `open` or `probing`.
    pub breaker: &'static str,
    /// What its logins cost, in calls an hour.
    pub own_calls_per_hour: f64,
    /// What the lease of each of its keyspaces costs while it is in use, in calls an hour.
    pub lease_calls_per_hour: BTreeMap<u32, f64>,
    /// What is wrong, while the last call of a keyspace has failed.
    pub trouble: Option<KmsTrouble>,
    /// Versions of its key, where keys have versions.
    pub key_versions: Option<KeyVersions>,
}

/// Versions of a KMS's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyVersions {
    /// The newest that was seen.
    pub newest: u32,
    /// Keyspaces with a DEK that an older version wrapped.
    pub keyspaces_behind: usize,
}

/// Why a KMS does not unwrap.
#[derive(Clone, Debug, Default)]
pub struct KmsTrouble {
    /// What the latest failure means to callers, in a word.
    pub class: &'static str,
    /// What it comes from, in a word.
    pub cause: &'static str,
    /// What happened, in the provider's words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Since when no time passed without a keyspace whose last call had failed, ms since 1970.
    pub since_unix_ms: u64,
    /// Whether it is over: no keyspace's last call has failed any more.
    pub is_over: bool,
    /// Keyspaces whose last call failed, each with the cause.
    pub of_keyspaces: BTreeMap<u32, &'static str>,
}

/// How the file of keyspaces is being written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatalogueSnapshot {
    /// Changes that are in force and could not be written: a restart would undo them.
    pub unwritten_changes: u64,
    /// Writes that failed.
    pub write_failures_total: u64,
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

/// A setting's end, where it was changed for a while.
#[derive(Clone, Debug)]
pub struct Until {
    /// When it goes back, ms since 1970.
    pub unix_ms: u64,
    /// The value that holds then.
    pub then: String,
}

/// One setting in force.
#[derive(Clone, Debug)]
pub struct SettingSnapshot {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// When it goes back by itself, if it does.
    pub until: Option<Until>,
}

/// The settings of one keyspace.
#[derive(Clone, Debug)]
pub struct SettingsSnapshot {
    /// Keyspace id.
    pub keyspace: u32,
    /// Name of the KMS that wraps its DEKs.
    pub kms: String,
    /// Generation of its newest DEK.
    pub generation: u32,
    /// All of them.
    pub settings: Vec<SettingSnapshot>,
}

/// Hot keys of one keyspace, of all shards.
#[derive(Clone, Debug)]
pub struct HotSnapshot {
    /// Keyspace id.
    pub keyspace: u32,
    /// What they are ordered by.
    pub by: HotBy,
    /// As KEYSPACE_HOT answers; without key ids, unless the page may show them.
    pub document: serde_json::Value,
}

/// What reaches the exporter.
#[derive(Clone, Debug)]
pub enum Snapshot {
    /// The control thread's, for the live page: every keyspace's settings.
    Settings(Vec<SettingsSnapshot>),
    /// The control thread's, for the live page.
    Hot(HotSnapshot),
    /// A shard's figures.
    Shard(Box<ShardSnapshot>),
    /// The control thread's figures: every KMS's.
    Kms(Vec<KmsSnapshot>),
    /// The control thread's: what has become of changes of keyspaces.
    Catalogue(CatalogueSnapshot),
}
