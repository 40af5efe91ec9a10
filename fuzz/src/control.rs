//! The control state machine: commands, what shards say, answers of KMSes and of the disk, and time, in any order and with
//! names that nothing has. Nothing panics, each command has exactly one answer, shards receive nothing looser than what is
//! written and no older revision, no DEK goes to a locked keyspace, and there is one write at a time.
//!
//! The input is a script. At the end everything that was asked is answered, and every command must have been.

mod commands;
mod desk;
mod ledger;
mod made;

use crate::memory;
use crate::script::Script;
use desk::Desk;

/// What control with a script's few keyspaces and commands may allocate.
const HELD_BYTES_MAX: usize = 16 << 20;

/// Steps of a script.
const STEPS_MAX: usize = 300;

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    memory::within(HELD_BYTES_MAX, "control", || {
        let mut script = Script::new(data);
        let mut desk = Desk::new(script.u8());
        for _ in 0..STEPS_MAX {
            if script.is_empty() {
                break;
            }
            desk.step(&mut script);
        }
        desk.calm();
    });
}
