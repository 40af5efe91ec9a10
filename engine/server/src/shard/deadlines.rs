//! Deadlines of requests that wait for somebody else: another shard, the control thread, a write.
//!
//! The core keeps the deadlines of those that wait for a key. The others are told here that their time is over. What they
//! asked for may be under way, and is done or not: DEADLINE_EXCEEDED says so.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use keyway_core::{Instant, Refusal};
use keyway_protocol::Status;

use super::request::{Asked, Waiting, Wish};
use super::turn::Turn;
use super::{Responder, Shard};

/// Requests that one tick ends. The rest end in the next ones.
const ENDED_PER_TICK_MAX: usize = 1_024;

/// The deadlines of a shard, earliest first. No more than there are requests that wait.
#[derive(Default)]
pub struct Deadlines(RefCell<BTreeSet<(Instant, u64)>>);

impl Deadlines {
    /// A request that waits under `token` has its answer, or needs none any more.
    pub fn forget(&self, token: u64, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.0.borrow_mut().remove(&(deadline, token));
        }
    }

    /// A request waits under `token`, until its deadline.
    pub fn remember(&self, token: u64, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.0.borrow_mut().insert((deadline, token));
        }
    }

    fn next_overdue(&self, now: Instant) -> Option<u64> {
        let mut deadlines = self.0.borrow_mut();
        let (deadline, _) = deadlines.first()?;
        if *deadline > now {
            return None;
        }
        deadlines.pop_first().map(|(_, token)| token)
    }
}

/// A request that waits for a task of this shard. One that the task forgets, by a panic for one, is answered INTERNAL.
pub struct Parked {
    shard: Rc<Shard>,
    token: u64,
}

impl Parked {
    /// The duty to answer it; `None` if its deadline has passed, or its connection is gone.
    pub fn responder(&self) -> Option<Responder> {
        let waiting = self.shard.take_waiting(self.token);
        waiting.map(|waiting| waiting.responder)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        drop(self.responder());
    }
}

impl Shard {
    /// Lets a request wait for a task of this shard, until its deadline. `None`: too many wait, and it was refused.
    pub(super) fn park(self: &Rc<Self>, asked: Asked<'_>) -> Option<Parked> {
        if !self.waiting.has_room() {
            let refusal = Refusal::Overloaded { after_us: 100_000 };
            self.refuse_as(asked.responder, refusal);
            return None;
        }
        let token = self.waiting.token();
        self.wait(token, asked.waiting(Wish::Administration));
        Some(Parked {
            shard: Rc::clone(self),
            token,
        })
    }

    /// Lets a request wait under `token`.
    pub(super) fn wait(&self, token: u64, waiting: Waiting) {
        self.deadlines.remember(token, waiting.deadline);
        if let Some(connection) = waiting.responder.connection() {
            connection.waits().borrow_mut().insert(token);
        }
        self.waiting.wait(token, waiting);
    }

    /// The request that an answer is for; `None` if it has had one, or nobody waits for it any more.
    pub(super) fn take_waiting(&self, token: u64) -> Option<Waiting> {
        let waiting = self.waiting.take(token)?;
        self.deadlines.forget(token, waiting.deadline);
        if let Some(connection) = waiting.responder.connection() {
            connection.waits().borrow_mut().remove(&token);
        }
        Some(waiting)
    }

    /// Answers those whose deadline has passed.
    pub(super) fn end_overdue(&self, turn: &Turn) {
        for _ in 0..ENDED_PER_TICK_MAX {
            let Some(token) = self.deadlines.next_overdue(turn.now()) else {
                return;
            };
            if let Some(waiting) = self.take_waiting(token) {
                let text =
                    "the deadline passed before there was an answer; a write may have been done";
                self.refuse(waiting.responder, Status::DeadlineExceeded, text);
            }
        }
    }
}
