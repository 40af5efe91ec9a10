//! What the machine, the container and the service manager allow this process: cores, processor time, memory, locked
//! memory and open files. Read once at the start; a file that is not there is no limit.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::runtime::executor;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Cores that the process may run on.
    pub cores: Vec<usize>,
    /// Processors' worth of time that its control groups allow; `None`: no limit.
    pub cpu_quota: Option<f64>,
    /// Memory of the machine or of its control groups, in bytes, whichever is less.
    pub memory_bytes: Option<u64>,
    /// Memory that it may lock, in bytes; `None`: no limit.
    pub locked_bytes_max: Option<u64>,
    /// Files that it may have open.
    pub descriptors_max: u64,
}

impl Machine {
    /// Looks at this process and its machine, and raises its limits as far as it may: of open files and of locked
    /// memory to at least what is wanted where that is allowed.
    pub fn find(descriptors_wanted: u64, locked_bytes_wanted: u64) -> Machine {
        let root = Path::new("/");
        let groups = ControlGroups::of_this_process(root);
        let cgroup_bytes = groups.memory_bytes_max();
        Machine {
            cores: executor::cores(),
            cpu_quota: groups.cpu_quota(),
            memory_bytes: [cgroup_bytes, total_memory_bytes(root)]
                .into_iter()
                .flatten()
                .min(),
            locked_bytes_max: raise(Resource::Memlock, locked_bytes_wanted)
                .filter(|_| !may_lock_all(root)),
            descriptors_max: raise(Resource::Nofile, descriptors_wanted).unwrap_or(u64::MAX),
        }
    }

    /// Shards where nothing else is said: as many as cores, and as the processor time is enough for.
    pub fn shards(&self) -> usize {
        let quota = self
            .cpu_quota
            .map_or(usize::MAX, |quota| quota.ceil() as usize);
        self.cores.len().min(quota).max(1)
    }
}

/// Raises a soft limit to its hard limit, and both to `wanted` where that is allowed; the limit from then on, `None`
/// if there is none.
fn raise(resource: Resource, wanted: u64) -> Option<u64> {
    let limit = getrlimit(resource);
    let hard = limit.maximum?;
    let reachable = hard.max(wanted);
    let raised = Rlimit {
        current: Some(reachable),
        maximum: Some(reachable),
    };
    if setrlimit(resource, raised).is_ok() {
        return Some(reachable);
    }
    let raised = Rlimit {
        current: Some(hard),
        ..limit
    };
    match setrlimit(resource, raised) {
        Ok(()) => Some(hard),
        Err(_) => limit.current,
    }
}

/// Bit of CAP_IPC_LOCK, with which the kernel looks at no limit of locked memory.
const CAP_IPC_LOCK: u32 = 14;

/// Whether the process has CAP_IPC_LOCK on the machine itself. In a user namespace of its own it counts for nothing.
fn may_lock_all(root: &Path) -> bool {
    let text = |path| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let status = text("proc/self/status");
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .unwrap_or(0);
    let map = text("proc/self/uid_map");
    let is_machines = map.split_whitespace().eq(["0", "0", "4294967295"]);
    is_machines && effective >> CAP_IPC_LOCK & 1 == 1
}

fn total_memory_bytes(root: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Limits of version 1 that are larger than any machine stand for none.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The folders in which the control groups of this process have their limits, its own and those above it.
struct ControlGroups {
    /// Of version 2.
    unified: Vec<PathBuf>,
    /// Of version 1: the controllers `cpu` and `memory`.
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl ControlGroups {
    fn of_this_process(root: &Path) -> ControlGroups {
        let text = |path| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let (groups, mounts) = (text("proc/self/cgroup"), text("proc/self/mountinfo"));
        let of = |controller: &str| folders(root, &groups, &mounts, controller);
        ControlGroups {
            unified: of(""),
            cpu: of("cpu"),
            memory: of("memory"),
        }
    }

    fn cpu_quota(&self) -> Option<f64> {
        let share = |quota: &str, period: &str| {
            let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
            (quota > 0.0 && period > 0.0).then(|| quota / period)
        };
        let unified = self.unified.iter().filter_map(|folder| {
            let text = line_of(folder, "cpu.max")?;
            let (quota, period) = text.split_once(' ')?;
            share(quota, period)
        });
        let first = self.cpu.iter().filter_map(|folder| {
            let quota = line_of(folder, "cpu.cfs_quota_us")?;
            share(&quota, &line_of(folder, "cpu.cfs_period_us")?)
        });
        unified.chain(first).min_by(f64::total_cmp)
    }

    fn memory_bytes_max(&self) -> Option<u64> {
        let unified = self.unified.iter().map(|folder| (folder, "memory.max"));
        let first = self
            .memory
            .iter()
            .map(|folder| (folder, "memory.limit_in_bytes"));
        let limits = unified
            .chain(first)
            .filter_map(|(folder, file)| line_of(folder, file)?.parse().ok());
        limits.filter(|bytes| *bytes < NO_LIMIT_BYTES).min()
    }
}

fn line_of(folder: &Path, file: &str) -> Option<String> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    Some(text.trim().to_owned())
}

/// Where a controller's files for this process are, from its own group up to the mount. The empty name is version 2.
fn folders(root: &Path, groups: &str, mounts: &str, controller: &str) -> Vec<PathBuf> {
    let Some(group) = groups.lines().find_map(|line| {
        // number:controllers:path
        let mut fields = line.splitn(3, ':');
        let (controllers, path) = (fields.nth(1)?, fields.next()?);
        controllers
            .split(',')
            .any(|name| name == controller)
            .then_some(path)
    }) else {
        return Vec::new();
    };
    let Some((mounted, at)) = mounts.lines().find_map(|line| {
        // id parent device root mount-point options … - type source super-options
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match controller {
            "" => kind == "cgroup2",
            name => kind == "cgroup" && options.split(',').any(|option| option == name),
        };
        let mut left = left.split(' ').skip(3);
        fits.then(|| Some((left.next()?, left.next()?)))?
    }) else {
        return Vec::new();
    };
    let top = root.join(at.trim_start_matches('/'));
    // A container may see its group's path from outside, and the mount from inside.
    let below = Path::new(group)
        .strip_prefix(mounted)
        .unwrap_or(Path::new(""));
    let is_plain = |below: &Path| {
        let mut parts = below.components();
        parts.all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    let own = match below {
        below if is_plain(below) => top.join(below),
        _ => top.clone(),
    };
    let to_the_top = own
        .ancestors()
        .take_while(|folder| folder.starts_with(&top));
    to_the_top.map(Path::to_path_buf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (Option<f64>, Option<u64>) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let groups = ControlGroups::of_this_process(dir.path());
        (groups.cpu_quota(), groups.memory_bytes_max())
    }

    const V2: &str = "30 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_least_of_a_groups_limits_and_of_those_above_it_holds() {
        let found = machine(&[
            ("proc/self/cgroup", "0::/pods/pod1/app\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/pods/pod1/app/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pods/pod1/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/pods/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/pods/pod1/app/memory.max", "536870912\n"),
            ("sys/fs/cgroup/pods/memory.max", "max\n"),
        ]);
        assert_eq!(found, (Some(1.5), Some(512 << 20)));
    }

    #[test]
    fn version_1_and_a_mount_of_the_group_itself_are_understood() {
        let mounts = "41 30 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
            42 30 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n";
        let found = machine(&[
            (
                "proc/self/cgroup",
                "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n",
            ),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(found, (Some(1.0), Some(1 << 30)));
        let unlimited = machine(&[
            (
                "proc/self/cgroup",
                "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
            ),
            ("proc/self/mountinfo", mounts),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(unlimited, (None, None));
    }

    #[test]
    fn without_proc_and_sys_there_is_no_limit() {
        assert_eq!(machine(&[]), (None, None));
        let outside = [
            ("proc/self/cgroup", "0::/../other\n"),
            ("proc/self/mountinfo", V2),
        ];
        assert_eq!(machine(&outside), (None, None));
        assert!(!may_lock_all(Path::new("/nowhere")));
        assert_eq!(total_memory_bytes(Path::new("/nowhere")), None);
    }

    #[test]
    fn shards_are_as_many_as_the_processor_time_is_enough_for() {
        let machine = |cpu_quota| Machine {
            cores: (0..32).collect(),
            cpu_quota,
            ..Machine::default()
        };
        for (quota, shards) in [(None, 32), (Some(0.2), 1), (Some(1.5), 2), (Some(64.0), 32)] {
            assert_eq!(machine(quota).shards(), shards);
        }
    }
}
