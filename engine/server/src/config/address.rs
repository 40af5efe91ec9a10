//! Addresses to listen on, as people write them.

use std::net::{Ipv4Addr, SocketAddr};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// Reads `ADDR:PORT`. `localhost` is 127.0.0.1; other names are not looked up, since they may mean several addresses.
///
/// Errors: what was seen, and what to write instead.
pub(super) fn parse(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let example = "an IP address and a port are needed, as 127.0.0.1:7420 or [::1]:7420";
    let Some((host, port)) = text.rsplit_once(':').filter(|_| !is_bare_v6(text)) else {
        return Err(match text.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V6(address)) => {
                format!("there is no port: {example}; write [{address}]:PORT")
            }
            Ok(address) => format!("there is no port: {example}; write {address}:PORT"),
            Err(_) => example.to_owned(),
        });
    };
    let Ok(port) = port.parse::<u16>() else {
        return Err(format!("the port is a number of 0 to 65535: {example}"));
    };
    match host {
        "localhost" => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        "" | "*" => Err(format!(
            "the address is missing: {example}; write 0.0.0.0:{port} or [::]:{port} for all addresses"
        )),
        host if host.parse::<std::net::Ipv6Addr>().is_ok() => Err(format!(
            "an IPv6 address needs brackets; write [{host}]:{port}"
        )),
        _ => Err(format!(
            "names are not looked up, except localhost: {example}; write an address that getent hosts NAME shows"
        )),
    }
}

/// An IPv6 address without a port: its last group could pass for one.
fn is_bare_v6(text: &str) -> bool {
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// For the file.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_the_loopback_address() {
        for text in ["127.0.0.1:7420", "localhost:7420"] {
            assert_eq!(parse(text).unwrap().to_string(), "127.0.0.1:7420");
        }
        assert_eq!(parse("[::1]:7420").unwrap().to_string(), "[::1]:7420");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for (text, told) in [
            ("127.0.0.1", "write 127.0.0.1:PORT"),
            ("::1", "write [::1]:PORT"),
            (":7420", "0.0.0.0:7420"),
            ("*:7420", "[::]:7420"),
            ("7420", "as 127.0.0.1:7420"),
            ("keyway.example:7420", "getent hosts NAME"),
            ("127.0.0.1:http", "the port is a number"),
            ("127.0.0.1:70000", "the port is a number"),
            ("fe80::1:2:7420", "write [fe80::1:2:7420]:PORT"),
            (
                "::ffff:1:2:3:4:5:6:7420",
                "needs brackets; write [::ffff:1:2:3:4:5:6]:7420",
            ),
            ("tcp://127.0.0.1:7420", "as 127.0.0.1:7420"),
            ("", "as 127.0.0.1:7420"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
