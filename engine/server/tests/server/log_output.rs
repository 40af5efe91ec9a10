//! The log never ends, blocks or floods the server, and SIGHUP changes its level instead of ending the server. The
//! faults: a pipe that is never read blocked every thread that logged; a hundred lines `accept failed` per second.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use keyway_client::{Algorithm, KeyOptions};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::common::{Setup, ended, prod, wait_until};

/// Time limit for a machine that builds concurrently.
const WITHIN: Duration = crate::common::WITHIN;

/// Returns `command` with its standard error redirected by the shell.
fn redirected(command: &Command, to: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {to}")]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.stdin(std::process::Stdio::null());
    shell
}

/// Returns a redirection to a pipe that is full and never read, and the pipe.
fn to_full_pipe(dir: &Path) -> (String, File) {
    let fifo = dir.join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    let mut pipe = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo)
        .unwrap();
    while pipe.write(&[b'x'; 4_096]).is_ok() {}
    while pipe.write(b"x").is_ok() {}
    (format!("2>'{}'", fifo.display()), pipe)
}

#[test]
fn a_log_that_nobody_takes_keeps_no_server_that_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let (to_fifo, _pipe) = to_full_pipe(dir.path());
    let setup = Setup::new(&dir.path().join("data")).flag("--log-level=no=such=level");
    let mut server = redirected(&setup.command(), &to_fifo).spawn().unwrap();
    let status = ended(&mut server, WITHIN);
    assert!(status.is_some_and(|status| !status.success()), "{status:?}");
}

#[test]
fn a_log_that_nobody_takes_holds_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (to_fifo, _pipe) = to_full_pipe(dir.path());
    // A pipe whose reader has gone, as after a restart of the service that collects logs.
    let to_nobody = "2> >(exec <&-; sleep 0.1)";
    for (at, to) in ["2>&-", "2>/dev/full", to_fifo.as_str(), to_nobody]
        .into_iter()
        .enumerate()
    {
        let setup = Setup::new(&dir.path().join(format!("data-{at}"))).shards(1);
        let server = setup.start_as(redirected(&setup.command(), to));
        let client = server.client();
        for i in 0..20 {
            let path = format!("prod/key-{i}").parse().unwrap();
            client
                .key_generate(&path, Algorithm::Ed25519, KeyOptions::default())
                .unwrap();
            let ttl = format!("{}", 600_000 - i);
            client
                .keyspace_set(&prod(), &[("soft_ttl_ms", &ttl)])
                .unwrap();
        }
        server.stop();
    }
}

#[test]
fn an_event_that_repeats_is_cut_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let server = setup.start();
    // No descriptor is left below the limit: while a connection waits to be accepted, each attempt fails, and is repeated
    // after 10 ms.
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let before = prlimit(Some(pid), Resource::Nofile, none()).unwrap();
    let connect = |_| TcpStream::connect(server.address()).unwrap();
    let _strangers: Vec<TcpStream> = (0..5).map(connect).collect();
    wait_until("a line about the lines held back", WITHIN, || {
        server.log().contains("log lines held back")
    });
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    // A second of the wall clock contains parts of two of the limiter's.
    let log = server.log();
    let seconds: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("accept failed"))
        .filter_map(|line| line.get(..19))
        .collect();
    for second in &seconds {
        let lines = seconds.iter().filter(|other| *other == second).count();
        assert!(lines <= 20, "{lines} lines at {second}");
    }
    assert!(!seconds.is_empty(), "{log}");
    server.stop();
}

/// Returns a limit below every descriptor that a server opens.
fn none() -> Rlimit {
    Rlimit {
        current: Some(3),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    }
}

#[test]
fn sighup_reads_the_log_level_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keywayd.toml");
    std::fs::write(&file, "log_level = \"info\"\n").unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let server = setup.flag("--config").flag(file.to_str().unwrap()).start();
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    let says = |text: &str| wait_until(text, WITHIN, || server.log().contains(text));
    for (level, answer) in [
        (
            "keyway_server=debug,info",
            "the log level was read again log_level=\"keyway_server=debug,info\"",
        ),
        ("no=such=level", "the log level stays as it was"),
        (
            "warn,keyway_server=info",
            "read again log_level=\"warn,keyway_server=info\"",
        ),
    ] {
        std::fs::write(&file, format!("log_level = \"{level}\"\n")).unwrap();
        kill_process(pid, Signal::HUP).unwrap();
        says(answer);
        server.client().keyspace_list().unwrap();
    }
    server.stop();
}
