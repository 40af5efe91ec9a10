//! Checks before anything starts, each with a message that names the remedy.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::DumpableBehavior;

use crate::config::Config;
use crate::machine::Machine;
use crate::os_error::{Attempt, explain};
use crate::peer;
use crate::runtime::{executor, uring};
use crate::threads;

/// How long a start waits for a port that is in use, and between two looks.
const PORT_WAIT_MAX: Duration = Duration::from_secs(1);
const PORT_WAIT_STEP: Duration = Duration::from_millis(20);

/// Makes the process undumpable and checks what the machine allows.
pub fn check(config: &Config, machine: &Machine) -> Result<(), String> {
    // Core dumps and other processes of the same user must not see key memory.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| format!("the process cannot be made undumpable: {error}"))?;
    executor::check_io_uring()?;
    uring::check()?;
    threads::check(config.shards)?;
    say_what_was_found(config, machine);
    warn_of_overflow_uid();
    Ok(())
}

fn warn_of_overflow_uid() {
    let own = rustix::process::geteuid().as_raw();
    if *peer::OVERFLOW_UID == Some(own) {
        tracing::warn!(
            uid = own,
            "the server's user stands for every user that has no number in this user namespace, so it is anonymous on \
             the Unix socket, and root alone operates the server: run it as another user"
        );
    }
}

/// Bytes that a small key takes in an arena, of which a quarter stays free for what is being loaded.
const SMALL_KEY_BYTES: usize = 256;

fn say_what_was_found(config: &Config, machine: &Machine) {
    let limit = |limit: Option<String>| limit.unwrap_or_else(|| "none".to_owned());
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let keys = (config.limits.arena_bytes / 4 * 3 / SMALL_KEY_BYTES).min(config.limits.keys_max);
    tracing::info!(
        cores = machine.cores.len(),
        cpu_quota = limit(machine.cpu_quota.map(|quota| format!("{quota:.2}"))),
        memory = limit(machine.memory_bytes.map(mib)),
        locked_memory = limit(machine.locked_bytes_max.map(mib)),
        open_files = machine.descriptors_max,
        shards = config.shards,
        arena_per_shard = mib(config.limits.arena_bytes as u64),
        connections_per_shard = config.limits.connections_max,
        "what the machine allows and what is used of it: room for about {} small keys in memory",
        keys * usize::from(config.shards)
    );
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
    let shared = reserve(config.listeners.tcp, &mut held)?;
    let mut own = Vec::new();
    for shard in 0..config.shards {
        let port = if config.listeners.tcp.port() == 0 {
            0
        } else {
            config.listeners.tcp.port() + 1 + shard
        };
        own.push(reserve(SocketAddr::new(shared.ip(), port), &mut held)?.port());
    }
    Ok(Ports { shared, own, held })
}

/// Returns the address with its real port. The listeners of a server that has just stopped outlive it for some ms, until
/// the kernel has released its rings: so this waits briefly for a port that is in use.
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
        let flag = "--listen";
        format!(
            "cannot listen on {address}: {}",
            explain(&error, Attempt::Listen { address, flag })
        )
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
