//! Which core does what: the server has one, the load generator another.

use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Context, Result};

/// The cores of a run, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The server's.
    pub server: usize,
    /// The generator's. The same as `server` if there is only one: measurements then mean little.
    pub load: usize,
}

impl Cores {
    /// The first two cores that this process may use.
    pub fn choose() -> Result<Self> {
        let set = sched_getaffinity(None).context(|| "sched_getaffinity".into())?;
        let mut allowed = (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core));
        let server = allowed
            .next()
            .ok_or("this process may use no core at all")?;
        let load = allowed.next().unwrap_or(server);
        if load == server {
            eprintln!("Only one core to run on: server and generator disturb each other.");
        }
        Ok(Self { server, load })
    }
}

/// Moves the calling thread to `core`. Threads and processes that it starts from then on inherit it.
pub fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).context(|| format!("pin to core {core}"))
}

/// CPU time that the calling thread has used.
pub fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// CPU time (user and system) of a process, from its threads' `stat`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessCpu {
    /// Of all threads.
    pub total: Duration,
    /// Of the thread that used most: the shard's, in a server with one shard.
    pub busiest: Duration,
}

impl ProcessCpu {
    /// What `pid` has used so far. The resolution is the kernel's tick, mostly 10 ms.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}/task");
        let tick = Duration::from_secs(1) / (rustix::param::clock_ticks_per_second() as u32).max(1);
        let mut cpu = Self::default();
        for entry in std::fs::read_dir(&folder).context(|| format!("read {folder}"))? {
            let path = entry
                .context(|| format!("read {folder}"))?
                .path()
                .join("stat");
            // A thread may end between the listing and the reading.
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            let used = tick * ticks_used(&text).ok_or("a thread's stat has no CPU times")?;
            cpu.total += used;
            cpu.busiest = cpu.busiest.max(used);
        }
        Ok(cpu)
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            total: self.total.saturating_sub(earlier.total),
            busiest: self.busiest.saturating_sub(earlier.busiest),
        }
    }
}

/// utime + stime: fields 14 and 15, counted behind the name, which may hold spaces and brackets.
fn ticks_used(stat: &str) -> Option<u32> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_an_awkward_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 120 34 0 0 20 0 1 0 5 1000 2";
        assert_eq!(ticks_used(stat), Some(154));
        assert_eq!(ticks_used("7 (a) S 1"), None);
    }

    #[test]
    fn what_a_thread_uses_is_found_in_its_process() {
        let before = ProcessCpu::of(std::process::id()).unwrap();
        let start = thread_cpu_time();
        while thread_cpu_time() - start < Duration::from_millis(200) {
            std::hint::spin_loop();
        }
        let used = ProcessCpu::of(std::process::id()).unwrap().since(before);
        // A tick may be lost at either end.
        assert!(used.total >= Duration::from_millis(170), "{used:?}");
        assert!(used.busiest <= used.total);
    }
}
