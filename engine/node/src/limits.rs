//! The bounds of what the parts of a node hold for each other.

/// Requests that wait for control in the ordinary lane before more are refused.
pub const TO_CONTROL_MAX: usize = 4_096;

/// Messages in the ordinary lane to a shard. Control has one change and a few answers in flight for each keyspace.
pub const TO_SHARD_MAX: usize = 16_384;

/// Messages in each emergency lane: a change of each keyspace, and the commands.
pub const EMERGENCIES_MAX: usize = 16_384;

const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= EMERGENCIES_MAX);
const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= TO_SHARD_MAX);
