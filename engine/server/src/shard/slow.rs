//! The slow lane: an RSA signature takes as long as fifty Ed25519 signatures, so a shard makes at
//! most one in a turn and lets everybody else go between two of them.
//!
//! What queues here holds no key, only the request: the key is asked for again when its turn
//! comes, so a queued request never keeps plaintext alive.

use std::rc::Rc;

use keyway_core::{Instant, Refusal};
use keyway_protocol::{Request, RequestFrame};

use super::answer::Reply;
use super::held::HeldFrame;
use super::{SLOW_QUEUE_MAX, Shard};
use crate::runtime::tasks;

/// A request in the lane.
pub struct SlowOperation {
    reply: Reply,
    held: HeldFrame,
    deadline: Option<Instant>,
}

impl Shard {
    /// Whether this is the lane's own turn.
    pub(super) fn is_slow_lane_open(&self) -> bool {
        self.figures.slow_lane_open.get()
    }

    pub(super) fn queue_slow(
        &self,
        reply: &Reply,
        frame: &RequestFrame<'_>,
        deadline: Option<Instant>,
    ) {
        let held = self
            .hold(frame)
            .filter(|_| self.slow.borrow().len() < SLOW_QUEUE_MAX);
        let Some(held) = held else {
            return self.refuse_as(reply, Refusal::Overloaded { after_us: 100_000 });
        };
        self.slow.borrow_mut().push_back(SlowOperation {
            reply: reply.clone(),
            held,
            deadline,
        });
        self.figures.slow_waker.borrow_mut().wake();
    }

    /// The lane's task: one operation a turn.
    pub(super) async fn run_slow_lane(self: Rc<Self>) {
        loop {
            let next = self.slow.borrow_mut().pop_front();
            let Some(operation) = next else {
                self.figures.slow_work().await;
                continue;
            };
            let turn = self.begin_turn();
            self.figures.slow_lane_open.set(true);
            self.guarded(|| self.take_slow(turn.now, &operation));
            self.figures.slow_lane_open.set(false);
            self.end_turn(turn);
            tasks::breathe().await;
        }
    }

    fn take_slow(&self, now: Instant, operation: &SlowOperation) {
        let Some(frame) = operation.held.frame() else {
            return;
        };
        let reply = operation.reply.clone();
        match Request::decode(&frame) {
            Ok(request) => self.use_key(now, reply, &frame, &request, operation.deadline),
            Err(error) => self.refuse(&reply, error.status(), &error.to_string()),
        }
    }
}
