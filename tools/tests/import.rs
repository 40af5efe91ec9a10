//! Bulk import against a server that speaks the real codec, one that goes away included.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::process::Output;

use support::{Server, State};

const KEY_COUNT: u32 = 500;

fn lines(count: u32) -> String {
    let mut lines = String::new();
    for index in 0..count {
        writeln!(
            lines,
            r#"{{"id":"k{index}","alg":"hmac-sha256","key":"AAEC"}}"#
        )
        .unwrap();
    }
    lines
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn a_directory_and_a_file_of_lines_are_imported() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    for name in ["alice.pem", "bob.der"] {
        fs::write(folder.path().join(name), "key").unwrap();
    }
    let args = format!("import prod --dir {}", folder.path().display());
    let output = server.keyway(&args);
    assert_eq!(text(&output.stdout), "prod: 2 keys imported\n");
    let ids: Vec<String> = server.state.lock().unwrap().keys.keys().cloned().collect();
    assert_eq!(ids, ["alice", "bob"]);

    let input = lines(KEY_COUNT);
    let output = server.keyway_with("import prod --ndjson - --json", input.as_bytes());
    assert_eq!(
        text(&output.stdout),
        "{\"complete\":true,\"existing\":0,\"failed\":0,\"imported\":500,\"keyspace\":\"prod\"}\n"
    );
    assert_eq!(code(&output), 0);
}

#[test]
fn an_import_taken_up_again_passes_over_what_is_there_if_told_so() {
    let server = Server::start();
    let import = |args: &str, count| {
        let args = format!("import prod --ndjson -{args}");
        server.keyway_with(&args, lines(count).as_bytes())
    };
    assert_eq!(code(&import("", 3)), 0);
    let again = import("", 4);
    assert_eq!(code(&again), 1);
    assert_eq!(text(&again.stdout), "prod: 1 key imported, 3 failed\n");
    assert!(text(&again.stderr).contains("line 1: CONFLICT"));
    let again = import(" --skip-existing", 5);
    assert_eq!(code(&again), 0);
    let summary = "prod: 1 key imported, 4 there already and not compared\n";
    assert_eq!(text(&again.stdout), summary);
}

/// With `--skip-existing` one of two different keys was counted as "there already", and the exit
/// code was 0.
#[test]
fn two_files_that_make_one_key_id_are_told_by_their_names() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    for (name, key) in [("tls.key", "one"), ("tls.pem", "another"), ("x.pem", "x")] {
        fs::write(folder.path().join(name), key).unwrap();
    }
    let args = format!(
        "import prod --skip-existing --dir {}",
        folder.path().display()
    );
    // The second time both are there already, and still only one of them is the key.
    for (imported, existing) in [
        ("2 keys imported", ""),
        ("0 keys imported", ", 2 there already and not compared"),
    ] {
        let output = server.keyway(&args);
        assert_eq!(code(&output), 1);
        let summary = format!("prod: {imported}{existing}, 1 failed\n");
        assert_eq!(text(&output.stdout), summary);
        let told = "keyway: tls: tls.key and tls.pem make the same key id, and only tls.key is the key now";
        assert!(
            text(&output.stderr).contains(told),
            "{}",
            text(&output.stderr)
        );
    }
    let line = "{\"id\":\"t\",\"key\":\"AAEC\"}\n";
    let input = format!("{line}{}{line}", line.replace("\"t\"", "\"u\""));
    let output = server.keyway_with("import prod --ndjson - --skip-existing", input.as_bytes());
    assert_eq!(code(&output), 1);
    assert_eq!(text(&output.stdout), "prod: 2 keys imported, 1 failed\n");
    assert!(text(&output.stderr).contains("keyway: line 1 and line 3 make the same key id"));
    // The server may have the second first.
    let input = line.replace("\"t\"", "\"overtaken\"").repeat(2);
    let output = server.keyway_with("import prod --ndjson - --skip-existing", input.as_bytes());
    assert_eq!(code(&output), 1);
    let told = "keyway: line 2 and line 1 make the same key id, and only line 2 is the key now";
    assert!(text(&output.stderr).contains(told));
}

#[test]
fn a_key_that_is_refused_does_not_hold_up_the_others() {
    let server = Server::start();
    let input = "{\"id\":\"a\",\"key\":\"AAEC\"}\nnonsense\n{\"id\":\"b\",\"key\":\"YmFk\"}\n\
                 {\"id\":\"c\",\"key\":\"AAEC\"}\n";
    let output = server.keyway_with("import prod --ndjson - --window 1", input.as_bytes());
    assert_eq!(code(&output), 1);
    let summary = "prod: 2 keys imported, 2 failed\n";
    assert_eq!(text(&output.stdout), summary);
    let told = text(&output.stderr);
    assert!(told.contains("standard input line 2"), "{told}");
    assert!(told.contains("keyway: line 3: BAD_REQUEST"), "{told}");
}

#[test]
fn a_locked_keyspace_ends_the_import_with_the_way_to_unlock_it() {
    let server = Server::start();
    let input = "{\"id\":\"locked\",\"key\":\"AAEC\"}\n";
    let output = server.keyway_with("import prod --ndjson -", input.as_bytes());
    assert_eq!(code(&output), 4);
    assert_eq!(text(&output.stdout), "prod: 0 keys imported\n");
    assert!(text(&output.stderr).contains("`keyway unlock prod --wait`"));
}

#[test]
fn every_acknowledged_key_is_in_the_file_when_the_server_goes_away() {
    // So long is tried to reach the server again; on a slow machine the imports before need more.
    let mut timeouts = ["500ms", "5s", "50s"].into_iter();
    assert!(timeouts.any(is_every_acknowledged_key_in_the_file));
}

/// Returns false if the time was over before the server went away.
fn is_every_acknowledged_key_in_the_file(timeout: &str) -> bool {
    let server = Server::with(State {
        imports_left: Some(137),
        ..State::default()
    });
    let folder = tempfile::tempdir().unwrap();
    let acked = folder.path().join("acked");
    fs::write(&acked, "from-before\n").unwrap();
    let args = format!(
        "import prod --ndjson - --timeout {timeout} --acked {}",
        acked.display()
    );
    let output = server.keyway_with(&args, lines(KEY_COUNT).as_bytes());
    assert_eq!(code(&output), 3, "{}", text(&output.stderr));
    let acked = fs::read_to_string(acked).unwrap();
    let acked: BTreeSet<&str> = acked.lines().collect();
    assert!(acked.contains("from-before"));
    // Acknowledgements may be lost with the connection, but none may be made up.
    let state = server.state.lock().unwrap();
    let held: BTreeSet<&str> = state.keys.keys().map(String::as_str).collect();
    if held.len() < 137 {
        return false;
    }
    assert_eq!(held.len(), 137);
    let invented = acked.difference(&held).count();
    assert_eq!(invented, 1, "only the line from before");
    let summary = format!("prod: {} keys imported\n", acked.len() - 1);
    assert_eq!(text(&output.stdout), summary);
    true
}
