//! Commands that draw on a terminal, on a pseudo-terminal of `script`.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::server::{Server, Way};

/// How long a command may take until it has drawn: only a hang takes as long.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs the command on a terminal, types `q` once `until` has been drawn, and returns all that was drawn.
fn drawn(server: &Server, line: &str, until: &str) -> Option<Vec<u8>> {
    let keyway = env!("CARGO_BIN_EXE_keyway");
    let line = format!("stty cols 200 rows 60; {keyway} {line} --timeout 5m");
    let mut command = Command::new("script");
    command
        .args(["-qec", &line, "/dev/null"])
        .env("KEYWAY_ADDR", &server.addr)
        .env("TERM", "xterm");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else {
        eprintln!("SKIPPED: no script command, so nothing was drawn");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let (sender, chunks) = mpsc::channel();
    thread::spawn(move || {
        let mut chunk = [0; 4_096];
        while let Ok(len @ 1..) = stdout.read(&mut chunk) {
            let _ = sender.send(chunk[..len].to_vec());
        }
    });
    let mut all = Vec::new();
    let mut is_typed = false;
    while let Ok(chunk) = chunks.recv_timeout(PATIENCE) {
        all.extend(chunk);
        if !is_typed && String::from_utf8_lossy(&all).contains(until) {
            // Commands that end without it may have ended.
            let _ = stdin.write_all(b"q");
            is_typed = true;
        }
    }
    drop(stdin);
    let _ = child.kill();
    child.wait().unwrap();
    assert!(
        is_typed,
        "{until:?} was not drawn: {:?}",
        String::from_utf8_lossy(&all)
    );
    Some(all)
}

#[test]
fn what_is_drawn_on_a_terminal_has_no_sequence_of_the_servers() {
    let server = Server::start();
    server.behave(Way::Full);
    for (line, until) in [
        ("top --interval 100ms", "FORWARDS/S"),
        ("doctor --duration 2s", "status documents"),
        ("unlock prod --wait=2s", "still pending"),
        ("status", "STORED KEYS"),
    ] {
        let Some(drawn) = drawn(&server, line, until) else {
            return;
        };
        let text = String::from_utf8(drawn).unwrap();
        // The program itself moves the cursor and sets styles; it does none of these.
        let bad = [
            '\u{7}',
            '\u{8}',
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{200b}',
            '\u{202e}',
            '\u{2028}',
            '\u{e0041}',
        ];
        let found: Vec<char> = bad
            .into_iter()
            .filter(|char| text.contains(*char))
            .collect();
        assert!(found.is_empty(), "{line}: {found:?} in {text:?}");
        assert!(!text.contains("\u{1b}]"), "{line}: {text:?}");
        assert!(
            text.contains("\\u{202e}"),
            "{line}: the server's text is not there: {text:?}"
        );
    }
}
