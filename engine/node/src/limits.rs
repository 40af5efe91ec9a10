//! The bounds of what the parts of a node hold for each other, and of how long they wait for the disk.

use keyway_core::Instant;

/// Requests that wait for control in the ordinary lane before more are refused.
pub const TO_CONTROL_MAX: usize = 4_096;

/// Messages in the ordinary lane to a shard. Control has one change and a few answers in flight for each keyspace.
pub const TO_SHARD_MAX: usize = 16_384;

/// Messages in each emergency lane: a change of each keyspace, and the commands.
pub const EMERGENCIES_MAX: usize = 16_384;

/// How long an answer waits for the disk unless a deadline says otherwise, µs: it arrives within the default timeout of
/// clients, 5 s.
pub(crate) const WRITE_US_MIN: u64 = 4_000_000;

/// How long a change that no client waits for, such as an unlock's, waits for the disk, µs.
pub(crate) const BACKGROUND_WRITE_US: u64 = 60_000_000;

/// How much longer than its deadline a shard waits for the answer to a command that takes something away, µs. The
/// executor of the command answers before the deadline, and nothing else can say whether it is in force.
pub(crate) const VERDICT_US: u64 = 100_000;

/// Returns how long the answer to a command that only grants something waits for the disk, µs: giving up undoes it, so a
/// short deadline does not shorten the wait. Of the time that its client waits, a fifth is left for the answer.
pub(crate) fn write_us(now: Instant, deadline: Option<Instant>) -> u64 {
    four_fifths(now, deadline).max(WRITE_US_MIN)
}

/// Returns how long the answer to a command that takes something away waits for the disk, µs. It is in force meanwhile,
/// and its client must receive that answer before its deadline.
pub(crate) fn verdict_us(now: Instant, deadline: Option<Instant>) -> u64 {
    match deadline {
        None => WRITE_US_MIN,
        Some(_) => four_fifths(now, deadline),
    }
}

fn four_fifths(now: Instant, deadline: Option<Instant>) -> u64 {
    let left_us = deadline.map_or(0, |deadline| deadline.saturating_since(now));
    left_us / 5 * 4
}

const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= EMERGENCIES_MAX);
const _: () = assert!(crate::catalogue::KEYSPACES_MAX <= TO_SHARD_MAX);
