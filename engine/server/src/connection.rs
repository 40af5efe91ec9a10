//! One connection: bytes in, frames to the shard, bytes out.
//!
//! One task drives both directions. It reads only while there is room: requests under way and
//! unsent answers of a connection are bounded, and TCP slows down whoever asks faster than it
//! listens.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::limits::FRAME_LEN_MAX;
use keyway_protocol::{
    Opcode, ProtocolError, Request, RequestFrame, ResponseHead, Status, VERSION,
};
use zeroize::Zeroize;

use crate::authorise::Principal;
use crate::clock;
use crate::runtime::socket::{Outbox, Progress, Socket, drive, send_now};
use crate::runtime::tasks;
use crate::shard::{IN_FLIGHT_PER_CONNECTION_MAX, Origin, Responder, Shard, Turn};

/// First size of a connection's read buffer; it grows to a whole frame when one needs it.
const INBOX_LEN: usize = 16 << 10;

/// Unsent answers past which a connection is not read.
const OUTBOX_MAX: usize = 1 << 20;

/// Time for a greeting, for the rest of a frame, or for a peer to take an answer.
pub const STALL_US_MAX: u64 = 10_000_000;

const _: () = assert!(INBOX_LEN < FRAME_LEN_MAX);

/// A connection as the shard sees it.
pub struct Connection {
    socket: Rc<RefCell<Socket>>,
    outbox: Rc<RefCell<Outbox>>,
    principal: Principal,
    in_flight: Cell<usize>,
    greeted: Cell<bool>,
    closed: Cell<bool>,
    /// Close when all that is queued has been sent.
    closing: Cell<bool>,
    /// When the wait for a greeting or the rest of a frame began; `None` while neither is owed.
    stalled_since: Cell<Option<Instant>>,
    /// When the peer was first seen to take nothing of what is to be sent; `None` while it does.
    unread_since: Cell<Option<Instant>>,
    sent_at_last_look: Cell<u64>,
}

impl Connection {
    /// A connection just accepted.
    pub fn new(socket: Socket, now: Instant) -> Connection {
        Connection {
            principal: socket.principal(),
            socket: Rc::new(RefCell::new(socket)),
            outbox: Rc::default(),
            in_flight: Cell::new(0),
            greeted: Cell::new(false),
            closed: Cell::new(false),
            closing: Cell::new(false),
            stalled_since: Cell::new(Some(now)),
            unread_since: Cell::new(None),
            sent_at_last_look: Cell::new(0),
        }
    }

    /// Who is at the other end.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// Where answers are appended.
    pub fn outbox(&self) -> &RefCell<Outbox> {
        &self.outbox
    }

    /// Notes that a request has its answer; whether there is still somebody to send it to.
    pub fn finished_request(&self) -> bool {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        !self.closed.get()
    }

    /// Ends the connection if the peer has owed us its next move for too long. Called about once
    /// a second.
    pub fn close_if_stalled(&self, now: Instant) {
        let (unsent, sent_total) = {
            let outbox = self.outbox.borrow();
            (outbox.pending(), outbox.sent_total())
        };
        let takes = self.sent_at_last_look.replace(sent_total) != sent_total;
        if unsent == 0 || takes {
            self.unread_since.set(None);
        } else if self.unread_since.get().is_none() {
            self.unread_since.set(Some(now));
        }
        let too_long = |since: Instant| now.saturating_since(since) > STALL_US_MAX;
        let waits = [self.stalled_since.get(), self.unread_since.get()];
        if waits.into_iter().flatten().any(too_long) {
            self.shut_down();
        }
    }

    /// Ends both directions now.
    pub fn shut_down(&self) {
        self.socket.borrow().shut_down();
    }

    fn has_room(&self) -> bool {
        self.in_flight.get() < IN_FLIGHT_PER_CONNECTION_MAX
            && self.outbox.borrow().pending() < OUTBOX_MAX
    }

    /// Serves the connection until it ends.
    pub async fn serve(self: Rc<Self>, shard: Rc<Shard>) {
        let mut inbox = vec![0; INBOX_LEN];
        let mut filled = 0;
        loop {
            let reading = self.has_room() && !self.closing.get();
            if self.closing.get() && self.outbox.borrow().pending() == 0 {
                break;
            }
            match drive(&self.socket, &self.outbox, &mut inbox, filled, reading).await {
                Progress::Read(count) => filled += count,
                Progress::Woken => {}
                Progress::Closed => break,
            }
            filled = self.take_frames(&shard, &mut inbox, filled).await;
        }
        inbox.zeroize();
        self.closed.set(true);
        self.shut_down();
    }

    /// Hands whole frames to the shard; how many bytes are left at the front of `inbox`.
    async fn take_frames(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        inbox: &mut Vec<u8>,
        filled: usize,
    ) -> usize {
        let origin = Origin::Connection(Rc::clone(self));
        let mut at = 0;
        let mut more = filled > 0;
        while more && self.has_room() && !self.closing.get() {
            let turn = shard.begin_turn();
            loop {
                if !self.has_room() || self.closing.get() {
                    break;
                }
                match RequestFrame::decode(&inbox[at..filled]) {
                    Ok(Some((frame, len))) => {
                        self.take_frame(shard, &turn, &origin, &frame);
                        at += len;
                    }
                    Ok(None) => {
                        more = false;
                        break;
                    }
                    Err(error) => {
                        self.lose_stream(shard, &origin, &inbox[at..filled], &error);
                        more = false;
                        break;
                    }
                }
                if turn.is_over() {
                    break;
                }
            }
            shard.end_turn(turn);
            if more {
                send_now(&self.socket, &self.outbox).await;
                tasks::breathe().await;
            }
        }
        // Requests can carry secrets (imports, plaintexts): nothing stays behind.
        inbox.copy_within(at..filled, 0);
        let left = filled - at;
        inbox[left..filled].zeroize();
        if left == inbox.len() {
            inbox.resize(FRAME_LEN_MAX, 0);
        }
        let owes = left > 0 || !self.greeted.get();
        match (owes, self.stalled_since.get()) {
            (true, None) => self.stalled_since.set(Some(clock::now())),
            (false, Some(_)) => self.stalled_since.set(None),
            _ => {}
        }
        left
    }

    /// Takes one request. A panic must not take the shard down: the request is answered INTERNAL, everybody goes on.
    fn take_frame(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        turn: &Turn,
        origin: &Origin,
        frame: &RequestFrame<'_>,
    ) {
        self.in_flight.set(self.in_flight.get() + 1);
        let now = turn.next_unit();
        let responder = shard.responder_of(origin, frame);
        shard.guarded(|| match frame.opcode() {
            Ok(Opcode::Hello) => self.greet(shard, responder, frame),
            _ if !self.greeted.get() => {
                shard.refuse(responder, Status::BadRequest, "say HELLO first");
                self.closing.set(true);
            }
            Ok(Opcode::Ping) => echo(shard, responder, frame),
            _ => {
                let deadline = Shard::deadline_of(frame, now);
                shard.handle_frame(turn, responder, self.principal, frame, deadline);
            }
        });
    }

    fn greet(&self, shard: &Shard, responder: Responder, frame: &RequestFrame<'_>) {
        let hello = match Request::decode(frame) {
            Ok(Request::Hello(hello)) => hello,
            Ok(_) => return,
            Err(error) => {
                shard.refuse(responder, error.status(), &error.to_string());
                return self.closing.set(true);
            }
        };
        if !(hello.version_min..=hello.version_max).contains(&VERSION) {
            let text = format!("this server speaks version {VERSION} only");
            shard.refuse(responder, Status::Unsupported, &text);
            return self.closing.set(true);
        }
        self.greeted.set(true);
        shard.answer(responder, |payload| {
            let encoded = shard
                .server_hello(self.principal)
                .and_then(|hello| hello.encode(payload).map_err(|error| error.to_string()));
            match encoded {
                Ok(()) => Ok(ResponseHead::OK),
                Err(text) => Err((ResponseHead::status(Status::Internal), text)),
            }
        });
    }

    fn lose_stream(&self, shard: &Shard, origin: &Origin, bytes: &[u8], error: &ProtocolError) {
        shard.count_protocol_error();
        let request_id = RequestFrame::request_id_at(bytes).unwrap_or(0);
        self.in_flight.set(self.in_flight.get() + 1);
        let responder = shard.responder_to(origin, request_id);
        shard.refuse(responder, Status::BadRequest, &error.to_string());
        self.closing.set(true);
    }
}

fn echo(shard: &Shard, responder: Responder, frame: &RequestFrame<'_>) {
    shard.answer(responder, |payload| match Request::decode(frame) {
        Ok(_) => {
            payload.extend_from_slice(&frame.payload);
            Ok(ResponseHead::OK)
        }
        Err(error) => Err((ResponseHead::status(error.status()), error.to_string())),
    });
}
