//! One connection: bytes in, frames to the shard, bytes out.
//!
//! One task drives both directions. Requests are taken only while there is room: those under way and
//! unsent answers of a connection, of its principal and of the shard are bounded, and TCP slows
//! down a client that asks faster than it listens. Commands that take something away come first, and
//! have places of their own.
//!
//! A connection is closed for being slow only while the server waits for the client: the rest of
//! a frame while the connection is read, or an answer to be taken. Such waits are added up from
//! one look to the next, so the server's own pauses do not count.

mod inbox;

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::{
    Opcode, ProtocolError, Request, RequestFrame, ResponseHead, Status, VERSION,
};

use inbox::Inbox;

use crate::accounts::{Account, Place, Standing};
use crate::authorise::Principal;
use crate::patience::Patience;
use crate::runtime::outbox::Outbox;
use crate::runtime::socket::{Progress, Socket, Wish, drive, send_now};
use crate::runtime::tasks;
use crate::shard::{IN_FLIGHT_PER_CONNECTION_MAX, Origin, Responder, Shard, Turn};

/// Unsent answers past which no request of a connection is taken.
const OUTBOX_MAX: usize = 1 << 20;

/// Requests under way, and unsent answers, beyond the limits for other requests, of commands that take something away.
const EMERGENCIES_IN_FLIGHT_MAX: usize = 64;
const EMERGENCIES_OUTBOX_MAX: usize = 64 << 10;

/// Time for a greeting, for the rest of a frame, or for a peer to take something of an answer.
pub const STALL_US_MAX: u64 = 10_000_000;

/// Time that a connection whose principal has no right may ask for nothing.
pub const RIGHTLESS_IDLE_US_MAX: u64 = 5_000_000;

/// A connection as the shard sees it.
pub struct Connection {
    socket: Rc<RefCell<Socket>>,
    outbox: Rc<RefCell<Outbox>>,
    account: Rc<Account>,
    _place: Place,
    in_flight: Cell<usize>,
    /// Its requests that wait at the shard, so that only those are looked for when it ends. At most
    /// [`IN_FLIGHT_PER_CONNECTION_MAX`].
    waits: RefCell<HashSet<u64>>,
    greeted: Cell<bool>,
    closed: Cell<bool>,
    /// Close when all that is queued has been sent.
    closing: Cell<bool>,
    /// The rest of a frame, or a greeting, has yet to come.
    owes_bytes: Cell<bool>,
    looked_at: Cell<Instant>,
    sent_at_last_look: Cell<u64>,
    /// Waits for the peer: for what it owes, for it to take answers, and for any request.
    for_bytes: Patience,
    for_taking: Patience,
    for_request: Patience,
}

impl Connection {
    /// A connection just accepted.
    pub fn new(socket: Socket, account: Rc<Account>, place: Place, now: Instant) -> Connection {
        Connection {
            socket: Rc::new(RefCell::new(socket)),
            outbox: Rc::new(RefCell::new(Outbox::new(Rc::clone(&account)))),
            account,
            _place: place,
            in_flight: Cell::new(0),
            waits: RefCell::default(),
            greeted: Cell::new(false),
            closed: Cell::new(false),
            closing: Cell::new(false),
            owes_bytes: Cell::new(true),
            looked_at: Cell::new(now),
            sent_at_last_look: Cell::new(0),
            for_bytes: Patience::default(),
            for_taking: Patience::default(),
            for_request: Patience::default(),
        }
    }

    /// Who is at the other end.
    pub fn principal(&self) -> Principal {
        self.account.principal()
    }

    /// What the peer is at this node.
    pub fn standing(&self) -> Standing {
        self.account.standing()
    }

    /// Where answers are appended.
    pub fn outbox(&self) -> &RefCell<Outbox> {
        &self.outbox
    }

    /// The tokens of its requests that wait at the shard.
    pub fn waits(&self) -> &RefCell<HashSet<u64>> {
        &self.waits
    }

    /// Notes that a request has its answer; whether there is still somebody to send it to.
    pub fn finished_request(&self) -> bool {
        self.count_in_flight(self.in_flight.get().saturating_sub(1));
        !self.closed.get()
    }

    fn count_in_flight(&self, after: usize) {
        let before = self.in_flight.replace(after);
        self.account.change_in_flight(before, after);
    }

    /// Ends the connection if the peer has owed its next move for too long. Called about once
    /// a second.
    pub fn close_if_stalled(&self, now: Instant) {
        let elapsed_us = now.saturating_since(self.looked_at.replace(now));
        let (unsent, sent_total) = {
            let mut outbox = self.outbox.borrow_mut();
            outbox.shrink_if_idle();
            (outbox.pending(), outbox.sent_total())
        };
        let takes = self.sent_at_last_look.replace(sent_total) != sent_total;
        let is_read = self.has_room() && !self.closing.get();
        let waits = [
            (
                &self.for_bytes,
                self.owes_bytes.get() && is_read,
                STALL_US_MAX,
            ),
            (&self.for_taking, unsent > 0 && !takes, STALL_US_MAX),
            (
                &self.for_request,
                self.is_rightless() && self.in_flight.get() == 0,
                RIGHTLESS_IDLE_US_MAX,
            ),
        ];
        if takes || unsent == 0 {
            self.for_taking.reset();
        }
        let mut stalled = false;
        for (patience, waits, max_us) in waits {
            stalled |= waits && patience.waited(elapsed_us) > max_us;
        }
        if stalled {
            self.shut_down();
        }
    }

    fn is_rightless(&self) -> bool {
        self.account.standing() == Standing::Rightless
    }

    /// How long a peer without rights has asked for nothing; `None` if it has rights.
    pub fn useless_us(&self) -> Option<u64> {
        self.is_rightless().then(|| self.for_request.total_us())
    }

    /// Returns the bytes that wait to be sent, and whether the peer took any at the last look.
    pub fn unsent(&self) -> (usize, bool) {
        let takes = self.for_taking.total_us() == 0;
        (self.outbox.borrow().bytes.len(), takes)
    }

    /// Ends the connection and drops what has not been sent.
    pub fn abandon(&self) {
        self.closed.set(true);
        self.outbox.borrow_mut().discard();
        self.shut_down();
    }

    /// Ends both directions now.
    pub fn shut_down(&self) {
        self.socket.borrow().shut_down();
    }

    fn has_room(&self) -> bool {
        let (in_flight, unsent) = (self.in_flight.get(), self.outbox.borrow().pending());
        in_flight < IN_FLIGHT_PER_CONNECTION_MAX
            && unsent < OUTBOX_MAX
            && self.account.may_read(in_flight, unsent)
    }

    /// Whether a command that takes something away may be taken although there may be no room for others.
    fn has_room_for_emergency(&self) -> bool {
        self.in_flight.get() < IN_FLIGHT_PER_CONNECTION_MAX + EMERGENCIES_IN_FLIGHT_MAX
            && self.outbox.borrow().pending() < OUTBOX_MAX + EMERGENCIES_OUTBOX_MAX
    }

    /// Serves the connection until it ends.
    pub async fn serve(self: Rc<Self>, shard: Rc<Shard>) {
        let mut inbox = Inbox::new(shard.read_ahead_bytes());
        // Work of this task since the executor last polled I/O and ran the others.
        let mut unrested_us = 0;
        loop {
            if self.closing.get() && self.outbox.borrow().pending() == 0 {
                break;
            }
            // It is read ahead of what may be taken, as far as the inbox reaches.
            let wish = Wish {
                read: !self.closing.get(),
                look_at_room: self.closing.get() || inbox.may_have_frame(),
            };
            let (space, filled) = inbox.space();
            let progress = drive(&self.socket, &self.outbox, space, filled, wish);
            let (progress, has_rested) = tasks::noting_rest(progress).await;
            if has_rested {
                unrested_us = 0;
            }
            match progress {
                Progress::Read(count) => inbox.received(count),
                Progress::Woken => {}
                Progress::Closed => break,
            }
            self.take_frames(&shard, &mut inbox, &mut unrested_us).await;
            // A peer that has always more to say is not to keep everybody else waiting.
            if unrested_us >= tasks::TURN_WORK_US_MAX {
                tasks::breathe().await;
                unrested_us = 0;
            }
        }
        drop(inbox);
        self.closed.set(true);
        self.shut_down();
        // Requests that still wait for an answer keep the connection: not for its principal's account.
        self.count_in_flight(0);
        self.outbox.borrow_mut().discard();
    }

    /// Hands whole frames to the shard: first those that take something away, wherever they stand, then the others as far
    /// as there is room.
    async fn take_frames(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        inbox: &mut Inbox,
        unrested_us: &mut u64,
    ) {
        let origin = Origin::Connection(Rc::clone(self));
        let mut has_taken = false;
        while self.may_take(inbox) || self.may_take_emergency(inbox) {
            let turn = shard.begin_turn();
            if self.may_take_emergency(inbox) {
                // One at least, so that each turn gets on.
                let mut may_more = true;
                inbox.take_emergencies(|frame| {
                    let may = may_more && self.has_room_for_emergency();
                    if may {
                        self.take_frame(shard, &turn, &origin, frame);
                        has_taken = true;
                        may_more = !turn.is_over();
                    }
                    may
                });
            }
            while self.may_take(inbox) {
                match inbox.take_next(|frame| self.take_frame(shard, &turn, &origin, frame)) {
                    Ok(taken) => has_taken |= taken,
                    Err(error) => self.lose_stream(shard, &origin, inbox.rest(), &error),
                }
                if turn.is_over() {
                    break;
                }
            }
            *unrested_us += shard.end_turn(turn);
            if self.may_take(inbox) || self.may_take_emergency(inbox) {
                send_now(&self.socket, &self.outbox).await;
                tasks::breathe().await;
                *unrested_us = 0;
            }
        }
        inbox.settle();
        if has_taken {
            self.for_bytes.reset();
            self.for_request.reset();
        }
        self.owes_bytes
            .set(inbox.is_partial() || !self.greeted.get());
    }

    fn may_take(&self, inbox: &Inbox) -> bool {
        inbox.may_have_frame() && self.has_room() && !self.closing.get()
    }

    /// Nothing comes before HELLO.
    fn may_take_emergency(&self, inbox: &Inbox) -> bool {
        inbox.may_have_emergency()
            && self.greeted.get()
            && self.has_room_for_emergency()
            && !self.closing.get()
    }

    /// Takes one request. A panic must not take the shard down: the request is answered INTERNAL, everybody goes on.
    fn take_frame(
        self: &Rc<Self>,
        shard: &Rc<Shard>,
        turn: &Turn,
        origin: &Origin,
        frame: &RequestFrame<'_>,
    ) {
        self.count_in_flight(self.in_flight.get() + 1);
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
                shard.handle_frame(turn, responder, self.principal(), frame, deadline);
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
                .server_hello(self.principal())
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
        self.count_in_flight(self.in_flight.get() + 1);
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
