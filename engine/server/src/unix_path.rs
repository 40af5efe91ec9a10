//! Paths of Unix sockets: where they are, and that one in use is never taken.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How long a start waits for a socket that answers, and between two checks. The sockets of a server that has ended answer
/// for some ms more, on a busy machine for longer, until the kernel has released its rings.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
const ANSWER_WAIT_STEP: Duration = Duration::from_millis(20);

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
    match connect_until_refused(path) {
        // No process listens there.
        Err(Errno::CONNREFUSED) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        // Of one with a full queue, too: the socket does not wait.
        Ok(()) | Err(Errno::AGAIN) => Err(format!(
            "another process listens on {shown}; stop it, or use another --unix"
        )),
        Err(error) => Err(format!(
            "cannot tell whether another process listens on {shown} ({error}); stop it, or use \
             another --unix"
        )),
    }
}

/// Connects until no process listens, or until a start stops waiting for that. Returns the last answer.
fn connect_until_refused(path: &Path) -> Result<(), Errno> {
    let began = Instant::now();
    loop {
        let answer = connect(path);
        let answers = matches!(answer, Ok(()) | Err(Errno::AGAIN));
        if !answers || began.elapsed() >= ANSWER_WAIT_MAX {
            return answer;
        }
        std::thread::sleep(ANSWER_WAIT_STEP);
    }
}

fn connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

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
