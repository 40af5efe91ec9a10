//! The slow lane: an RSA signature takes as long as fifty Ed25519 signatures, so a shard makes at
//! most one in a turn and lets everybody else go between two of them.
//!
//! What queues here holds no key, only the request: the key is asked for again when its turn
//! comes, so a queued request never keeps plaintext alive.

use std::rc::Rc;

use keyway_core::{Instant, Refusal};
use keyway_protocol::{Request, RequestFrame};

use super::held::HeldFrame;
use super::permit::Permit;
use super::request::Asked;
use super::turn::Turn;
use super::{Responder, SLOW_QUEUE_MAX, Shard};
use crate::runtime::tasks;

/// A request in the lane.
pub struct SlowOperation {
    responder: Responder,
    permit: Permit,
    held: HeldFrame,
    deadline: Option<Instant>,
}

impl SlowOperation {
    /// Lets a request wait.
    pub(super) fn new(asked: Asked<'_>, held: HeldFrame) -> Self {
        Self {
            responder: asked.responder,
            permit: asked.allowed.park(),
            held,
            deadline: asked.deadline,
        }
    }

    /// Gives the request up, to be refused.
    pub(super) fn into_responder(self) -> Responder {
        self.responder
    }
}

impl Shard {
    /// Whether this is the lane's own turn.
    pub(super) fn is_slow_lane_open(&self) -> bool {
        self.figures.slow_lane_open.get()
    }

    pub(super) fn queue_slow(&self, asked: Asked<'_>, frame: &RequestFrame<'_>) {
        let held = self
            .hold(frame)
            .filter(|_| self.slow.borrow().len() < SLOW_QUEUE_MAX);
        let Some(held) = held else {
            let refusal = Refusal::Overloaded { after_us: 100_000 };
            return self.refuse_as(asked.responder, refusal);
        };
        let operation = SlowOperation::new(asked, held);
        self.slow.borrow_mut().push_back(operation);
        self.figures.slow_work.wake();
    }

    /// The lane's task: one operation a turn.
    pub(super) async fn run_slow_lane(self: Rc<Self>) {
        loop {
            let next = self.slow.borrow_mut().pop_front();
            let Some(operation) = next else {
                self.figures.slow_work.wait().await;
                continue;
            };
            let turn = self.begin_turn();
            self.figures.slow_lane_open.set(true);
            self.guarded(|| self.take_slow(&turn, operation));
            self.figures.slow_lane_open.set(false);
            self.end_turn(turn);
            tasks::breathe().await;
        }
    }

    /// The right to the operation and the key itself are asked for again: both may have gone while it queued.
    pub(super) fn take_slow(&self, turn: &Turn, operation: SlowOperation) {
        let SlowOperation {
            responder,
            permit,
            held,
            deadline,
        } = operation;
        let Some(frame) = held.frame() else {
            return;
        };
        let allowed = match self.allow(turn, permit) {
            Ok(allowed) => allowed,
            Err((status, explanation)) => return self.refuse(responder, status, explanation),
        };
        let asked = Asked {
            responder,
            allowed,
            deadline,
        };
        match Request::decode(&frame) {
            Ok(request) => self.use_key(turn, asked, &frame, &request),
            Err(error) => self.refuse(asked.responder, error.status(), &error.to_string()),
        }
    }
}
