//! Machines with missing facilities, and their signals. The faults: without /sys every shard panicked at its start; an
//! unwritable data directory was refused with the kernel's message alone; too little address space was answered with the
//! remedy for too little locked memory; SIGUSR1 of a log rotation ended the server, and so did a stray SIGALRM; an image's
//! SIGQUIT was lost or left a core dump.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use keyway_client::{Algorithm, KeyOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::{Setup, ended, log_path, patient_client, prod, refused, wait_until};
use crate::containers::{KEYWAYD, as_user, is_root, keywayd, open_dir};

const WITHIN: std::time::Duration = crate::common::WITHIN;
/// An account of which no other test has threads.
const LIMITED: u32 = 12_346;

/// Returns the command, run by a shell with its own mounts after `script`.
fn after(script: &str, command: &Command) -> Command {
    let script = format!("mount --make-rprivate / && {script} && exec \"$0\" \"$@\"");
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "sh", "-c", &script]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::null());
    shell
}

#[test]
fn a_machine_without_sys_and_proc_is_served_on() {
    if !is_root("mounts") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (at, script) in [
        "mount -t tmpfs none /sys",
        "mount -t tmpfs none /proc",
        "mount -t tmpfs none /sys && mount -t tmpfs none /proc",
    ]
    .into_iter()
    .enumerate()
    {
        let setup = Setup::new(&dir.path().join(format!("data-{at}")))
            .shards(2)
            // Without /proc it is unknown that root may lock any amount of memory.
            .flag("--allow-unlocked-memory");
        let server = setup.start_as(after(script, &setup.command()));
        let client = server.client();
        let key = "prod/a".parse().unwrap();
        let options = KeyOptions::default();
        client
            .key_generate(&key, Algorithm::Ed25519, options)
            .unwrap();
        let log = server.log();
        assert!(!log.contains("panicked"), "{script}: {log}");
    }
}

#[test]
fn a_data_directory_that_cannot_be_had_is_named_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let text = Setup::new(&path).shards(1).refused();
        assert!(text.contains("name a directory with --data"), "{text}");
    }
    if !is_root("mounts") {
        return;
    }
    let volume = dir.path().join("volume");
    let setup = Setup::new(&volume.join("data")).shards(1);
    let refused_after = |script: String| {
        let text = refused(after(&script, &setup.command()));
        assert!(!text.contains("panicked"), "{text}");
        text
    };
    std::fs::create_dir(&volume).unwrap();
    let empty = volume.display();
    let text = refused_after(format!("mount -t tmpfs -o ro none {empty}"));
    assert!(text.contains("a directory that can be written"), "{text}");
    // One that was in use before.
    setup.start().stop();
    let text = refused_after(format!(
        "mount --bind {empty} {empty} && mount -o remount,bind,ro {empty}"
    ));
    assert!(text.contains("a directory that can be written"), "{text}");
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    open(dir.path(), 0o755);
    let setup = Setup::new(&foreign.join("data")).shards(1);
    let command = setup.flag("--allow-unlocked-memory").command();
    let mut other = Command::new("setpriv");
    other.args(["--reuid=12345", "--clear-groups"]);
    other.arg(command.get_program()).args(command.get_args());
    let text = refused(other);
    assert!(text.contains("the user that runs keywayd"), "{text}");
}

fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn too_little_address_space_is_not_taken_for_too_little_locked_memory() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let command = setup.command();
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "ulimit -v 500000 && exec \"$0\" \"$@\" --arena-mib 512",
    ]);
    let arguments: Vec<_> = command.get_args().collect();
    let sized = arguments.iter().position(|word| *word == "--arena-mib");
    let sized = sized.unwrap();
    shell.arg(command.get_program());
    shell
        .args(&arguments[..sized])
        .args(&arguments[sized + 2..]);
    let text = refused(shell);
    assert!(text.contains("a smaller --arena-mib"), "{text}");
    assert!(text.contains("ulimit -v"), "{text}");
    assert!(!text.contains("--allow-unlocked-memory"), "{text}");
    // Both remedies.
    for (limit, arena_mib) in [("ulimit -v 500000", "1"), ("ulimit -v unlimited", "512")] {
        let mut shell = Command::new("sh");
        let script =
            format!("ulimit -S -v 500000; {limit} && exec \"$0\" \"$@\" --arena-mib {arena_mib}");
        shell.args(["-c", &script]);
        shell.arg(command.get_program()).args(&arguments[..sized]);
        shell.args(&arguments[sized + 2..]).stdin(Stdio::null());
        setup.start_as(shell).stop();
    }
}

/// Returns the word after `flag` in a message.
fn named<'a>(text: &'a str, flag: &str) -> &'a str {
    let (_, rest) = text
        .split_once(flag)
        .unwrap_or_else(|| panic!("{flag}: {text}"));
    rest.split([' ', ',', ')', '\n']).next().unwrap()
}

#[test]
fn the_numbers_that_messages_name_are_enough() {
    if !is_root("taking capabilities away") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let run = |limit: &str, arena_mib: &str, words: &[&str]| {
        let mut shell = Command::new("sh");
        let script = format!("{limit} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script, "setpriv", "--bounding-set=-all"]);
        shell.args(["--inh-caps=-all", env!("CARGO_BIN_EXE_keywayd"), "--dev"]);
        shell.args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
        shell.args(["--shards", "1", "--arena-mib", arena_mib, "--data"]);
        shell.arg(&data).args(words).stdin(Stdio::null());
        shell
    };
    let setup = Setup::new(&data);
    let serves = |command: Command| setup.start_as(command).stop();

    let text = refused(run("ulimit -n 20", "1", &[]));
    let needed = named(&text, "ulimit -n ");
    serves(run(&format!("ulimit -n {needed}"), "1", &[]));

    let many = ["--connections-max", "4096"];
    let text = refused(run("ulimit -n 200", "1", &many));
    let fits = named(&text, "give --connections-max ");
    serves(run("ulimit -n 200", "1", &["--connections-max", fits]));

    let text = refused(run("ulimit -l 8192", "64", &[]));
    let fits = named(&text, "lower it to --arena-mib ");
    serves(run("ulimit -l 8192", fits, &[]));
    serves(run("ulimit -l 8192", "64", &["--allow-unlocked-memory"]));
    // What `docker run --ulimit memlock=-1` and `--ulimit nofile=…` do: the same with a higher limit is served.
    refused(run("ulimit -l 4096", "6", &[]));
    serves(run("ulimit -l 8192", "6", &[]));
}

#[test]
fn signals_of_other_programs_end_nothing_and_sigquit_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let mut command = setup.command();
    let data = dir.path().join("data");
    let log = std::fs::File::create(log_path(&data)).unwrap();
    let mut child = command.stderr(log).spawn().unwrap();
    let said = || std::fs::read_to_string(log_path(&data)).unwrap();
    wait_until("the server", WITHIN, || said().contains("is listening"));
    let pid = Pid::from_child(&child);
    let silent = ["CHLD", "CONT", "PIPE", "URG", "WINCH", "XFSZ"];
    let logged = [
        "USR1", "USR2", "HUP", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU", "RTMIN",
        "RTMIN+7", "RTMAX-1", "RTMAX",
    ];
    for name in silent.into_iter().chain(logged) {
        let script = format!("kill -s {name} {}", child.id());
        let send = || {
            let sent = Command::new("bash").args(["-c", &script]).status();
            assert!(sent.unwrap().success(), "{name}");
        };
        if silent.contains(&name) {
            send();
            continue;
        }
        // The last two are counted from below.
        let said_as = match name {
            "RTMIN" => "SIGRTMIN+0 ",
            "RTMAX-1" => "SIGRTMIN+29 ",
            "RTMAX" => "SIGRTMIN+30 ",
            name => &format!("SIG{name} "),
        };
        wait_until(name, WITHIN, || {
            assert_eq!(child.try_wait().unwrap(), None, "{name} ended it");
            // Beyond ten lines a second nothing is said of it.
            send();
            said().contains(said_as)
        });
    }
    // What is sent as fast as it can be costs ten lines a second.
    let before = said().lines().count();
    let flood = format!("for i in $(seq 3000); do kill -s ALRM {}; done", child.id());
    assert!(
        Command::new("bash")
            .args(["-c", &flood])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(
        child.try_wait().unwrap(),
        None,
        "a flood of signals ended it"
    );
    let grown = said().lines().count() - before;
    assert!(grown < 300, "{grown} lines");
    let endpoints = std::fs::read_to_string(data.join("endpoints.json")).unwrap();
    let endpoints: serde_json::Value = serde_json::from_str(&endpoints).unwrap();
    let address = endpoints["tcp"].as_str().unwrap();
    let client = patient_client(address);
    client.key_list(&prod()).unwrap();
    kill_process(pid, Signal::QUIT).unwrap();
    let status = ended(&mut child, WITHIN);
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    assert!(said().contains("stopped"), "{}", said());
    assert!(!said().contains("compaction failed"), "{}", said());
}

#[test]
fn what_a_container_does_not_allow_is_named_with_a_remedy() {
    if !is_root("taking capabilities away") {
        return;
    }
    let dir = open_dir();
    std::os::unix::fs::chown(dir.path(), Some(LIMITED), Some(LIMITED)).unwrap();
    let user = as_user(LIMITED);
    let refuses = |limit: &str, flags: &[&str], words: &[&str]| {
        let script = format!("{limit} && exec \"$@\"");
        let mut all = vec!["sh", "-c", &script, "sh"];
        all.extend(user.iter().map(String::as_str));
        let mut command = keywayd(&all, &dir.path().join("data"));
        let text = refused({
            command.args(flags);
            command
        });
        assert!(!text.contains("panicked"), "{text}");
        for word in words {
            assert!(text.contains(word), "{word} is not in: {text}");
        }
    };
    refuses(
        "ulimit -l 64",
        &["--allow-unlocked-memory"],
        &["65536 bytes", "ulimit -l", "memlock"],
    );
    refuses(
        "ulimit -l 2048",
        &[],
        &["--allow-unlocked-memory", "LimitMEMLOCK"],
    );
    refuses(
        "ulimit -l 8192",
        &["--arena-mib", "64"],
        &["--arena-mib 64", "--arena-mib 6"],
    );
    refuses("ulimit -n 20", &[], &["is 20", "LimitNOFILE", "ulimit -n"]);
    refuses("ulimit -n 5", &[], &["open files", "LimitNOFILE"]);
    for threads in 1..=7 {
        let limit = format!("prlimit --pid $$ --nproc={threads}");
        refuses(&limit, &[], &["TasksMax", "ulimit -u"]);
    }
    for (address, word) in [
        ("127.0.0.1:80", "CAP_NET_BIND_SERVICE"),
        ("192.0.2.1:9000", "no interface"),
    ] {
        let mut command = Command::new(&user[0]);
        command.args(&user[1..]);
        command.args([KEYWAYD, "--listen-beyond-loopback-without-tls"]);
        command.args(["--metrics", "127.0.0.1:0", "--listen", address]);
        command.arg("--data").arg(dir.path().join("data"));
        let text = refused(command);
        assert!(text.contains(address) && text.contains(word), "{text}");
    }
    refuses(
        "ulimit -n 200",
        &["--connections-max", "4096"],
        &["--connections-max 4096", "--connections-max 96"],
    );
}
