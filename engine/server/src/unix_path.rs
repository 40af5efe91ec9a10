//! Paths of Unix sockets: where they are, and that one in use is never taken.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{self, Pid};

use crate::peer;

/// How long a start waits for a socket that answers. The process may be about to end, or be in another PID namespace.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// As [`ANSWER_WAIT_MAX`], if the process has ended: its sockets answer for some ms more, on a busy machine for seconds,
/// until the kernel has released its rings.
const RELEASE_WAIT_MAX: Duration = Duration::from_secs(60);
const WAIT_STEP: Duration = Duration::from_millis(20);
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Bytes of a socket's path, at most: `sun_path` without its end mark.
const PATH_LEN_MAX: usize = 107;

/// The Unix socket of one shard.
pub fn of_shard(shared: &Path, index: u16) -> PathBuf {
    let mut name = shared.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

/// Checks every path that a server with so many shards listens on, and takes none yet.
///
/// Errors: a path is too long, is no socket, or answers; the text has the remedy.
pub fn check(shared: &Path, shards: u16) -> Result<(), String> {
    let own = (0..shards).map(|shard| of_shard(shared, shard));
    own.chain([shared.to_owned()])
        .try_for_each(|path| is_left_behind(&path).map(|_| ()))
}

/// Removes the socket that a server which is gone left at `path`.
///
/// Errors: as [`check`], or it cannot be removed.
pub fn make_free(path: &Path) -> Result<(), String> {
    if is_left_behind(path)? {
        std::fs::remove_file(path).map_err(|error| {
            format!(
                "cannot remove the socket {} of an earlier server: {error}; remove it, or use \
                 another --unix",
                path.display()
            )
        })?;
    }
    Ok(())
}

/// Returns `true` if there is a socket on which no process listens.
fn is_left_behind(path: &Path) -> Result<bool, String> {
    let shown = path.display();
    let len = path.as_os_str().len();
    if len > PATH_LEN_MAX {
        return Err(format!(
            "the socket's path {shown} has {len} bytes, and the system allows {PATH_LEN_MAX}; use \
             a shorter --unix, as in --unix /run/keyway/keyway.sock"
        ));
    }
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => {
            return Err(format!(
                "cannot look at {shown}: {error}; give the server's user access to it, or use \
                 another --unix"
            ));
        }
    };
    if !found.file_type().is_socket() {
        return Err(format!(
            "{shown} is there and is not a socket: it is left as it is; move it away, or use \
             another --unix"
        ));
    }
    match wait_until_silent(path) {
        // No process listens there.
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Ok(Listener::Ended(pid)) => Err(format!(
            "{shown} still answers {} s after process {pid}, which listened there, has ended; start again, or use another \
             --unix",
            RELEASE_WAIT_MAX.as_secs()
        )),
        // Of one with a full queue, too: the socket does not wait.
        Ok(Listener::Running) | Err(Errno::AGAIN) => Err(format!(
            "another process listens on {shown}; stop it, or use another --unix"
        )),
        Err(error) => Err(format!(
            "cannot tell whether another process listens on {shown} ({error}); stop it, or use \
             another --unix"
        )),
    }
}

/// Who listens on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listener {
    /// A process, or it is not known.
    Running,
    /// A process that has ended.
    Ended(Pid),
}

/// Waits until no process listens, or until a start waits no longer. Returns the last answer.
fn wait_until_silent(path: &Path) -> Result<Listener, Errno> {
    let began = Instant::now();
    let mut shown_at = began;
    let mut ended = None;
    loop {
        let answer = match (connect(path), ended) {
            // These connections have filled its queue.
            (Err(Errno::AGAIN), Some(pid)) => Ok(Listener::Ended(pid)),
            (answer, _) => answer,
        };
        let wait_max = match answer {
            Ok(Listener::Ended(pid)) => {
                ended = Some(pid);
                RELEASE_WAIT_MAX
            }
            Ok(Listener::Running) | Err(Errno::AGAIN) => ANSWER_WAIT_MAX,
            Err(_) => return answer,
        };
        if began.elapsed() >= wait_max {
            return answer;
        }
        if let Some(pid) = ended.filter(|_| shown_at.elapsed() >= PROGRESS_EVERY) {
            shown_at = Instant::now();
            let (path, pid) = (path.display(), pid.as_raw_pid());
            tracing::info!(%path, pid, "waiting for the kernel to close a socket of a process that has ended");
        }
        std::thread::sleep(WAIT_STEP);
    }
}

fn connect(path: &Path) -> Result<Listener, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let pid = peer::of(&socket).ok().and_then(|peer| peer.pid);
    let has_ended = |pid: &Pid| process::test_kill_process(*pid) == Err(Errno::SRCH);
    Ok(pid
        .filter(has_ended)
        .map_or(Listener::Running, Listener::Ended))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    /// The kernel releases the rings of an ended process later, and their sockets with them.
    #[test]
    fn a_start_waits_for_the_socket_of_a_process_that_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        // This process keeps the socket on which that one began to listen.
        let listens = Command::new("python3")
            .args(["-c", "import socket; socket.socket(fileno=0).listen()"])
            .stdin(socket.try_clone().unwrap())
            .status();
        assert!(listens.unwrap().success());
        let answer = connect(&path);
        assert!(matches!(answer, Ok(Listener::Ended(_))), "{answer:?}");
        let releases = std::thread::spawn(move || {
            std::thread::sleep(ANSWER_WAIT_MAX + Duration::from_secs(1));
            drop(socket);
        });
        make_free(&path).unwrap();
        assert!(!path.exists());
        releases.join().unwrap();
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        make_free(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        assert!(make_free(&path).unwrap_err().contains("another process"));
        assert!(check(&path, 1).is_err() && path.exists());
        drop(listener);
        check(&path, 1).unwrap();
        assert!(path.exists(), "a check removes nothing");
        make_free(&path).unwrap();
        assert!(!path.exists());

        std::fs::write(&path, "precious").unwrap();
        assert!(make_free(&path).unwrap_err().contains("not a socket"));
        let link = dir.path().join("b.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(make_free(&link).unwrap_err().contains("not a socket"));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = dir.path().join("x".repeat(120));
        assert!(check(&long, 1).unwrap_err().contains("107"));
    }

    /// A server was stopped and started again at once, and refused its own sockets: the old one's rings still held them.
    #[test]
    fn a_socket_whose_listener_is_about_to_go_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                // After the first check, at the latest when a client has connected.
                let _ = listener.accept();
            });
            check(&path, 1).unwrap();
        });
    }
}
