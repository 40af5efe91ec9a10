//! A child process that ends with its owner.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a component may take to answer: a limit that only turns a hang into a message, however busy the machine is.
pub const READY_WITHIN: Duration = Duration::from_secs(300);

/// A running program; killed by its process id when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command` without a standard input.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(name: &str, command: &mut Command) -> Process {
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process {
            name: name.to_owned(),
            child,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `is_ready` says so.
    ///
    /// # Panics
    /// If the process ends, or is not ready within [`READY_WITHIN`].
    pub fn wait_until(&mut self, mut is_ready: impl FnMut() -> bool) {
        let began = Instant::now();
        while !is_ready() {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status} before it was ready", self.name);
            }
            assert!(
                began.elapsed() < READY_WITHIN,
                "{} is not ready after {READY_WITHIN:?}",
                self.name
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops it where it is, as a hung machine would; [`Process::resume`] lets it go on.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        // The signal reaches a busy process's threads one after the other.
        let tasks = format!("/proc/{}/task", self.child.id());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.ok()?.path().join("stat")).ok()?;
            let (_, after_name) = stat.rsplit_once(") ")?;
            Some(after_name.starts_with('T'))
        };
        while !std::fs::read_dir(&tasks)
            .unwrap()
            .all(|task| is_stopped(task).unwrap_or(true))
        {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it at once and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a child has a process id"), signal).expect("the child is ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns a loopback port that is not in use. It is below those that the kernel assigns automatically, and no caller in
/// this process gets it twice: so it is not taken before the program that will listen there has started.
///
/// # Panics
/// If all are taken.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 10_000;
    // Other processes look from elsewhere on.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let taken = TAKEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + start.wrapping_add(taken) % COUNT;
        let port = u16::try_from(port).expect("it is below 20,000");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}
