//! One GET to the server's metrics port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::error::{Context, Result};

const TIME_LIMIT: Duration = Duration::from_secs(5);
const BODY_LEN_MAX: u64 = 64 << 20;

/// The status code and the body of `GET path`.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let what = || format!("GET http://{address}{path}");
    let mut stream = TcpStream::connect_timeout(&address, TIME_LIMIT).context(what)?;
    stream.set_read_timeout(Some(TIME_LIMIT)).context(what)?;
    stream.set_write_timeout(Some(TIME_LIMIT)).context(what)?;
    // HTTP/1.0: the body ends where the connection does, and is never sent in chunks.
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .context(what)?;
    let mut answer = String::new();
    stream
        .take(BODY_LEN_MAX)
        .read_to_string(&mut answer)
        .context(what)?;
    parse(&answer).ok_or_else(|| format!("{}: the answer is not HTTP", what()).into())
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_told_apart() {
        let answer = "HTTP/1.0 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n";
        assert_eq!(parse(answer), Some((503, "no\n".into())));
        assert_eq!(parse("SSH-2.0\r\n\r\n"), None);
    }
}
