//! Which process is at the other end of a Unix socket.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::LazyLock;

use rustix::process::Pid;

/// What the kernel noted of a process when it connected or began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user. `None`: the user namespace of this process may have no number for it.
    pub uid: Option<u32>,
    /// `None`: it is in a PID namespace that this process does not see, as in another container.
    pub pid: Option<Pid>,
}

/// Asks the kernel. rustix has this call too, but reads a process without a number as an error.
///
/// # Errors
/// The kernel's, if it is no connected Unix socket.
pub fn of(socket: impl AsFd) -> io::Result<Peer> {
    let mut found = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut len = mem::size_of_val(&found) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed for the call, which writes `len` bytes at most, the size of `found`, of which any
    // content is valid.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut len,
        )
    };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer {
        uid: Some(found.uid).filter(|uid| Some(*uid) != *OVERFLOW_UID),
        pid: Pid::from_raw(found.pid),
    })
}

/// The number that stands for every user without one in the user namespace of this process; `None`: all have one.
pub static OVERFLOW_UID: LazyLock<Option<u32>> = LazyLock::new(|| {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    overflow_uid(&map, &overflow)
});

/// The kernel's default, from `include/linux/highuid.h`.
const OVERFLOW_UID_DEFAULT: u32 = 65_534;

fn overflow_uid(map: &str, overflow: &str) -> Option<u32> {
    // The initial namespace maps every number, to itself.
    let is_whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    (!is_whole).then(|| overflow.trim().parse().unwrap_or(OVERFLOW_UID_DEFAULT))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn both_ends_of_a_pair_are_this_process() {
        let (one, other) = UnixStream::pair().unwrap();
        let peer = Peer {
            uid: Some(rustix::process::geteuid().as_raw()),
            pid: Some(rustix::process::getpid()),
        };
        assert_eq!(of(&one).unwrap(), peer);
        assert_eq!(of(&other).unwrap(), peer);
    }

    /// The kernel answers with the user `u32::MAX`, that is, with no process.
    #[test]
    fn a_tcp_socket_has_nobody_at_the_other_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = of(&stream);
        assert!(
            peer.is_err()
                || peer.is_ok_and(|peer| peer.uid == Some(u32::MAX) && peer.pid.is_none())
        );
    }

    #[test]
    fn every_user_has_a_number_in_the_initial_namespace_alone() {
        assert_eq!(
            overflow_uid("         0          0 4294967295\n", "65534\n"),
            None
        );
        let pod = "         0     100000      65536\n";
        assert_eq!(overflow_uid(pod, "65534\n"), Some(65_534));
        assert_eq!(overflow_uid(pod, "65533\n"), Some(65_533));
        assert_eq!(overflow_uid("0 0 1\n1 1 4294967294\n", ""), Some(65_534));
        assert_eq!(overflow_uid("", ""), Some(65_534));
    }
}
