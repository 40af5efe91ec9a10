//! When the executor has to poll I/O before another turn is taken.
//!
//! A turn is bounded, but each of a thousand connections, landed reads and peers may have one to take: as long as tasks are
//! ready, the executor runs them and does not poll. The ticker's timer goes off in a poll, so a ticker that is late means that
//! there has been none.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use quanta::Instant;

use super::wakeup::Wakeup;

/// Time without a poll after which no turn is taken before there was one: two periods of the ticker.
const UNPOLLED_MAX: Duration = Duration::from_millis(2);

/// When the executor polled I/O, and what waits until it has done so again.
pub struct Rest {
    polled_at: Cell<Instant>,
    /// A turn had to leave something, or could not be taken before I/O was polled.
    pub wanted: Wakeup,
    /// One at most for each connection and each peer.
    waiting: RefCell<Vec<Waker>>,
    rests: Cell<u64>,
}

impl Rest {
    /// `now` counts as a poll.
    pub fn new(now: Instant) -> Self {
        Rest {
            polled_at: Cell::new(now),
            wanted: Wakeup::default(),
            waiting: RefCell::default(),
            rests: Cell::new(0),
        }
    }

    /// Notes that I/O was polled.
    pub fn note_poll(&self, now: Instant) {
        self.polled_at.set(now);
    }

    /// Returns whether I/O has to be polled before the next turn.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.polled_at.get()) > UNPOLLED_MAX
    }

    /// Wakes those who wait: I/O was polled, and the turn after it taken.
    pub fn end(&self) {
        self.rests.set(self.rests.get() + 1);
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Waits for the next [`Rest::end`].
    pub async fn wait(&self) {
        let began = self.rests.get();
        poll_fn(|cx| {
            if self.rests.get() != began {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn rest_is_due_when_the_ticker_is_late_and_over_with_the_next_poll() {
        let began = Instant::now();
        let rest = Rest::new(began);
        assert!(!rest.is_due(began + UNPOLLED_MAX));
        let late = began + UNPOLLED_MAX + Duration::from_micros(1);
        assert!(rest.is_due(late));
        rest.note_poll(late);
        assert!(!rest.is_due(late + UNPOLLED_MAX));
    }

    #[test]
    fn all_who_wait_go_on_at_the_end_of_the_rest_and_not_before() {
        let rest = Rest::new(Instant::now());
        let mut cx = Context::from_waker(Waker::noop());
        let (mut first, mut second) = (pin!(rest.wait()), pin!(rest.wait()));
        assert!(first.as_mut().poll(&mut cx).is_pending());
        assert!(second.as_mut().poll(&mut cx).is_pending());
        rest.end();
        assert!(first.as_mut().poll(&mut cx).is_ready());
        assert!(second.as_mut().poll(&mut cx).is_ready());
        let mut next = pin!(rest.wait());
        assert!(next.as_mut().poll(&mut cx).is_pending(), "the next rest");
    }
}
