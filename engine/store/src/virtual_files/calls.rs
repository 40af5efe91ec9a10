//! Calls that are in flight, and how each of them ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::disk::Disk;

/// A call to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Creates a file.
    Create,
    /// Opens one.
    Open,
    /// Lists a directory.
    List,
    /// Removes a name.
    Remove,
    /// Syncs a directory.
    SyncDir,
    /// Reads from a file.
    Read,
    /// Writes to one.
    Write,
    /// Syncs its data.
    SyncData,
    /// Measures it.
    Len,
    /// Truncates it.
    Truncate,
    /// Reserves space for it.
    Reserve,
}

impl Call {
    /// Returns `true` if the call changes what is on the disk.
    #[must_use]
    pub fn changes_disk(self) -> bool {
        !matches!(self, Self::Open | Self::List | Self::Read | Self::Len)
    }
}

/// How a call ends, decided when it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// How long it takes.
    pub takes: Takes,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

/// How long a call takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Takes {
    /// Until it is polled a second time. It wakes its task for that.
    #[default]
    Poll,
    /// This many µs of virtual time.
    Us(u64),
    /// It does not end before [`super::VirtualFiles::release`], or before the power is cut.
    Forever,
}

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails: a write after half of its bytes, a sync after it dropped what it should have written, any other without
    /// an effect.
    Error,
    /// It is done, and reported as failed.
    Done,
    /// As [`Fault::Error`], and every later call fails.
    PowerCut,
    /// The disk is full from this call on.
    Full,
}

/// Calls in flight, each with its end.
#[derive(Default)]
pub(super) struct Pending {
    now_us: u64,
    calls_so_far: u64,
    /// By end and number. A call that hangs ends at `u64::MAX`.
    calls: BTreeMap<(u64, u64), Option<Waker>>,
}

impl Pending {
    /// Those that have ended and were not polled since are past.
    pub fn next_at(&self) -> Option<u64> {
        let mut ahead = self.calls.range((self.now_us + 1, 0)..(u64::MAX, 0));
        ahead.next().map(|((at, _), _)| *at)
    }

    /// Returns the wakers of the calls that have ended, in the order of their ends.
    pub fn advance(&mut self, now_us: u64) -> Vec<Waker> {
        self.now_us = self.now_us.max(now_us.min(u64::MAX - 1));
        let ended = self.calls.range_mut(..=(self.now_us, u64::MAX));
        ended.filter_map(|(_, waker)| waker.take()).collect()
    }

    /// Ends the calls that hang, and returns their wakers.
    pub fn release(&mut self) -> Vec<Waker> {
        let hanging = self.calls.split_off(&(u64::MAX, 0));
        hanging.into_values().flatten().collect()
    }

    /// Ends all calls: the power is cut.
    pub fn end_all(&mut self) {
        for waker in std::mem::take(&mut self.calls).into_values().flatten() {
            waker.wake();
        }
    }

    pub fn now_us(&self) -> u64 {
        self.now_us
    }

    fn begin(&mut self, at_us: u64) -> (u64, u64) {
        let id = (at_us, self.calls_so_far);
        self.calls_so_far += 1;
        self.calls.insert(id, None);
        id
    }

    fn after_us(&self, us: u64) -> u64 {
        self.now_us.saturating_add(us).min(u64::MAX - 1)
    }
}

/// Waits for the end of a call.
pub(super) struct Wait {
    disk: Rc<RefCell<Disk>>,
    state: State,
}

enum State {
    Poll { was_polled: bool },
    Until((u64, u64)),
}

impl Wait {
    pub fn new(disk: &Rc<RefCell<Disk>>, takes: Takes) -> Self {
        let mut at = disk.borrow_mut();
        let state = match takes {
            Takes::Poll => State::Poll { was_polled: false },
            // After a power cut there is nothing to wait for.
            _ if at.check_power().is_err() => State::Poll { was_polled: true },
            Takes::Us(us) => {
                let until = at.pending.after_us(us);
                State::Until(at.pending.begin(until))
            }
            Takes::Forever => State::Until(at.pending.begin(u64::MAX)),
        };
        Self {
            disk: Rc::clone(disk),
            state,
        }
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        match &mut this.state {
            State::Poll { was_polled: true } => Poll::Ready(()),
            State::Poll { was_polled } => {
                *was_polled = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            State::Until(id) => {
                let mut disk = this.disk.borrow_mut();
                let is_over = id.0 <= disk.pending.now_us;
                match disk.pending.calls.get_mut(id) {
                    Some(waker) if !is_over => {
                        *waker = Some(context.waker().clone());
                        Poll::Pending
                    }
                    _ => Poll::Ready(()),
                }
            }
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let State::Until(id) = &self.state {
            self.disk.borrow_mut().pending.calls.remove(id);
        }
    }
}
