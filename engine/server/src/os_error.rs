//! What an error of the operating system means at the start, with the remedy where a limit was reached.

use std::io;

/// Returns the error's text, followed by the remedy if there is one.
pub fn explain(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EAGAIN) => {
            "the limit of processes and threads is reached; raise it (TasksMax=, ulimit -u, the container's \
             limit of pids)"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "the limit of open files is reached; raise it (LimitNOFILE=, ulimit -n)"
        }
        Some(libc::EACCES) => {
            "a port below 1024 takes a capability (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE; in a \
             container: NET_BIND_SERVICE); use --listen or --metrics with another one"
        }
        Some(libc::EADDRNOTAVAIL) => {
            "no interface of this machine has that address; use --listen or --metrics with one that it has"
        }
        Some(libc::EADDRINUSE) => "is another server running? use --listen or --metrics",
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}
