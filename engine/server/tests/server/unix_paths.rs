//! `--unix` never replaces another file. The fault: whatever was at the path was deleted, be it a file or the socket of a
//! running server.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use crate::common::{Setup, wait_until};

#[test]
fn a_path_that_answers_or_is_no_socket_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("same.sock");
    let at = |data: &str, path: &std::path::Path| {
        let setup = Setup::new(&dir.path().join(data)).shards(1);
        setup.flag("--unix").flag(path.to_str().unwrap())
    };
    let first = at("first", &path).start();
    let refused = at("second", &path).refused();
    assert!(refused.contains("another process listens on"), "{refused}");
    first.unix_client().keyspace_list().unwrap();
    // Not the main path, but that of the first server's shard.
    let refused = at("third", &dir.path().join("same.sock.0")).refused();
    assert!(refused.contains("another process listens on"), "{refused}");
    first.unix_client().keyspace_list().unwrap();

    let file = dir.path().join("precious");
    std::fs::write(&file, "do not delete").unwrap();
    let refused = at("fourth", &file).refused();
    assert!(refused.contains("is not a socket"), "{refused}");
    assert_eq!(std::fs::read(&file).unwrap(), b"do not delete");

    // A server that is gone has left its sockets, which the next one replaces.
    first.kill();
    assert!(path.exists());
    wait_until("the kernel", crate::common::WITHIN, || {
        std::os::unix::net::UnixStream::connect(&path).is_err()
    });
    let second = at("second", &path).start();
    second.unix_client().keyspace_list().unwrap();
}
