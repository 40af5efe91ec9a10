//! The slow lane: an RSA signature takes as long as fifty Ed25519 signatures, so a shard makes at
//! most one in a turn and lets everybody else go between two of them.
//!
//! What queues here holds no key, only the request: the key is asked for again when its turn
//! comes, so a queued request never keeps plaintext alive.

use std::rc::Rc;

use keyway_core::{Instant, Refusal};
use keyway_protocol::{Request, RequestFrame};

use super::answer::Reply;
use super::{SLOW_QUEUE_MAX, Shard};
use crate::runtime::tasks;

/// A request in the lane.
pub struct SlowOperation {
    reply: Reply,
    frame: Vec<u8>,
    deadline: Option<Instant>,
}

impl SlowOperation {
    /// Keeps a copy of the request.
    pub fn new(reply: &Reply, frame: &RequestFrame<'_>, deadline: Option<Instant>) -> Self {
        let mut bytes = Vec::new();
        frame
            .encode(&mut bytes)
            .expect("the frame was decoded from its own encoding");
        SlowOperation {
            reply: reply.clone(),
            frame: bytes,
            deadline,
        }
    }
}

impl Shard {
    /// Whether this is the lane's own turn.
    pub(super) fn is_slow_lane_open(&self) -> bool {
        self.figures.slow_lane_open.get()
    }

    pub(super) fn queue_slow(&self, reply: &Reply, operation: SlowOperation) {
        if self.slow.borrow().len() >= SLOW_QUEUE_MAX {
            return self.refuse_as(reply, Refusal::Overloaded { after_us: 100_000 });
        }
        self.slow.borrow_mut().push_back(operation);
        self.figures.slow_waker.borrow_mut().wake();
    }

    /// The lane's task: one operation a turn.
    pub(super) async fn run_slow_lane(self: Rc<Self>) {
        loop {
            let next = self.slow.borrow_mut().pop_front();
            let Some(mut operation) = next else {
                self.figures.slow_work().await;
                continue;
            };
            let turn = self.begin_turn();
            self.figures.slow_lane_open.set(true);
            if let Ok(Some((frame, _))) = RequestFrame::decode(&operation.frame) {
                match Request::decode(&frame) {
                    Ok(request) => self.use_key(
                        turn.now,
                        operation.reply,
                        &frame,
                        &request,
                        operation.deadline,
                    ),
                    Err(error) => {
                        self.refuse(&operation.reply, error.status(), &error.to_string());
                    }
                }
            }
            self.figures.slow_lane_open.set(false);
            zeroize::Zeroize::zeroize(&mut operation.frame);
            self.end_turn(turn);
            tasks::breathe().await;
        }
    }
}
