//! Control groups: what a server takes of a machine of which it may use a part.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};

use keyway_client::{Algorithm, KeyOptions};
use rustix::process::Pid;

use crate::containers::{client, is_root, keywayd_of_any_size, open_dir, stop};

/// Control groups of version 1 or 2 with 256 MiB of memory and the time of one processor, as far as this machine allows
/// the test to create them.
pub struct ControlGroups(Vec<PathBuf>);

impl ControlGroups {
    pub fn small() -> ControlGroups {
        let name = format!("keyway-test-{}", std::process::id());
        let mut made = Vec::new();
        for (mount, limits) in [
            ("memory", &[("memory.limit_in_bytes", "268435456")][..]),
            (
                "cpu",
                &[
                    ("cpu.cfs_period_us", "100000"),
                    ("cpu.cfs_quota_us", "100000"),
                ],
            ),
            (
                "",
                &[("memory.max", "268435456"), ("cpu.max", "100000 100000")],
            ),
        ] {
            let group = Path::new("/sys/fs/cgroup").join(mount).join(&name);
            if std::fs::create_dir(&group).is_err() {
                continue;
            }
            let has_controllers = limits
                .iter()
                .all(|(file, limit)| std::fs::write(group.join(file), limit).is_ok());
            if has_controllers && group.join("cgroup.procs").exists() {
                made.push(group);
            } else {
                let _ = std::fs::remove_dir(&group);
            }
        }
        if made.is_empty() {
            eprintln!(
                "SKIPPED: no control groups can be made here, so nothing bounds the container's memory"
            );
        }
        ControlGroups(made)
    }

    /// Returns shell text that moves the shell into them.
    pub fn enter(&self) -> String {
        let one = |group: &PathBuf| format!("echo $$ > {}/cgroup.procs && ", group.display());
        self.0.iter().map(one).collect()
    }

    pub fn bound_memory(&self) -> bool {
        let files = ["memory.limit_in_bytes", "memory.max"];
        let mut groups = self.0.iter();
        groups.any(|group| files.iter().any(|file| group.join(file).exists()))
    }
}

impl Drop for ControlGroups {
    fn drop(&mut self) {
        for group in &self.0 {
            // Those that are still in use are left behind, and soon empty.
            let _ = std::fs::remove_dir(group);
        }
    }
}

/// What a server takes that is given no sizes: of two processors' cores the one whose time it may have.
#[test]
fn shards_default_to_what_the_control_groups_allow() {
    if !is_root("control groups") {
        return;
    }
    let groups = ControlGroups::small();
    if !groups.bound_memory() {
        return;
    }
    let dir = open_dir();
    let data = dir.path().join("data");
    let script = format!("{}exec \"$@\"", groups.enter());
    let words = ["sh", "-c", &script, "sh"];
    let server = keywayd_of_any_size(&words, &data)
        .arg("--dev")
        .spawn()
        .unwrap();
    client(&data).keyspace_list().unwrap();
    let pid = Pid::from_child(&server);
    let log = stop(server, pid);
    for word in ["cpu_quota=\"1.00\"", "memory=\"256.0 MiB\"", " shards=1 "] {
        assert!(log.contains(word), "{word} is not in: {log}");
    }
}

/// As many as the node has processors, in a container that may use one of them.
#[test]
fn many_shards_serve_in_little_memory() {
    if !is_root("control groups") {
        return;
    }
    let groups = ControlGroups::small();
    let dir = open_dir();
    let data = dir.path().join("data");
    let script = format!("{}exec \"$@\"", groups.enter());
    let words = ["sh", "-c", &script, "sh"];
    let server = keywayd_of_any_size(&words, &data)
        .args(["--dev", "--shards", "32"])
        .spawn()
        .unwrap();
    let key = "prod/a".parse().unwrap();
    let made = client(&data).key_generate(&key, Algorithm::Ed25519, KeyOptions::default());
    let pid = Pid::from_child(&server);
    let log = stop(server, pid);
    assert!(made.is_ok(), "{made:?}: {log}");
}
