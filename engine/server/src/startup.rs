//! Checks before anything starts, each with a message that names the remedy.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;
use crate::runtime::executor;
use crate::unix_path;

/// Descriptors a shard needs beside its connections: listeners, ring, segments, timers.
const FILES_PER_SHARD: u64 = 64;

/// Locked memory that a shard's ring takes beside the arena.
const RING_LOCKED_BYTES: u64 = 2 << 20;

/// How long a start waits for a port that is in use, and between two looks.
const PORT_WAIT_MAX: Duration = Duration::from_secs(1);
const PORT_WAIT_STEP: Duration = Duration::from_millis(20);

/// Makes the process undumpable and checks what the machine allows.
pub fn check(config: &mut Config) -> Result<(), String> {
    // Core dumps and other processes of the same user must not see key memory.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("the process cannot be made undumpable: {error}"))?;
    executor::check_io_uring()?;
    let shards = u64::from(config.shards);
    let files = shards * (config.connections_max as u64 + FILES_PER_SHARD);
    if let Err(limit) = raise(Resource::Nofile, files) {
        tracing::warn!(
            limit,
            wanted = files,
            "the open-file limit is below connections_max; accepts may fail: raise LimitNOFILE"
        );
    }
    config.descriptors_max = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    unix_path::check(&config.unix, config.shards)?;
    let locked = shards * (config.arena_bytes as u64 + RING_LOCKED_BYTES);
    if let Err(limit) = raise(Resource::Memlock, locked)
        && !config.allow_unlocked_memory
        && !rustix::process::geteuid().is_root()
    {
        return Err(format!(
            "the locked-memory limit is {limit} bytes and {locked} are needed for {shards} \
             shards; raise it (ulimit -l, LimitMEMLOCK), lower --arena-mib, or pass \
             --allow-unlocked-memory"
        ));
    }
    Ok(())
}

/// Raises a soft limit to `wanted`; the limit that is in the way when it cannot.
fn raise(resource: Resource, wanted: u64) -> Result<(), u64> {
    let limit = getrlimit(resource);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
    if setrlimit(
        resource,
        Rlimit {
            current: Some(wanted),
            maximum,
        },
    )
    .is_ok()
    {
        return Ok(());
    }
    let reachable = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    // Half a raise is better than none.
    let _ = setrlimit(
        resource,
        Rlimit {
            current: Some(reachable),
            maximum: limit.maximum,
        },
    );
    if reachable >= wanted {
        Ok(())
    } else {
        Err(reachable)
    }
}

/// Ports held for the shards until they listen themselves.
pub struct Ports {
    /// Address for anyone, with its real port.
    pub shared: SocketAddr,
    /// Each shard's own port.
    pub own: Vec<u16>,
    held: Vec<std::os::fd::OwnedFd>,
}

impl Ports {
    /// Lets go of the ports: the shards listen on them now.
    pub fn release(&mut self) {
        self.held.clear();
    }
}

/// Finds and holds the ports: shards bind with SO_REUSEPORT, which would hide that another
/// process listens there already.
///
/// Errors: a port is in use; the text names it.
pub fn reserve_ports(config: &Config) -> Result<Ports, String> {
    let mut held = Vec::new();
    let shared = reserve(config.listen, &mut held)?;
    let mut own = Vec::new();
    for shard in 0..config.shards {
        let port = if config.listen.port() == 0 {
            0
        } else {
            config.listen.port() + 1 + shard
        };
        own.push(reserve(SocketAddr::new(shared.ip(), port), &mut held)?.port());
    }
    Ok(Ports { shared, own, held })
}

/// The address with its real port. The listeners of a server that has just been stopped outlive it for some ms, until the
/// kernel has taken down its rings: so a port that is in use is waited for a little.
fn find_free(address: SocketAddr) -> std::io::Result<SocketAddr> {
    let began = Instant::now();
    loop {
        let free = TcpListener::bind(address).and_then(|listener| listener.local_addr());
        match free {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PORT_WAIT_MAX =>
            {
                std::thread::sleep(PORT_WAIT_STEP);
            }
            free => return free,
        }
    }
}

fn reserve(
    address: SocketAddr,
    held: &mut Vec<std::os::fd::OwnedFd>,
) -> Result<SocketAddr, String> {
    let in_use = |error: std::io::Error| {
        format!("cannot listen on {address}: {error}; is another server running? use --listen")
    };
    let address = find_free(address).map_err(in_use)?;
    let family = if address.is_ipv6() {
        rustix::net::AddressFamily::INET6
    } else {
        rustix::net::AddressFamily::INET
    };
    // Bound but not listening: it takes no connections away from the shards.
    let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None)
        .and_then(|socket| {
            sockopt::set_socket_reuseport(&socket, true)?;
            rustix::net::bind(&socket, &address)?;
            Ok(socket)
        })
        .map_err(|error| in_use(error.into()))?;
    held.push(socket);
    Ok(address)
}
