//! The bounds of what the parts of a node hold for each other, and of how long they wait for the disk.

use keyway_core::Instant;

/// Requests that wait for control in the ordinary lane before more are refused.
pub const TO_CONTROL_MAX: usize = 4_096;

/// Messages in the ordinary lane to a shard. Control has one change and a few answers in flight for each keyspace.
pub const TO_SHARD_MAX: usize = 16_384;

/// Messages in each emergency lane: a change of each keyspace, and the commands.
pub const EMERGENCIES_MAX: usize = 16_384;

/// How long an answer waits for the disk at least, µs. Control checks once a second, so that its answer arrives within the
/// default timeout of clients, 5 s.
pub(crate) const WRITE_US_MIN: u64 = 4_000_000;

/// How long a change that no client waits for, such as an unlock's, waits for the disk, µs.
pub(crate) const BACKGROUND_WRITE_US: u64 = 60_000_000;

/// Returns how long the answer to a request waits for the disk, µs: control's for the catalogue, a shard's for a
/// revocation. Of the time that its client waits, a fifth is left for the answer.
pub(crate) fn write_us(now: Instant, deadline: Option<Instant>) -> u64 {
    let left_us = deadline.map_or(0, |deadline| deadline.saturating_since(now));
    (left_us / 5 * 4).max(WRITE_US_MIN)
}

const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= EMERGENCIES_MAX);
const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= TO_SHARD_MAX);
