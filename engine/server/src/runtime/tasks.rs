//! Tasks and pauses on the current shard's executor.

use std::cell::Cell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::FutureExt;

/// Work that a task may do before it lets the executor poll I/O, in microseconds.
pub const TURN_WORK_US_MAX: u64 = 200;

/// Starts a task that runs to its end by itself. It begins later, never inside this call: the
/// executor would run it at once, on the caller's stack and with whatever the caller has borrowed.
///
/// A panic in a task would take the whole executor down: it ends this task alone, and is logged.
/// Handlers that must go on after one catch it closer to where it happens.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    let guarded = async {
        futures_lite::future::yield_now().await;
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("a task panicked; this is a bug");
        }
    };
    glommio::spawn_local(guarded).detach();
}

/// Pauses for `duration`. For tickers and back-off; never for a request.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Wakes the executor every so often until it is dropped, and so bounds any stall of it. Without a timer glommio 0.9.0 can
/// go to sleep for good although a task has been woken: two shards that waited for each other at their start did, in one
/// of some hundred starts on a busy machine.
pub struct Heartbeat(Rc<Cell<bool>>);

impl Heartbeat {
    /// Begins now.
    pub fn start(period: Duration) -> Self {
        let beats = Rc::new(Cell::new(true));
        let seen = Rc::clone(&beats);
        spawn(async move {
            while seen.get() {
                sleep(period).await;
            }
        });
        Heartbeat(beats)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Lets the executor poll I/O and run other tasks. A plain yield runs other tasks but does not
/// poll.
pub async fn breathe() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
}

/// Runs `work`, which would hold up the shard, on a thread of the executor's blocking pool.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}
