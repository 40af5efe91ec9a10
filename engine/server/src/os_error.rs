//! What an error of the operating system means at the start, with the remedy where a limit was reached.

use std::io;
use std::net::SocketAddr;

/// What was attempted. The same error has another cause, and another remedy, for each.
#[derive(Clone, Copy, Debug)]
pub enum Attempt {
    /// Listening on this address, which an option names.
    Listen {
        /// The address.
        address: SocketAddr,
        /// The option, as `--listen`.
        flag: &'static str,
    },
    /// Creating a Unix socket at the path of `--unix`.
    Socket,
    /// Starting a thread, or what an executor needs.
    Thread,
}

/// The lowest port that every process may listen on, unless the machine is configured otherwise.
const UNPRIVILEGED_PORT_MIN: u16 = 1024;

/// Returns the error's text, followed by the remedy if there is one.
pub fn explain(error: &io::Error, attempt: Attempt) -> String {
    match remedy(error, attempt) {
        Some(remedy) => format!("{error}; {remedy}"),
        None => error.to_string(),
    }
}

fn remedy(error: &io::Error, attempt: Attempt) -> Option<String> {
    let code = error.raw_os_error()?;
    if matches!(code, libc::EMFILE | libc::ENFILE) {
        return Some(
            "the limit of open files is reached; raise it (LimitNOFILE=, ulimit -n)".into(),
        );
    }
    match (attempt, code) {
        (Attempt::Thread, libc::EAGAIN) => Some(
            "the limit of processes and threads is reached; raise it (TasksMax=, ulimit -u, the container's \
             limit of pids)"
                .into(),
        ),
        (Attempt::Listen { address, flag }, libc::EACCES)
            if address.port() < UNPRIVILEGED_PORT_MIN =>
        {
            Some(format!(
                "a port below {UNPRIVILEGED_PORT_MIN} takes a capability; grant it (systemd: \
                 AmbientCapabilities=CAP_NET_BIND_SERVICE; in a container: NET_BIND_SERVICE), or use {flag} with \
                 another port"
            ))
        }
        (Attempt::Listen { flag, .. }, libc::EACCES | libc::EPERM) => Some(format!(
            "the machine forbids this port; allow it (SELinux, AppArmor, the unit's SocketBindAllow=), or use {flag} \
             with another port"
        )),
        (Attempt::Listen { flag, .. }, libc::EADDRNOTAVAIL) => Some(format!(
            "no interface of this machine has that address; use {flag} with one that it has"
        )),
        (Attempt::Listen { flag, .. }, libc::EADDRINUSE) => Some(format!(
            "is another server running? stop it, or use {flag} with another port"
        )),
        (Attempt::Socket, libc::EACCES | libc::EPERM) => Some(
            "the server's user may not create files there; give it access to the directory, or use another --unix"
                .into(),
        ),
        (Attempt::Socket, libc::ENOENT) => {
            Some("there is no such directory; create it, or use another --unix".into())
        }
        (Attempt::Socket, libc::EROFS) => Some(
            "the file system is read-only; use a --unix where files can be written, as in /run/keyway/keyway.sock"
                .into(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fault: EACCES was answered with the remedy for a low port, whatever was attempted.
    #[test]
    fn the_same_error_has_the_remedy_of_what_was_attempted() {
        let listen = |port| Attempt::Listen {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            flag: "--metrics",
        };
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        let low = explain(&denied, listen(80));
        assert!(
            low.contains("CAP_NET_BIND_SERVICE") && low.contains("--metrics"),
            "{low}"
        );
        for (attempt, told) in [
            (listen(9420), "SocketBindAllow="),
            (Attempt::Socket, "access to the directory"),
        ] {
            let text = explain(&denied, attempt);
            assert!(text.contains(told), "{attempt:?}: {text}");
            assert!(!text.contains("CAP_NET_BIND_SERVICE"), "{text}");
        }
        assert_eq!(explain(&denied, Attempt::Thread), denied.to_string());
        let busy = io::Error::from_raw_os_error(libc::EAGAIN);
        assert!(explain(&busy, Attempt::Thread).contains("TasksMax="));
        assert_eq!(explain(&busy, listen(9420)), busy.to_string());
    }
}
