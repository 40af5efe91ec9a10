//! Where a server listens.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fmt, io};

use crate::Error;

/// Where a server listens: `host:port`, `[::1]:port` or `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP: the host's name or address, and the port that reaches any shard.
    Tcp {
        /// The host, without brackets.
        host: String,
        /// The port that reaches any shard.
        port: u16,
    },
    /// A Unix socket that reaches any shard; shard `i` has the same path with `.i` behind it.
    Unix(PathBuf),
}

impl Address {
    /// Where shard `index` listens, given its TCP port from the shard map. `None` if it has no
    /// listener of its own.
    pub(crate) fn of_shard(&self, index: u16, tcp_port: u16) -> Option<Self> {
        match self {
            Self::Tcp { .. } if tcp_port == 0 => None,
            Self::Tcp { host, .. } => Some(Self::Tcp {
                host: host.clone(),
                port: tcp_port,
            }),
            Self::Unix(path) => {
                let mut path = path.clone().into_os_string();
                path.push(format!(".{index}"));
                Some(Self::Unix(path.into()))
            }
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() {
                return Err(bad(text));
            }
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| bad(text))?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        match port.parse() {
            // A slash: it is a URL.
            Ok(port) if !host.is_empty() && !host.contains('/') && port != 0 => Ok(Self::Tcp {
                host: host.to_owned(),
                port,
            }),
            _ => Err(bad(text)),
        }
    }
}

/// The longest path of a Unix socket, in bytes: the kernel's structure has 108 with the final zero.
const UNIX_PATH_LEN_MAX: usize = 107;

/// Refuses a path that the kernel would refuse without a word about which limit it is.
pub(crate) fn check_unix_path(path: &Path) -> io::Result<()> {
    match path.as_os_str().len() {
        0..=UNIX_PATH_LEN_MAX => Ok(()),
        len => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the path of a Unix socket has at most {UNIX_PATH_LEN_MAX} bytes, and this one has \
                 {len}: name it from a working directory nearer to it, or by a symbolic link"
            ),
        )),
    }
}

fn bad(text: &str) -> Error {
    Error::Address {
        text: text.to_owned(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "path must be shorter than SUN_LEN" was all that was said.
    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_told_with_its_limit() {
        let path = |len| PathBuf::from("x".repeat(len));
        assert!(check_unix_path(&path(UNIX_PATH_LEN_MAX)).is_ok());
        let error = check_unix_path(&path(UNIX_PATH_LEN_MAX + 1)).unwrap_err();
        let words = error.to_string();
        assert!(words.contains("107 bytes, and this one has 108"), "{words}");
    }

    #[test]
    fn addresses_are_read_and_written() {
        for text in [
            "127.0.0.1:7420",
            "[::1]:7420",
            "keys.example:1",
            "unix:/k.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "7420",
            "host",
            "host:",
            ":7420",
            "host:0",
            "host:x",
            "unix:",
            "http://127.0.0.1:7420",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_shard_has_a_port_or_a_socket_of_its_own() {
        let tcp: Address = "127.0.0.1:7420".parse().unwrap();
        assert_eq!(tcp.of_shard(3, 7424).unwrap().to_string(), "127.0.0.1:7424");
        assert_eq!(tcp.of_shard(3, 0), None);
        let unix: Address = "unix:/k.sock".parse().unwrap();
        assert_eq!(unix.of_shard(3, 0).unwrap().to_string(), "unix:/k.sock.3");
    }
}
