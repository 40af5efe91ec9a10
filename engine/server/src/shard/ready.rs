//! Requests whose wait is over.
//!
//! When a load lands, or a keyspace is locked, tens of thousands may be ready at once. They are carried out one at a time,
//! each against a reading of the clock of its own and a look at its right, as many as fit into a turn; the rest follow in
//! turns of their own, between which I/O is polled and everybody else gets a turn.

use std::rc::Rc;

use keyway_core::{Outcome, Refusal};
use keyway_protocol::{Request, ResponseHead};

use super::Shard;
use super::request::{Asked, Waiting, Wish};
use super::turn::Turn;
use crate::runtime::tasks;

impl Shard {
    /// Carries out requests whose wait is over, as long as the turn lasts.
    pub(super) fn serve_ready(&self, turn: &Turn) {
        while !self.core.is_broken() && self.core.borrow().has_ready() {
            if turn.is_over() {
                return self.ready_work.wake();
            }
            self.guarded(|| self.serve_one_ready(turn));
        }
    }

    /// The task that goes on where a turn had to leave off.
    pub(super) async fn run_ready_lane(self: Rc<Self>) {
        loop {
            self.ready_work.wait().await;
            let turn = self.begin_turn();
            self.end_turn(turn);
            tasks::breathe().await;
        }
    }

    fn serve_one_ready(&self, turn: &Turn) {
        let mut core = self.core.borrow_mut();
        let Some((token, outcome)) = core.poll_ready(turn.next_unit()) else {
            return;
        };
        let Some(waiting) = self.take_waiting(token.0) else {
            return self.dek_waits.tell(token.0, &outcome);
        };
        match outcome {
            Outcome::Serve(grant) => {
                let Waiting {
                    responder,
                    permit,
                    wish: Wish::Operation { held, deadline },
                    ..
                } = waiting
                else {
                    return;
                };
                let allowed = match self.allow(turn, permit) {
                    Ok(allowed) => allowed,
                    Err((status, text)) => return self.refuse(responder, status, text),
                };
                let asked = Asked {
                    responder,
                    allowed,
                    deadline,
                };
                let Some(frame) = held.frame() else { return };
                // It was decoded when it came.
                if let Ok(request) = Request::decode(&frame) {
                    self.carry_out(turn, asked, &frame, &request, &grant);
                }
            }
            // A write waits elsewhere, under a token of its own.
            Outcome::Dek => {}
            Outcome::Refreshed { version } => {
                drop(core);
                self.refreshed(waiting, version);
            }
            Outcome::Refuse(refusal) => {
                drop(core);
                self.refuse_waiting(waiting, refusal);
            }
        }
    }

    fn refreshed(&self, waiting: Waiting, version: u32) {
        if let Err((status, text)) = self.recheck(waiting.permit) {
            return self.refuse(waiting.responder, status, text);
        }
        self.answer(waiting.responder, |_| {
            Ok(ResponseHead {
                key_version: version,
                ..ResponseHead::OK
            })
        });
    }

    /// What became of a key is as little for those without a right as the key is.
    fn refuse_waiting(&self, waiting: Waiting, refusal: Refusal) {
        match self.recheck(waiting.permit) {
            Ok(()) => self.refuse_as(waiting.responder, refusal),
            Err((status, text)) => self.refuse(waiting.responder, status, text),
        }
    }
}
