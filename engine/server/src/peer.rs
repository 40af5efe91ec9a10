//! Which process is at the other end of a Unix socket.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

use rustix::process::Pid;

/// What the kernel noted of a process when it connected or began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
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
        uid: found.uid,
        pid: Pid::from_raw(found.pid),
    })
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
            uid: rustix::process::geteuid().as_raw(),
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
        assert!(peer.is_err() || peer.is_ok_and(|peer| peer.uid == u32::MAX && peer.pid.is_none()));
    }
}
