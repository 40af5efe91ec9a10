//! Wakes a task that waits for work.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Says to one task of this shard that there is work.
#[derive(Default)]
pub struct Wakeup {
    is_work: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wakeup {
    /// There is work.
    pub fn wake(&self) {
        self.is_work.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until there is work.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            if self.is_work.take() {
                return Poll::Ready(());
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}
