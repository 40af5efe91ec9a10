//! Requests that belong to another shard, and those that others send here.

use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::{RequestFrame, ResponseFlags, Status};

use super::request::{Waiting, Wish};
use super::{Origin, Shard, answer::Reply};
use crate::authorise::Principal;
use crate::clock;
use crate::runtime::mesh::{Inbox, Message};

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
    pub(super) fn forward(
        &self,
        shard: u16,
        reply: Reply,
        frame: &RequestFrame<'_>,
        deadline: Option<Instant>,
    ) {
        // Before the frame is copied: refusing is cheap, above all when there is much to refuse.
        if !self.waiting.has_room() {
            return self.refuse_forward(&reply);
        }
        let Some((bytes, claim)) = self.encode_held(frame) else {
            return self.refuse_forward(&reply);
        };
        let principal = reply.origin.principal();
        let message = |token| MeshMessage::Forward {
            token,
            principal,
            deadline,
            frame: bytes,
        };
        let waiting = Waiting {
            reply,
            wish: Wish::Forwarded { _claim: claim },
        };
        match self.waiting.forward(&self.mesh, shard, message, waiting) {
            Ok(()) => {
                self.figures
                    .forwards_out
                    .set(self.figures.forwards_out.get() + 1);
            }
            Err(waiting) => self.refuse_forward(&waiting.reply),
        }
    }

    fn refuse_forward(&self, reply: &Reply) {
        self.figures
            .forwards_refused
            .set(self.figures.forwards_refused.get() + 1);
        self.refuse_as(reply, keyway_core::Refusal::Overloaded { after_us: 1_000 });
    }

    /// Serves one other shard's messages until it ends. Never waits for room anywhere.
    pub(super) async fn receive(self: Rc<Self>, from: u16, inbox: Inbox<MeshMessage>) {
        while let Some(batch) = inbox.batch().await {
            let turn = self.begin_turn();
            for message in batch {
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
                        self.handle_forwarded(turn.now, &origin, &frame, deadline);
                    }
                    MeshMessage::Reply { token, frame } => self.relay(token, frame),
                }
            }
            self.end_turn(turn);
        }
    }

    fn handle_forwarded(
        self: &Rc<Self>,
        now: Instant,
        origin: &Origin,
        bytes: &[u8],
        deadline: Option<Instant>,
    ) {
        // It was decoded by the sender; the bytes are the same.
        let Ok(Some((frame, _))) = RequestFrame::decode(bytes) else {
            return;
        };
        let handled = self.guarded(|| self.handle_frame(now, origin, &frame, deadline));
        if handled.is_none() {
            let reply = Reply {
                origin: origin.clone(),
                request_id: frame.request_id,
                keyspace: 0,
                operation: 0,
            };
            self.refuse(&reply, Status::Internal, "a handler failed; this is a bug");
        }
    }

    fn relay(&self, token: u64, mut frame: Vec<u8>) {
        let Some(waiting) = self.waiting.take(token) else {
            return;
        };
        if let Origin::Connection(connection) = &waiting.reply.origin
            && connection.finished_request()
        {
            frame[RESPONSE_FLAGS_AT] |= ResponseFlags::FORWARDED.bits() as u8;
            let mut outbox = connection.outbox().borrow_mut();
            outbox.bytes.extend_from_slice(&frame);
            outbox.wake();
        }
        zeroize::Zeroize::zeroize(&mut frame);
    }

    /// The absolute deadline of a frame that arrives now.
    pub fn deadline_of(frame: &RequestFrame<'_>, now: Instant) -> Option<Instant> {
        (frame.deadline_us != 0).then(|| now.plus_us(u64::from(frame.deadline_us)))
    }

    /// Whether it is too late to begin. Reads the clock: work may have queued since the turn
    /// began.
    pub(super) fn is_late(deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| clock::now() >= deadline)
    }
}
