//! A server that lies, and every command against it: nothing that acts on a terminal comes out, no line is forged, and
//! nothing panics.
//!
//! The fault: a name with a line end in it began a line of its own, in the words of the program.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod answers;
mod commands;
mod server;
mod terminal;
#[path = "../support/wire.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use keyway_protocol::Status;
use serde_json::Value;

use commands::{COMMANDS, Typed};
use server::{LIES, Server, Way};

/// Damaged answers that each command meets; more find more, at the cost of time.
const SEEDS: u64 = 10;

/// What answers where a user has mixed up ports, or another server listens.
const OTHER_PROTOCOLS: [&[u8]; 4] = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n\x1b]0;owned\x07",
    b"SSH-2.0-OpenSSH_9.6\x1b[2J\r\n",
    b"\x1b\x9b\xff\r\nFORGED: all is well\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    b"",
];

/// The binary, without the surroundings' settings.
fn keyway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyway"));
    command.env_remove("KEYWAY_ADDR");
    command
}

/// Every way of answering.
fn ways() -> Vec<Way> {
    let mut ways = vec![Way::Full];
    ways.extend(Status::ALL.iter().map(|status| Way::Refused(*status)));
    ways.extend((0..SEEDS).map(|seed| Way::Damaged(1_000 * seed)));
    ways.extend(LIES.map(Way::Frame));
    ways.extend((0..3).map(Way::Hello));
    ways.push(Way::Unwelcome(Status::Forbidden));
    ways.extend(OTHER_PROTOCOLS.map(Way::Bytes));
    ways
}

#[test]
fn nothing_that_a_server_sends_acts_on_a_terminal_or_makes_a_command_panic() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    let work = || {
        let server = Server::start();
        while let Some(typed) = COMMANDS.get(next.fetch_add(1, Ordering::Relaxed)) {
            for (number, way) in ways().into_iter().enumerate() {
                // Both forms of an answer, and one of a refusal in turn.
                let both = matches!(way, Way::Full);
                for json in [false, true] {
                    if both || json == (number % 2 == 0) {
                        server.behave(way);
                        let output = run(&server, typed, json, folder.path());
                        let found = fault(typed, json, &output);
                        let line = typed.line;
                        let found =
                            found.map(|fault| format!("{line}, json: {json}, {way:?}: {fault}"));
                        faults.lock().unwrap().extend(found);
                    }
                }
            }
        }
    };
    // Most of the time passes in waiting.
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(work);
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{}: {faults:#?}", faults.len());
}

fn files(folder: &Path) {
    fs::write(folder.join("msg"), "right").unwrap();
    fs::write(folder.join("sealed"), [3; 60]).unwrap();
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    fs::write(folder.join("key"), key).unwrap();
    fs::create_dir(folder.join("keys")).unwrap();
    for name in ["a.pem", "b.pem"] {
        fs::write(folder.join("keys").join(name), key).unwrap();
    }
    let line = |id: &str| format!("{{\"id\":\"{id}\",\"key\":\"AAEC\",\"alg\":\"hmac-sha256\"}}\n");
    fs::write(folder.join("lines"), line("a") + &line("b")).unwrap();
}

fn run(server: &Server, typed: &Typed, json: bool, folder: &Path) -> Output {
    let mut command = keyway();
    command
        .args(typed.line.split(' '))
        .args(json.then_some("--json"));
    command
        .args(["--timeout", "1s"])
        .env("KEYWAY_ADDR", &server.addr)
        .current_dir(folder);
    command.stdin(fs::File::open(folder.join("msg")).unwrap());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().unwrap()
}

/// What is wrong with an output.
fn fault(typed: &Typed, json: bool, output: &Output) -> Option<String> {
    let code = output.status.code();
    let err = String::from_utf8_lossy(&output.stderr);
    if !matches!(code, Some(0..=4)) {
        return Some(format!("ended with {:?}: {err}", output.status));
    }
    let mut streams = vec![("stderr", &output.stderr)];
    if json || !typed.is_raw {
        streams.push(("stdout", &output.stdout));
    }
    for (name, bytes) in streams {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Some(format!(
                "{name} is not UTF-8: {:?}",
                String::from_utf8_lossy(bytes)
            ));
        };
        if let Some(char) = text.chars().find(|char| acts(*char)) {
            return Some(format!("{name} has {char:?}: {text:?}"));
        }
        if let Some(line) = text
            .lines()
            .find(|line| line.trim_start().starts_with("FORGED"))
        {
            return Some(format!("{name} has the line {line:?}: {text}"));
        }
        let documents = text
            .lines()
            .filter(|line| !line.starts_with("keyway: ") || name == "stdout");
        for line in documents.filter(|_| json) {
            if serde_json::from_str::<Value>(line).is_err() {
                return Some(format!("{name} has a line that is no JSON: {line:?}"));
            }
        }
    }
    None
}

/// Whether a character does something but stand where it is. Of control characters only line ends may be there.
fn acts(char: char) -> bool {
    let is_invisible = matches!(
        char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    char != '\n' && (char.is_control() || is_invisible)
}
