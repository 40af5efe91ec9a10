//! The metrics port is bounded and answers to its own names. The faults: 300 half-open HTTP requests exhausted the
//! server's descriptors, so that LOCK failed; and a web page whose name was bound to this machine's address could read
//! the live page's document.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::bounds::read_to_end;
use crate::common::{Server, Setup};

/// Time limit for a machine that builds concurrently.
const WITHIN: Duration = crate::common::WITHIN;
const HALF_OPEN: usize = 300;
/// The port's connections, and those that open and close during the test.
const DESCRIPTORS_MORE_MAX: usize = 48;

fn descriptors(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.endpoints["metrics"].as_str().unwrap()).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream
}

/// Returns the port's answer to these bytes: the complete text, to the connection's end.
fn asked(server: &Server, request: &str) -> String {
    let mut stream = connect(server);
    stream.write_all(request.as_bytes()).unwrap();
    String::from_utf8(read_to_end(&mut stream)).unwrap()
}

#[test]
fn half_open_requests_take_a_few_places_and_give_them_up() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let before = descriptors(&server);
    let mut half_open: Vec<TcpStream> = (0..HALF_OPEN)
        .map(|_| {
            let mut stream = connect(&server);
            let head = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ";
            // It may already have been refused.
            let _ = stream.write_all(head);
            stream
        })
        .collect();
    // Answered in the middle of it, and after the port has seen all of them.
    let (status, _) = server.http("/healthz");
    assert!(status.contains("200"), "{status}");
    let more = descriptors(&server).saturating_sub(before);
    assert!(more <= DESCRIPTORS_MORE_MAX, "{more} descriptors more");
    server.client().keyspace_list().unwrap();
    for stream in &mut half_open {
        let mut end = read_to_end(stream);
        end.truncate(12);
        let end = String::from_utf8_lossy(&end).into_owned();
        assert!(
            ["", "HTTP/1.1 503", "HTTP/1.1 408"].contains(&end.as_str()),
            "{end}"
        );
    }
}

#[test]
fn only_its_own_names_are_answered() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let setup = setup.flag("--metrics-host").flag("keyway.example");
    let server = setup.start();
    let status_for = |path: &str, host: &str| {
        let text = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        let answer = asked(&server, &text);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].to_owned(), body.to_owned())
    };
    for path in ["/", "/live.json", "/metrics", "/healthz"] {
        for host in [
            "localhost",
            "127.0.0.1:9420",
            "[::1]",
            "keyway.example:9420",
        ] {
            let (status, body) = status_for(path, &format!("Host: {host}\r\n"));
            assert_eq!(status, "200", "{path} {host}: {body}");
        }
        for host in ["attacker.example:9420", "127.0.0.1.attacker.example"] {
            let (status, body) = status_for(path, &format!("Host: {host}\r\n"));
            assert_eq!(status, "421", "{path} {host}: {body}");
            assert!(
                body.contains("--metrics-host") && body.len() < 300,
                "{body}"
            );
        }
        assert_eq!(status_for(path, "").0, "400");
        let two = "Host: localhost\r\nHost: attacker.example\r\n";
        assert_eq!(status_for(path, two).0, "400");
    }
    let absolute = "http://attacker.example/live.json";
    assert_eq!(status_for(absolute, "Host: localhost\r\n").0, "421");
}

#[test]
fn what_it_does_not_serve_has_a_clear_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let long = "x".repeat(20_000);
    let many: String = (0..200).map(|i| format!("X-{i}: 1\r\n")).collect();
    let host = "Host: localhost\r\n";
    for (request, status) in [
        (
            format!("GET /no HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
            "404",
        ),
        (
            format!("DELETE /metrics HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
            "405",
        ),
        (
            format!(
                "POST /metrics HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: 3\r\n\r\nabc"
            ),
            "413",
        ),
        (
            format!("GET /metrics HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
            "431",
        ),
        (format!("GET /metrics HTTP/1.1\r\n{host}{many}\r\n"), "431"),
    ] {
        let answer = asked(&server, &request);
        assert_eq!(answer.get(9..12), Some(status), "{answer:.200}");
    }
}
