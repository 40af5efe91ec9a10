//! One pinned executor per shard.

use std::future::Future;
use std::thread::JoinHandle;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

/// Registered memory of a ring. Key blobs are small, and sockets do not use it.
const IO_MEMORY_BYTES: usize = 1 << 20;

/// Entries of a ring.
const RING_DEPTH: usize = 1_024;

/// Lower values run into a lost wake-up of glommio 0.9.0.
const PREEMPT_TIMER: Duration = Duration::from_millis(100);

/// Starts a shard's thread, pinned to `core`, and runs what `main` makes there to its end.
///
/// Errors: the thread cannot be started or pinned.
pub fn start<F>(
    shard: u16,
    core: usize,
    main: impl FnOnce() -> F + Send + 'static,
) -> std::io::Result<JoinHandle<std::io::Result<()>>>
where
    F: Future<Output = ()> + 'static,
{
    std::thread::Builder::new()
        .name(format!("shard-{shard}"))
        .spawn(move || {
            // glommio looks up what it pins to in /sys, which a container may lack, and panics there.
            pin_to(core)?;
            let executor = LocalExecutorBuilder::new(Placement::Unbound)
                .name(&format!("shard-{shard}"))
                .io_memory(IO_MEMORY_BYTES)
                .ring_depth(RING_DEPTH)
                .preempt_timer(PREEMPT_TIMER)
                .make()
                .map_err(std::io::Error::from)
                .inspect_err(|error| tracing::error!(shard, %error, "no executor"))?;
            executor.run(async move { main().await });
            Ok(())
        })
}

/// Keeps this thread, and those that it starts, on one core.
fn pin_to(core: usize) -> std::io::Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Cores that this process may run on.
pub fn cores() -> Vec<usize> {
    let allowed = rustix::thread::sched_getaffinity(None);
    match allowed {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect(),
        Err(_) => vec![0],
    }
}

/// Whether io_uring may be used: glommio's own message, when it may not, names another cause.
///
/// Errors: what stands in the way and the remedy.
pub fn check_io_uring() -> Result<(), String> {
    let setting = "/proc/sys/kernel/io_uring_disabled";
    if let Ok(text) = std::fs::read_to_string(setting)
        && text.trim() != "0"
    {
        let root = rustix::process::geteuid().is_root();
        if text.trim() == "2" || !root {
            return Err(format!(
                "io_uring is switched off on this machine ({setting} is {}); Keyway needs it: \
                 `sysctl kernel.io_uring_disabled=0`",
                text.trim()
            ));
        }
    }
    Ok(())
}
