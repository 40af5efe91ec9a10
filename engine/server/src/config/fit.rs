//! Sizes that have to fit into what the machine allows. A size that was not given is chosen so that it fits; one that was
//! given and does not fit is refused, with the one that would.

use super::{ConfigError, in_range};
use crate::machine::Machine;
use crate::metrics::http;
use keyway_node::connection::accounts::{DESCRIPTORS_RESERVED, OPERATOR_CONNECTIONS};

/// Arena of a shard where there is room for it, in bytes.
const ARENA_BYTES_DEFAULT: u64 = 64 << 20;

/// Least arena that is chosen, in bytes.
const ARENA_BYTES_MIN: u64 = 1 << 20;

/// An arena that is chosen is a multiple of this, in bytes.
const ARENA_STEP_BYTES: u64 = 32 << 10;

/// The part of the memory that arenas take where their size is not given: keys need as much beside them.
const MEMORY_PART: u64 = 4;

/// Locked memory that a shard's ring takes, in bytes.
const RING_LOCKED_BYTES: u64 = 2 << 20;

/// Connections of a shard where there are descriptors for them.
const CONNECTIONS_DEFAULT: u64 = 4_096;

/// Least connections that are chosen.
const CONNECTIONS_MIN: u64 = 8;

/// Descriptors of the process beside its shards and the metrics port: log, lock, control thread, KMSes.
const FILES_OF_PROCESS: u64 = 32;

/// Descriptors of a shard beside its connections: listeners, ring, timers, some segments.
const FILES_PER_SHARD: u64 = 16;

/// What the process would have where nothing is in the way, as (open files, bytes of locked memory).
pub fn wanted(shards: usize, connections: Option<usize>, arena_mib: Option<usize>) -> (u64, u64) {
    let connections = connections.map_or(CONNECTIONS_DEFAULT, |given| given as u64);
    let arena_bytes = arena_mib.map_or(ARENA_BYTES_DEFAULT, |mib| (mib as u64) << 20);
    let shards = shards as u64;
    (
        descriptors(shards, connections),
        shards.saturating_mul(arena_bytes.saturating_add(RING_LOCKED_BYTES)),
    )
}

fn descriptors(shards: u64, connections: u64) -> u64 {
    let each = connections.saturating_add(OPERATOR_CONNECTIONS as u64 + FILES_PER_SHARD);
    shards.saturating_mul(each)
        + FILES_OF_PROCESS
        + http::CONNECTIONS_MAX as u64
        + DESCRIPTORS_RESERVED
}

/// Bytes of a shard's arena.
///
/// Errors: what was given does not fit, or nothing would.
pub fn arena_bytes(
    arena_mib: Option<usize>,
    shards: u64,
    allow_unlocked: bool,
    machine: &Machine,
) -> Result<usize, ConfigError> {
    let locked_max = machine.locked_bytes_max.unwrap_or(u64::MAX);
    let for_locked = (locked_max / shards).saturating_sub(RING_LOCKED_BYTES);
    let for_memory = machine.memory_bytes.unwrap_or(u64::MAX) / shards;
    let rings = shards * RING_LOCKED_BYTES;
    if locked_max < rings {
        return Err(ConfigError(format!(
            "the locked-memory limit is {locked_max} bytes, and the io_uring rings of {shards} shards take {rings}; \
             raise it (LimitMEMLOCK=, ulimit -l, docker: --ulimit memlock=-1), or give fewer --shards"
        )));
    }
    let Some(mib) = arena_mib else {
        let lockable = if allow_unlocked { u64::MAX } else { for_locked };
        let chosen = ARENA_BYTES_DEFAULT
            .min(lockable)
            .min((for_memory / MEMORY_PART).max(ARENA_BYTES_MIN));
        if chosen < ARENA_BYTES_MIN {
            let needed = shards * (RING_LOCKED_BYTES + ARENA_BYTES_MIN);
            return Err(ConfigError(format!(
                "the locked-memory limit is {locked_max} bytes, and {shards} shards need {needed} at least; raise it \
                 (LimitMEMLOCK=, ulimit -l, docker: --ulimit memlock=-1), give fewer --shards, or pass \
                 --allow-unlocked-memory"
            )));
        }
        return Ok((chosen / ARENA_STEP_BYTES * ARENA_STEP_BYTES) as usize);
    };
    in_range("arena-mib", mib, 1, 65_536)?;
    let bytes = (mib as u64) << 20;
    if !allow_unlocked && bytes > for_locked {
        let needed = shards * (bytes + RING_LOCKED_BYTES);
        let remedy = match for_locked >> 20 {
            0 => "give fewer --shards".to_owned(),
            fits => format!("lower it to --arena-mib {fits}"),
        };
        return Err(ConfigError(format!(
            "--arena-mib {mib} needs {needed} bytes of locked memory for {shards} shards, and the limit is \
             {locked_max}; raise it (LimitMEMLOCK=, ulimit -l, docker: --ulimit memlock=-1), {remedy}, or pass \
             --allow-unlocked-memory"
        )));
    }
    if bytes > for_memory {
        return Err(ConfigError(format!(
            "--arena-mib {mib} for {shards} shards is more than the memory of {} MiB; leave it out to have a size \
             chosen, or give fewer --shards",
            machine.memory_bytes.unwrap_or(0) >> 20
        )));
    }
    Ok(bytes as usize)
}

/// Connections of a shard.
///
/// Errors: what was given does not fit, or next to nothing would.
pub fn connections_max(
    given: Option<usize>,
    shards: u64,
    machine: &Machine,
) -> Result<usize, ConfigError> {
    let limit = machine.descriptors_max;
    let fits = limit.saturating_sub(descriptors(shards, 0)) / shards;
    let too_few = |needed: u64, what: &str, or: &str| {
        ConfigError(format!(
            "{what} needs {needed} open files for {shards} shards, and the limit is {limit}; raise it (LimitNOFILE={needed}, \
             ulimit -n {needed}, docker: --ulimit nofile={needed}){or}"
        ))
    };
    let Some(given) = given else {
        if fits < CONNECTIONS_MIN {
            let needed = descriptors(shards, CONNECTIONS_MIN);
            return Err(too_few(needed, "a server", " or give fewer --shards"));
        }
        return Ok(fits.min(CONNECTIONS_DEFAULT) as usize);
    };
    in_range("connections-max", given, 1, 1_000_000)?;
    if given as u64 > fits {
        let what = format!("--connections-max {given}");
        let or = match fits {
            0 => " or give fewer --shards".to_owned(),
            fits => format!(" or give --connections-max {fits}"),
        };
        return Err(too_few(descriptors(shards, given as u64), &what, &or));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(locked: Option<u64>, memory: u64, descriptors_max: u64) -> Machine {
        Machine {
            cores: vec![0],
            cpu_quota: None,
            memory_bytes: Some(memory),
            locked_bytes_max: locked,
            descriptors_max,
        }
    }

    #[test]
    fn an_arena_that_is_not_given_is_one_that_fits() {
        for (locked_mib, memory_mib, shards, arena_kib) in [
            (None, 65_536, 2, Some(64 << 10)),
            (None, 1_024, 32, Some(8 << 10)),
            (None, 256, 1, Some(64 << 10)),
            (Some(8), 256, 1, Some(6 << 10)),
            (Some(8), 65_536, 3, None),
            (Some(3), 65_536, 1, Some(1 << 10)),
            (Some(1), 65_536, 1, None),
        ] {
            let machine = machine(
                locked_mib.map(|mib: u64| mib << 20),
                memory_mib << 20,
                1_024,
            );
            let chosen = arena_bytes(None, shards, false, &machine);
            let expected = arena_kib.map(|kib: usize| kib << 10);
            assert_eq!(chosen.as_ref().ok().copied(), expected, "{chosen:?}");
        }
    }

    #[test]
    fn what_was_given_and_does_not_fit_is_refused_with_what_would() {
        let small = machine(Some(8 << 20), 1 << 30, 120);
        let refused = arena_bytes(Some(64), 1, false, &small).unwrap_err().0;
        assert!(
            refused.contains("--arena-mib 6") && refused.contains("LimitMEMLOCK"),
            "{refused}"
        );
        assert!(arena_bytes(Some(6), 1, false, &small).is_ok());
        assert!(arena_bytes(Some(64), 1, true, &small).is_ok());
        let refused = arena_bytes(Some(64), 32, true, &machine(None, 1 << 30, 120))
            .unwrap_err()
            .0;
        assert!(refused.contains("1024 MiB"), "{refused}");
        let tiny = machine(Some(64 << 10), 1 << 30, 120);
        let refused = arena_bytes(Some(1), 1, true, &tiny).unwrap_err().0;
        assert!(
            refused.contains("ulimit -l") && refused.contains("65536"),
            "{refused}"
        );

        let refused = connections_max(Some(4_096), 1, &small).unwrap_err().0;
        assert!(
            refused.contains("--connections-max 16") && refused.contains("4096"),
            "{refused}"
        );
        assert_eq!(connections_max(Some(16), 1, &small).unwrap(), 16);
        assert_eq!(connections_max(None, 1, &small).unwrap(), 16);
        let refused = connections_max(None, 1, &machine(None, 1 << 30, 20))
            .unwrap_err()
            .0;
        assert!(refused.contains("LimitNOFILE=112"), "{refused}");
        assert_eq!(
            connections_max(Some(88), 1, &machine(None, 0, 192)).unwrap(),
            88
        );
        assert!(connections_max(Some(89), 1, &machine(None, 0, 192)).is_err());
    }
}
