//! The bounds of what the parts of a node hold for each other.

/// Requests that wait for control in the ordinary lane before more are refused.
pub const TO_CONTROL_MAX: usize = 4_096;

/// Messages in the ordinary lane to a shard. Control has one change and a few answers in flight for each keyspace.
pub const TO_SHARD_MAX: usize = 16_384;

/// Messages in each emergency lane: a change of each keyspace, and the commands.
pub const EMERGENCIES_MAX: usize = 16_384;

/// How long an answer waits for the disk, µs: control's for the catalogue, a shard's for a revocation. Control checks once
/// a second, so that its answer arrives within the default timeout of clients, 5 s.
pub(crate) const WRITE_US_MAX: u64 = 4_000_000;

const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= EMERGENCIES_MAX);
const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= TO_SHARD_MAX);
