//! Requests that belong to another shard, and those that others send here.

use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::{Opcode, RequestFrame, ResponseFlags};
use zeroize::Zeroizing;

use super::operation::expired_meanwhile;
use super::request::{Asked, Wish};
use super::turn::Turn;
use super::{Origin, Responder, Shard};
use crate::accounts::{HELD_BYTES_RESERVED, WAITING_RESERVED};
use crate::authorise::Principal;
use crate::runtime::mesh::{Inbox, Message};
use crate::runtime::tasks;

/// What travels between shards.
#[derive(Debug)]
pub enum MeshMessage {
    /// A request for its owner.
    Forward {
        /// The sender's name for it.
        token: u64,
        /// Who asks.
        principal: Principal,
        /// After this the answer is of no use; the clock is the same on all cores.
        deadline: Option<Instant>,
        /// The whole request frame.
        frame: Vec<u8>,
    },
    /// The answer.
    Reply {
        /// The asker's name for the request.
        token: u64,
        /// The end of the key that was used: the answer does not leave the node at that time or later.
        good_until: Instant,
        /// The whole response frame.
        frame: Vec<u8>,
    },
}

impl Message for MeshMessage {
    fn must_arrive(&self) -> bool {
        matches!(self, MeshMessage::Reply { .. })
    }
}

/// Offset of the flags in a response frame.
const RESPONSE_FLAGS_AT: usize = 6;

impl Shard {
    /// Hands a request to its owner; answers OVERLOADED at once when the mesh is full.
    pub(super) fn forward(&self, shard: u16, asked: Asked<'_>, frame: &RequestFrame<'_>) {
        // Before the frame is copied: refusing is cheap, above all when there is much to refuse.
        let principal = asked.allowed.principal();
        let reserved = self.unless_operator(principal, WAITING_RESERVED);
        if !self.waiting.has_room_beside(reserved) {
            return self.refuse_forward(asked.responder);
        }
        let reserved = self.unless_operator(principal, HELD_BYTES_RESERVED);
        let Some((bytes, claim)) = self.encode_held(frame, reserved) else {
            return self.refuse_forward(asked.responder);
        };
        let deadline = asked.deadline;
        let message = |token| MeshMessage::Forward {
            token,
            principal,
            deadline,
            frame: bytes,
        };
        let connection = asked.responder.connection().cloned();
        let is_write = frame.opcode().is_ok_and(Opcode::is_write);
        let waiting = asked.waiting(Wish::Forwarded {
            is_write,
            _claim: claim,
        });
        match self.waiting.forward(&self.mesh, shard, message, waiting) {
            Ok(token) => {
                self.deadlines.remember(token, deadline);
                if let Some(connection) = connection {
                    connection.waits().borrow_mut().insert(token);
                }
                self.figures
                    .forwards_out
                    .set(self.figures.forwards_out.get() + 1);
            }
            Err(waiting) => self.refuse_forward(waiting.responder),
        }
    }

    fn refuse_forward(&self, responder: Responder) {
        self.figures
            .forwards_refused
            .set(self.figures.forwards_refused.get() + 1);
        let refusal = keyway_core::Refusal::Overloaded { after_us: 1_000 };
        self.refuse_as(responder, refusal);
    }

    /// Serves one other shard's messages until it ends. Never waits for room anywhere. A batch that is too much for one
    /// turn goes on in the next.
    pub(super) async fn receive(self: Rc<Self>, from: u16, inbox: Inbox<MeshMessage>) {
        while let Some(batch) = inbox.batch().await {
            let mut turn = self.begin_turn();
            for message in batch {
                if turn.is_over() {
                    self.end_turn(turn);
                    tasks::breathe().await;
                    turn = self.begin_turn();
                }
                turn.next_unit();
                match message {
                    MeshMessage::Forward {
                        token,
                        principal,
                        deadline,
                        frame,
                    } => {
                        self.figures
                            .forwards_in
                            .set(self.figures.forwards_in.get() + 1);
                        let origin = Origin::Peer {
                            shard: from,
                            token,
                            principal,
                        };
                        self.handle_forwarded(&turn, &origin, &frame, deadline);
                    }
                    MeshMessage::Reply {
                        token,
                        good_until,
                        frame,
                    } => {
                        self.guarded(|| self.relay(&turn, token, good_until, frame));
                    }
                }
            }
            self.end_turn(turn);
        }
    }

    fn handle_forwarded(
        self: &Rc<Self>,
        turn: &Turn,
        origin: &Origin,
        bytes: &[u8],
        deadline: Option<Instant>,
    ) {
        // It was decoded by the sender; the bytes are the same.
        let Ok(Some((frame, _))) = RequestFrame::decode(bytes) else {
            return;
        };
        let responder = self.responder_of(origin, &frame);
        let principal = origin.principal();
        self.guarded(|| self.handle_frame(turn, responder, principal, &frame, deadline));
    }

    /// Passes another shard's answer on, unless the right to it was withdrawn or the time of the key that was used has
    /// ended while it was on its way. Of a write the truth is told: it was done.
    fn relay(&self, turn: &Turn, token: u64, good_until: Instant, frame: Vec<u8>) {
        let mut frame = Zeroizing::new(frame);
        let Some(waiting) = self.take_waiting(token) else {
            return;
        };
        let Wish::Forwarded { is_write, .. } = waiting.wish else {
            return;
        };
        if let (false, Err((status, explanation))) = (is_write, self.recheck(waiting.permit)) {
            return self.refuse(waiting.responder, status, explanation);
        }
        if turn.now() >= good_until {
            return self.answer(waiting.responder, |_| Err(expired_meanwhile()));
        }
        frame[RESPONSE_FLAGS_AT] |= ResponseFlags::FORWARDED.bits() as u8;
        self.pass_on(waiting.responder, &frame);
    }

    /// The absolute deadline of a frame that arrives now.
    pub fn deadline_of(frame: &RequestFrame<'_>, now: Instant) -> Option<Instant> {
        (frame.deadline_us != 0).then(|| now.plus_us(u64::from(frame.deadline_us)))
    }
}
