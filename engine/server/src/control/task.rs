//! Tasks of the control thread whose first step is taken at once, before those that were spawned earlier: a lock is in
//! force when that returns, however many listings are queued.

use std::task::{Context, Waker};

/// Runs `work` as far as it goes without waiting, and spawns the rest.
pub(super) fn begin(work: impl Future<Output = ()> + 'static) {
    let mut work = Box::pin(work);
    // A spawned task is polled again, with its own waker.
    let mut context = Context::from_waker(Waker::noop());
    if work.as_mut().poll(&mut context).is_pending() {
        tokio::task::spawn_local(work);
    }
}
