//! Reports the start and the end of a shard to the rest of the node: whether it serves, and that it
//! has stopped. Both are reported whatever happens to the shard's thread, so no thread waits
//! indefinitely.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

/// Whether the node is to stop.
pub trait StopFlag {
    /// Set once, and never cleared.
    fn is_set(&self) -> bool;
}

impl StopFlag for AtomicBool {
    fn is_set(&self) -> bool {
        // It guards no other data.
        self.load(Ordering::Relaxed)
    }
}

/// Takes turns until the node is to stop. `turn` gets their number, from 0; `pause` comes between.
pub async fn until_stopped(
    stop: &impl StopFlag,
    mut turn: impl FnMut(u64),
    mut pause: impl AsyncFnMut(),
) {
    let mut turns = 0;
    while !stop.is_set() {
        turn(turns);
        turns += 1;
        pause().await;
    }
}

/// Held by a shard while it starts, serves and stops.
pub struct LifecycleReporter {
    shard: u16,
    ready: Option<std::sync::mpsc::Sender<Result<u16, String>>>,
    stopped: mpsc::Sender<u16>,
}

impl LifecycleReporter {
    /// `ready` receives once whether the shard serves. `stopped` receives once that it has ended, and
    /// must have capacity for every shard of the node.
    pub fn new(
        shard: u16,
        ready: std::sync::mpsc::Sender<Result<u16, String>>,
        stopped: mpsc::Sender<u16>,
    ) -> Self {
        LifecycleReporter {
            shard,
            ready: Some(ready),
            stopped,
        }
    }

    /// The shard serves.
    pub fn ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            // The main thread waits for this one message.
            let _ = ready.send(Ok(self.shard));
        }
    }

    /// The shard cannot start, or go on.
    pub fn failed(&mut self, error: String) {
        match self.ready.take() {
            Some(ready) => {
                let _ = ready.send(Err(error));
            }
            // The start no longer waits for it.
            None => tracing::error!(shard = self.shard, %error, "shard stopped unexpectedly"),
        }
    }
}

impl Drop for LifecycleReporter {
    fn drop(&mut self) {
        if self.ready.is_some() {
            self.failed(format!(
                "shard {}'s thread ended before it was ready; the log says why",
                self.shard
            ));
        }
        // There is room: each shard says it once.
        let _ = self.stopped.try_send(self.shard);
    }
}
