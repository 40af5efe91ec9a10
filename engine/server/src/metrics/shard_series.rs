//! The series of one shard, with a `shard` label.

use super::collector::{COUNTER, GAUGE, Series};
use super::snapshot::ShardSnapshot;

pub(super) const SHARD_SERIES: &[Series<ShardSnapshot>] = &[
    (
        "keyway_shard_warm_start_keys_left",
        "Keys that were hot when the server last ran and whose loading has not begun.",
        GAUGE,
        |s| s.warm_start.keys_left as f64,
    ),
    (
        "keyway_shard_connections",
        "Open connections.",
        GAUGE,
        |s| s.connections as f64,
    ),
    (
        "keyway_shard_connections_refused_total",
        "Connections over the limit.",
        COUNTER,
        |s| s.connections_refused_total as f64,
    ),
    (
        "keyway_shard_unsent_answer_bytes",
        "Bytes of answers that clients have not taken.",
        GAUGE,
        |s| s.unsent_answer_bytes as f64,
    ),
    (
        "keyway_shard_control_requests_total",
        "Requests handed to the control thread.",
        COUNTER,
        |s| s.control_requests_total as f64,
    ),
    (
        "keyway_shard_accept_errors_total",
        "Accepts that failed.",
        COUNTER,
        |s| s.accept_errors_total as f64,
    ),
    (
        "keyway_shard_protocol_errors_total",
        "Connections closed for bad bytes.",
        COUNTER,
        |s| s.protocol_errors_total as f64,
    ),
    (
        "keyway_shard_forwards_out_total",
        "Requests handed to other shards.",
        COUNTER,
        |s| s.forwards_out_total as f64,
    ),
    (
        "keyway_shard_forwards_in_total",
        "Requests taken from other shards.",
        COUNTER,
        |s| s.forwards_in_total as f64,
    ),
    (
        "keyway_shard_forwards_refused_total",
        "Forwards refused by a full mesh.",
        COUNTER,
        |s| s.forwards_refused_total as f64,
    ),
    (
        "keyway_shard_parked_requests",
        "Requests parked for a flight.",
        GAUGE,
        |s| s.parked_requests as f64,
    ),
    (
        "keyway_shard_load_queue_depth",
        "Loads waiting for a read slot.",
        GAUGE,
        |s| s.load_queue_depth as f64,
    ),
    (
        "keyway_shard_slow_queue_depth",
        "Operations in the slow lane.",
        GAUGE,
        |s| s.slow_queue_depth as f64,
    ),
    (
        "keyway_shard_panics_total",
        "Panics caught in a handler.",
        COUNTER,
        |s| s.panics_total as f64,
    ),
    (
        "keyway_shard_arena_used_bytes",
        "Locked memory in use.",
        GAUGE,
        |s| s.arena_used_bytes as f64,
    ),
    (
        "keyway_shard_arena_capacity_bytes",
        "Locked memory in all.",
        GAUGE,
        |s| s.arena_capacity_bytes as f64,
    ),
    (
        "keyway_shard_store_keys",
        "Keys in the blob log.",
        GAUGE,
        |s| s.store_keys as f64,
    ),
    (
        "keyway_shard_store_disk_bytes",
        "Blob log on disk.",
        GAUGE,
        |s| s.store_disk_bytes as f64,
    ),
    (
        "keyway_shard_store_dead_bytes",
        "Blob log bytes nobody needs.",
        GAUGE,
        |s| s.store_dead_bytes as f64,
    ),
    (
        "keyway_shard_store_index_bytes",
        "Memory of the blob log's index.",
        GAUGE,
        |s| s.store_index_bytes as f64,
    ),
    (
        "keyway_shard_store_poisoned",
        "1 when the last write to the blob log failed and none has succeeded since.",
        GAUGE,
        |s| f64::from(u8::from(s.store_poisoned)),
    ),
];
