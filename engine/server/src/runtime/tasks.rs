//! Tasks and pauses on the current shard's executor.

use std::future::Future;
use std::time::Duration;

/// Work that a task may do before it lets the executor poll I/O, in microseconds.
pub const TURN_WORK_US_MAX: u64 = 200;

/// Starts a task that runs to its end by itself.
///
/// A panic inside would take the whole executor down; what can panic is wrapped in
/// `catch_unwind` by its caller.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(task).detach();
}

/// Pauses for `duration`. For tickers and back-off; never for a request.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
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
