//! Whether the threads that the server needs can be started, tried before anything depends on it: glommio and tokio panic
//! where there are none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::os_error::{Attempt, explain};

/// A shard's own, and those on which glommio makes the calls that block.
const PER_SHARD: usize = 3;

/// The exporter, the thread that writes the catalogue, and those on which control makes the calls that block.
const OTHERS: usize = 4;

/// Starts as many threads as `shards` shards need, at the same time, and ends them.
///
/// Errors: there are too few, with the remedy.
pub fn check(shards: u16) -> Result<(), String> {
    let count = usize::from(shards) * PER_SHARD + OTHERS;
    start_at_once(count).map_err(|error| {
        format!(
            "{count} more threads are needed for {shards} shards: {}",
            explain(&error, Attempt::Thread)
        )
    })
}

fn start_at_once(count: usize) -> io::Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::with_capacity(count);
    let started = (0..count).try_for_each(|_| {
        let is_over = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().spawn(move || {
            while !is_over.load(Ordering::Acquire) {
                std::thread::park();
            }
        })?;
        threads.push(thread);
        Ok(())
    });
    is_over.store(true, Ordering::Release);
    for thread in threads {
        thread.thread().unpark();
        // It does nothing that can panic.
        let _ = thread.join();
    }
    started
}
