//! A whole shard of the node, bytes in and bytes out: whatever clients, control, peers and the disk do, in whatever order,
//! nothing panics, what is held stays within its bounds, each request has exactly one answer, a locked keyspace is not used,
//! and who has no right has no result.
//!
//! The input is a script: connections come and go, their frames are built or stand in the script as they are and arrive in
//! pieces, errands end well or badly or late, control changes keyspaces, messages come back since a lane was full. At the
//! end everything works again, and every request on a connection that is left must have been answered.

mod client;
mod disk;
mod frames;
mod others;
mod port;
mod site;

use crate::memory;
use crate::script::Script;
use site::Site;

/// What a shard with the script's few connections may allocate: what it reads ahead of each (1 MiB), what each has not
/// taken (1 MiB and the answers to what is in flight), and requests that wait.
const HELD_BYTES_MAX: usize = 48 << 20;

/// Steps of a script.
const STEPS_MAX: usize = 400;

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    memory::within(HELD_BYTES_MAX, "a shard", || {
        run(data);
    });
}

/// Plays a script. Returns how often a key was used.
fn run(data: &[u8]) -> u64 {
    let mut script = Script::new(data);
    let mut site = Site::new();
    for _ in 0..STEPS_MAX {
        if script.is_empty() {
            break;
        }
        site.step(&mut script);
    }
    site.calm();
    site.operations()
}

#[cfg(test)]
mod tests {
    use super::run;

    /// Connects, asks for a signature, takes a lease, and ends the read of the key.
    const USES_A_KEY: [u8; 16] = [0, 1, 1, 0, 2, 1, 0, 0, 4, 0, 0, 6, 0x7c, 0x40, 6, 9];

    #[test]
    fn a_script_can_use_a_key() {
        assert_eq!(run(&USES_A_KEY), 1);
        assert_eq!(run(&USES_A_KEY[..2]), 0);
    }
}
