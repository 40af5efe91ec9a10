//! The server in a container: a missing permission causes a message with a remedy and never a panic, sizes adapt to the
//! limits, and process 1 handles signals from its first moment. The faults: io_uring refused by seccomp made it panic;
//! with little locked memory it ended with a kernel's error; 32 shards were killed for lack of memory at their start;
//! SIGTERM during the start was lost; mounted secrets and volumes under `fsGroup` were refused.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Input, KeyOptions, Scheme, Status};
use rustix::process::{Pid, Signal, Uid, geteuid, kill_process};

use crate::common::{ended, has_program, patient_client, prod, refused, wait_until};
use crate::control_groups::ControlGroups;

/// Time limit for a machine that builds concurrently.
const WITHIN: Duration = crate::common::WITHIN;
/// Starts that are stopped, each later than the one before it by this much.
const STOPS: u32 = 30;
const STOP_STEP: Duration = Duration::from_millis(8);
/// An unused account on a machine for tests.
const USER: u32 = 12_345;
/// The user that stands for those without a number.
const NOBODY: u32 = 65_534;
/// Words that make the program behind them process 1 of a namespace.
const AS_PROCESS_1: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child=KILL"];
pub const KEYWAYD: &str = env!("CARGO_BIN_EXE_keywayd");

/// Returns `true` for root, which can create namespaces and change users. For another user it is an error in CI, and a
/// visible skip elsewhere.
pub fn is_root(what: &str) -> bool {
    let is_root = geteuid().is_root() && has_program("unshare") && has_program("setpriv");
    if !is_root {
        assert!(
            std::env::var_os("CI").is_none(),
            "{what} needs root, and CI skips nothing: run it as root"
        );
        eprintln!("SKIPPED: {what} needs root, unshare and setpriv");
    }
    is_root
}

/// Returns a command that runs `keywayd` with one shard on free ports over `data`, with these words as prefix.
pub fn keywayd(words: &[&str], data: &Path) -> Command {
    let mut command = keywayd_of_any_size(words, data);
    command.args(["--shards", "1"]);
    command
}

/// As [`keywayd`], with as many shards as the machine allows.
pub fn keywayd_of_any_size(words: &[&str], data: &Path) -> Command {
    let mut words = words.iter().chain([&KEYWAYD]);
    let mut command = Command::new(words.next().unwrap());
    command
        .args(words)
        .args(["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])
        .arg("--data")
        .arg(data)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Returns the prefix for a user without any capability.
pub fn as_user(user: u32) -> [String; 7] {
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    let words = ["setpriv", &uid, &gid, "--clear-groups"];
    let more = [
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
    ];
    let all: Vec<String> = words
        .iter()
        .chain(&more)
        .map(|word| (*word).to_owned())
        .collect();
    all.try_into().unwrap()
}

/// Creates a directory that other users may enter, unlike temporary ones.
pub fn open_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Returns the child process of `parent`, once there is one.
fn child_of(parent: &Child) -> Pid {
    let id = parent.id();
    let path = format!("/proc/{id}/task/{id}/children");
    let mut child = None;
    wait_until("the process in the namespace", WITHIN, || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        child = text
            .split_whitespace()
            .next()
            .and_then(|id| id.parse().ok());
        child.is_some()
    });
    Pid::from_raw(child.unwrap()).unwrap()
}

pub fn is_ready(data: &Path) -> bool {
    let text = std::fs::read_to_string(data.join("endpoints.json")).unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&text).is_ok()
}

pub fn client(data: &Path) -> Client {
    wait_until("a server in a container", WITHIN, || is_ready(data));
    let text = std::fs::read_to_string(data.join("endpoints.json")).unwrap();
    let endpoints: serde_json::Value = serde_json::from_str(&text).unwrap();
    patient_client(endpoints["tcp"].as_str().unwrap())
}

/// Ends the server that `parent` waits for. Returns its log.
pub fn stop(mut parent: Child, pid: Pid) -> String {
    kill_process(pid, Signal::TERM).unwrap();
    let status = ended(&mut parent, WITHIN);
    let output = parent.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        status.is_some_and(|status| status.success()),
        "{status:?}: {log}"
    );
    log
}

#[test]
fn a_stop_during_the_start_ends_process_1() {
    if !is_root("a namespace for processes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut command = keywayd(&AS_PROCESS_1, &data);
    // It reads its passphrase to the end of the pipe, which never comes.
    let mut parent = command
        .args(["--passphrase-fd", "0"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let held = parent.stdin.take();
    let pid = child_of(&parent);
    wait_until("the start", WITHIN, || data.join("store.toml").exists());
    let log = stop(parent, pid);
    assert!(log.contains("stopped before it served"), "{log}");
    drop(held);
}

/// For process 1 a signal without a handler is lost. Wherever the start is once its handlers are there, it ends, and the
/// next one finds a directory that it can use.
#[test]
fn a_stop_at_any_moment_of_the_start_ends_process_1() {
    if !is_root("a namespace for processes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for stops in 0..STOPS {
        let parent = keywayd(&AS_PROCESS_1, &data).arg("--dev").spawn().unwrap();
        let pid = child_of(&parent);
        wait_until("the handlers", WITHIN, || handles_term(pid));
        std::thread::sleep(STOP_STEP * stops);
        stop(parent, pid);
    }
}

fn handles_term(pid: Pid) -> bool {
    let path = format!("/proc/{}/status", pid.as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.unwrap_or(0) >> (Signal::TERM.as_raw() - 1) & 1 == 1
}

/// The server had no name for a client in another PID namespace, as in another container of a pod, and refused it.
#[test]
fn a_client_in_another_pid_namespace_has_its_user() {
    if !is_root("a namespace for processes") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let parent = keywayd(&AS_PROCESS_1, &data).spawn().unwrap();
    let pid = child_of(&parent);
    wait_until("a server in a container", WITHIN, || is_ready(&data));
    // The server does not see this process.
    let owner = patient_client(&format!("unix:{}", data.join("keyway.sock").display()));
    let status = owner.status();
    drop(owner);
    // Before anything can fail: nothing else ends the server.
    stop(parent, pid);
    assert!(status.is_ok(), "{status:?}");
}

/// In a user namespace one number stands for all users that have none in it. A server that ran as that one took strangers
/// of other containers for its operator.
#[test]
fn a_client_without_a_number_in_the_servers_user_namespace_is_anonymous() {
    if !is_root("a namespace for users") {
        return;
    }
    let dir = open_dir();
    let (data, socket) = (dir.path().join("data"), dir.path().join("open.sock"));
    let (user, group) = (
        format!("--map-user={NOBODY}"),
        format!("--map-group={NOBODY}"),
    );
    let script = "umask 000 && exec \"$@\"";
    let words = ["unshare", "--user", &user, &group, "sh", "-c", script, "sh"];
    let mut server = keywayd(&words, &data);
    server.arg("--unix").arg(&socket);
    let server = server.arg("--allow-unlocked-memory").spawn().unwrap();
    wait_until("a server in a container", WITHIN, || is_ready(&data));
    let address = format!("unix:{}", socket.display());
    let stranger = std::thread::spawn(move || {
        // Of this thread only.
        rustix::thread::set_thread_uid(Uid::from_raw(USER)).unwrap();
        patient_client(&address).status()
    });
    let answer = stranger.join();
    let pid = Pid::from_child(&server);
    let log = stop(server, pid);
    let answer = answer.unwrap();
    let status = answer.as_ref().err().and_then(|error| error.status());
    assert_eq!(status, Some(Status::Forbidden), "{answer:?}");
    assert!(log.contains("stands for every user"), "{log}");
}

#[test]
fn a_small_container_serves_and_keeps_its_keys() {
    if !is_root("a container") {
        return;
    }
    let dir = open_dir();
    let volume = dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(USER), Some(USER)).unwrap();
    let data = volume.join("keyway");
    // One core, 256 MiB, 8 MiB of locked memory, everything read-only but the volume.
    let groups = ControlGroups::small();
    let script = format!(
        "{enter}mount --make-rprivate / && mount --bind {volume} {volume} && mount -o remount,bind,ro / && \
         ulimit -l 8192 && exec taskset -c 0 {user} \"$@\" {end}",
        volume = volume.display(),
        enter = groups.enter(),
        user = as_user(USER).join(" "),
        end = "2>\"$LOG\"",
    );
    let words = [
        "unshare",
        "--pid",
        "--fork",
        "--mount",
        "--kill-child=KILL",
        "sh",
        "-c",
        &script,
        "sh",
    ];
    let start = |log: &str| {
        let mut command = keywayd(&words, &data);
        command.arg("--dev").env("LOG", log).spawn().unwrap()
    };
    let key = "prod/a".parse().unwrap();
    let message = Input::Message(b"message");
    let log = volume.join("log");
    std::fs::write(&log, "").unwrap();
    chown(&log, Some(USER), Some(USER)).unwrap();
    let first = start(log.to_str().unwrap());
    let pid = child_of(&first);
    let before = {
        let client = client(&data);
        client
            .key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
        client.sign(&key, Scheme::Default, message).unwrap().value
    };
    stop(first, pid);
    let said = std::fs::read_to_string(&log).unwrap();
    let mut found = vec![
        "room for about",
        "arena_per_shard=\"6.0 MiB\"",
        "locked_memory=\"8.0 MiB\"",
        "cores=1",
    ];
    if groups.bound_memory() {
        found.push("memory=\"256.0 MiB\"");
    }
    for word in found {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    let second = start("/dev/full");
    let pid = child_of(&second);
    let client = client(&data);
    let answer = crate::common::past_the_start(|| client.sign(&key, Scheme::Default, message));
    assert_eq!(answer.unwrap().value, before);
    stop(second, pid);
}

#[test]
fn a_full_disk_does_not_keep_the_server_from_starting() {
    if !is_root("a small file system") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let data = volume.join("data");
    // The first start creates the directory; before the second one the disk is filled.
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs -o size=2m,mode=700 tmpfs {volume} || exit 77; \
         \"$@\" & first=$!; until [ -e {data}/endpoints.json ]; do sleep 0.1; done; \
         kill -TERM $first; wait $first || exit 78; \
         dd if=/dev/zero of={volume}/fill bs=1k 2>/dev/null; \
         exec \"$@\"",
        volume = volume.display(),
        data = data.display(),
    );
    let words = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let mut command = keywayd(&words, &data);
    let socket = dir.path().join("s");
    let log = dir.path().join("log");
    let mut parent = command
        .args(["--dev", "--unix"])
        .arg(&socket)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap();
    wait_until("the second start", WITHIN, || {
        assert!(parent.try_wait().unwrap().is_none(), "{}", said());
        said().matches("keywayd is listening").count() == 2
    });
    assert!(
        said().contains("endpoints.json cannot be written"),
        "{}",
        said()
    );
    let client = patient_client(&format!("unix:{}", socket.display()));
    client.lock(&prod()).err();
    client.keyspace_list().unwrap();
    let pid = Pid::from_child(&parent);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(ended(&mut parent, WITHIN).is_some(), "{}", said());
}

#[test]
fn what_kubernetes_mounts_is_taken() {
    if !is_root("being another user") {
        return;
    }
    let dir = open_dir();
    // A secret: links to a file of root that the pod's group may read.
    let secret = dir.path().join("secret");
    std::fs::create_dir_all(secret.join("..1")).unwrap();
    let file = secret.join("..1/passphrase");
    std::fs::write(&file, "correct horse battery").unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
    chown(&file, Some(0), Some(USER)).unwrap();
    symlink("..1", secret.join("..data")).unwrap();
    symlink("..data/passphrase", secret.join("passphrase")).unwrap();
    // As the kubelet mounts them, with `fsGroup`.
    std::fs::set_permissions(&secret, Permissions::from_mode(0o3777)).unwrap();
    chown(&secret, Some(0), Some(USER)).unwrap();
    // A volume that is given to the group at every mount.
    let volume = dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(USER)).unwrap();
    std::fs::set_permissions(&volume, Permissions::from_mode(0o2775)).unwrap();
    let data = volume.join("data");
    let user = as_user(USER);
    let words: Vec<&str> = user.iter().map(String::as_str).collect();
    let pod = || {
        let mut command = keywayd(&words, &data);
        command.args([
            "--allow-unlocked-memory",
            "--arena-mib",
            "1",
            "--passphrase-file",
        ]);
        command.arg(secret.join("passphrase"));
        command
    };
    let serves = || {
        let mut child = pod().spawn().unwrap();
        wait_until("the pod", WITHIN, || {
            let is_over = child.try_wait().unwrap().is_some();
            is_over || is_ready(&data)
        });
        let pid = Pid::from_child(&child);
        stop(child, pid);
    };
    serves();
    let given = Command::new("sh")
        .args([
            "-c",
            "chmod -R g+rwX \"$0\" && find \"$0\" -type d -exec chmod g+s {} +",
        ])
        .arg(&data)
        .status();
    assert!(given.unwrap().success());
    serves();

    // World-readable files are refused as before, and so are those of another user.
    std::fs::set_permissions(&file, Permissions::from_mode(0o444)).unwrap();
    let text = refused(pod());
    assert!(
        text.contains("0444") && text.contains("set defaultMode: 0440"),
        "{text}"
    );
    std::fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
    chown(&file, Some(USER + 1), Some(USER)).unwrap();
    let text = refused(pod());
    assert!(text.contains("belongs to user id"), "{text}");
    chown(&file, Some(0), Some(USER)).unwrap();
    // A link that another user has created in the world-writable directory.
    let link = secret.join("passphrase");
    std::os::unix::fs::lchown(&link, Some(USER + 1), None).unwrap();
    let text = refused(pod());
    assert!(text.contains("belongs to user id"), "{text}");
}

#[test]
fn a_volume_itself_is_no_data_directory_and_a_directory_in_it_is() {
    if !is_root("being another user") {
        return;
    }
    let dir = open_dir();
    let user = as_user(USER);
    let words: Vec<&str> = user.iter().map(String::as_str).collect();
    // An emptyDir, with and without `fsGroup`, and a disk that has its lost+found.
    for (at, mode) in [0o2777, 0o777, 0o2775].into_iter().enumerate() {
        let volume = dir.path().join(format!("volume-{at}"));
        std::fs::create_dir(&volume).unwrap();
        if mode == 0o2775 {
            std::fs::create_dir(volume.join("lost+found")).unwrap();
        }
        chown(&volume, Some(0), Some(USER)).unwrap();
        std::fs::set_permissions(&volume, Permissions::from_mode(mode)).unwrap();
        let command = |data: &Path| {
            let mut command = keywayd(&words, data);
            command.args(["--dev", "--allow-unlocked-memory", "--arena-mib", "1"]);
            command
        };
        let text = refused(command(&volume));
        let remedy = volume.join("keyway");
        let named = format!("--data {}", remedy.display());
        assert!(text.contains(&named), "{mode:o}: {text}");
        let child = command(&remedy).spawn().unwrap();
        wait_until("the remedy", WITHIN, || is_ready(&remedy));
        let pid = Pid::from_child(&child);
        stop(child, pid);
    }
}
