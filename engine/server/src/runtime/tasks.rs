//! Tasks and pauses on the current shard's executor.

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_lite::FutureExt;

/// Work that a task may do before it lets the executor poll I/O, in microseconds.
pub const TURN_WORK_US_MAX: u64 = 200;

/// Starts a task that runs to its end without being awaited. It begins later, never inside this call: the
/// executor would run it at once, on the caller's stack and with whatever the caller has borrowed.
///
/// A panic in a task would take the whole executor down: it ends this task alone, and is logged.
/// Handlers that must go on after one catch it closer to where it happens.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    spawn_at_once(async {
        futures_lite::future::yield_now().await;
        task.await;
    });
}

/// As [`spawn`], but the task begins inside this call and runs up to its first await that has to wait. Up to there it must
/// not borrow what the caller may have borrowed.
pub fn spawn_at_once(task: impl Future<Output = ()> + 'static) {
    let guarded = async {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            tracing::error!("a task panicked; this is a bug");
        }
    };
    glommio::spawn_local(guarded).detach();
}

/// Pauses for `duration`. For tickers and backoff; never for a request.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

/// Timers of [`spawn_backstop_timers`]: period and phase, in milliseconds. However late the executor is, unless it is late by more
/// than a quarter of a second, one of them has yet to go off.
const BACKSTOPS_MS: [(u64, u64); 4] = [(20, 0), (20, 10), (500, 0), (500, 250)];

/// Bounds every stall of the executor to half a second. glommio 0.9.0 parks with tasks queued when the thread loses its
/// processor for longer than the preempt timer between polling and running them, and sleeps until the next timer. Those
/// of the tasks in its queue have gone off already: if they were all there are, it sleeps indefinitely. Two shards that
/// waited for each other at their start did, in one of some hundred starts on a busy machine, and so did one that had
/// its ticker and its compaction due in the same poll.
pub fn spawn_backstop_timers() {
    for (period_ms, phase_ms) in BACKSTOPS_MS {
        spawn(async move {
            sleep(Duration::from_millis(phase_ms)).await;
            loop {
                sleep(Duration::from_millis(period_ms)).await;
            }
        });
    }
}

/// Lets the executor poll I/O and run other tasks. A plain yield runs other tasks but does not
/// poll.
pub async fn yield_to_io() {
    glommio::timer::sleep(Duration::from_micros(1)).await;
}

/// Waits for `work`. Returns its result, and whether it had to wait: if not, the executor has not had a chance to do
/// anything else.
pub async fn noting_rest<T>(work: impl Future<Output = T>) -> (T, bool) {
    let mut work = pin!(work);
    let mut has_rested = false;
    let result = poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        has_rested |= polled.is_pending();
        polled
    })
    .await;
    (result, has_rested)
}

/// Runs `work`, which would hold up the shard, on a thread of the executor's blocking pool.
pub async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    glommio::executor().spawn_blocking(work).await
}
