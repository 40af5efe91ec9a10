//! Waking all waiters of one thread when "something has changed".

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A change that many may await.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    changes: Cell<u64>,
    next_id: Cell<u64>,
    /// One per waiter that is pending, so as many as there are puts in flight.
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Notify {
    /// Wakes all who wait.
    pub fn wake_all(&self) {
        self.changes.set(self.changes.get() + 1);
        // Taken out first: a waker may poll, and so register, at once.
        for waker in std::mem::take(&mut *self.waiting.borrow_mut()).into_values() {
            waker.wake();
        }
    }

    /// Ends at the next `wake_all` after this call (not after its first poll).
    pub fn changed(&self) -> Changed<'_> {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        Changed {
            notify: self,
            seen: self.changes.get(),
            id,
        }
    }
}

/// See [`Notify::changed`].
pub(crate) struct Changed<'a> {
    notify: &'a Notify,
    seen: u64,
    id: u64,
}

impl Future for Changed<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.notify.changes.get() != self.seen {
            return Poll::Ready(());
        }
        self.notify
            .waiting
            .borrow_mut()
            .insert(self.id, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.notify.waiting.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, poll_once};

    #[test]
    fn all_who_wait_are_woken_and_none_is_left_registered() {
        let notify = Notify::default();
        let mut first = Box::pin(notify.changed());
        let second = notify.changed();
        assert!(block_on(poll_once(first.as_mut())).is_none());
        assert_eq!(notify.waiting.borrow().len(), 1);
        notify.wake_all();
        block_on(first);
        block_on(second);
        assert!(notify.waiting.borrow().is_empty());
    }

    #[test]
    fn a_waiter_that_leaves_is_forgotten() {
        let notify = Notify::default();
        let mut waiter = Box::pin(notify.changed());
        assert!(block_on(poll_once(waiter.as_mut())).is_none());
        drop(waiter);
        assert!(notify.waiting.borrow().is_empty());
    }
}
