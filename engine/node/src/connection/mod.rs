//! Connections: bytes in, frames to the shard, answers to bytes.
//!
//! ```text
//!  socket ─▶ recv_space, handle_received ─▶ inbound ─ frame ─▶ the shard ─ answer ─▶ outbound ─▶ to_send ─▶ socket
//! ```
//!
//! Requests are taken only within limits: requests in flight and unsent answers of a connection, of its principal and
//! of the shard are bounded, and TCP slows down a client that sends faster than it reads. Commands that take something away
//! come first, and have places of their own.

pub mod accounts;
mod arrivals;
mod inbound;
mod outbound;
pub mod patience;
mod stall;

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use keyway_core::Instant;

pub use accounts::{
    Account, Accounts, CONTROL_RESERVED, DESCRIPTORS_RESERVED, Full, HELD_BYTES_RESERVED,
    IN_FLIGHT_PER_PRINCIPAL_MAX, LISTS_PER_PRINCIPAL_MAX, OPERATOR_CONNECTIONS, Place,
    REVOCATIONS_PER_PRINCIPAL_MAX, Standing, UNSENT_BYTES_MAX, WAITING_RESERVED,
    WRITES_PER_PRINCIPAL_MAX,
};
pub(crate) use inbound::Inbound;
pub(crate) use outbound::Outbound;
pub(crate) use stall::Stall;

use crate::policy::Principal;
use keyway_core::slots::{Handle, Slots};

/// Most requests of one connection in flight.
pub const IN_FLIGHT_PER_CONNECTION_MAX: usize = 1_024;

/// Unsent answers past which no request of a connection is taken.
pub const UNSENT_BYTES_PER_CONNECTION_MAX: usize = 1 << 20;

const _: () = assert!(UNSENT_BYTES_PER_CONNECTION_MAX < accounts::UNSENT_BYTES_PER_PRINCIPAL_MAX);

/// Requests in flight, and unsent answers, beyond the limits for other requests, of commands that take something away.
const EMERGENCIES_IN_FLIGHT_MAX: usize = 64;
const EMERGENCIES_UNSENT_MAX: usize = 64 << 10;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// HELLO has yet to come.
    Greeting,
    /// It may ask.
    Open,
    /// It is to be closed when all that is queued has been sent.
    Closing,
    /// Its socket is being closed. Nothing is sent any more.
    Abandoned,
}

/// One connection.
pub struct Connection {
    account: Rc<Account>,
    _place: Place,
    pub(crate) phase: Phase,
    /// `None` while its frames are being taken.
    pub(crate) inbound: Option<Inbound>,
    pub(crate) outbound: Outbound,
    in_flight: usize,
    pub(crate) stall: Stall,
    marks: Marks,
}

/// In which queues a connection is.
#[derive(Default)]
struct Marks {
    /// Its frames wait for a turn.
    is_ready: bool,
    /// Its task is to look at it.
    is_to_send: bool,
}

impl Connection {
    fn new(now: Instant, account: Rc<Account>, place: Place, inbound: Inbound) -> Connection {
        Connection {
            phase: Phase::Greeting,
            inbound: Some(inbound),
            outbound: Outbound::new(Rc::clone(&account)),
            account,
            _place: place,
            in_flight: 0,
            stall: Stall::new(now),
            marks: Marks::default(),
        }
    }

    /// Returns who is at the other end.
    pub(crate) fn principal(&self) -> Principal {
        self.account.principal()
    }

    /// Returns whether the principal has no right at this node.
    pub(crate) fn is_rightless(&self) -> bool {
        self.account.standing() == Standing::Rightless
    }

    /// Returns whether it is to be read: ahead of what may be taken, as far as the buffer reaches.
    pub(crate) fn may_read(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Open)
    }

    /// Returns whether one more request may be taken.
    pub(crate) fn may_take(&self) -> bool {
        self.may_read() && self.has_room()
    }

    /// Returns whether a command that takes something away may be taken, although there may be no room for others.
    /// Nothing comes before HELLO.
    pub(crate) fn may_take_emergency(&self) -> bool {
        self.phase == Phase::Open
            && self.in_flight < IN_FLIGHT_PER_CONNECTION_MAX + EMERGENCIES_IN_FLIGHT_MAX
            && self.outbound.pending() < UNSENT_BYTES_PER_CONNECTION_MAX + EMERGENCIES_UNSENT_MAX
    }

    /// Returns whether there may be frames that may be taken.
    fn has_frames(&self) -> bool {
        self.inbound.as_ref().is_some_and(|inbound| {
            (inbound.may_have_frame() && self.may_take())
                || (inbound.may_have_emergency() && self.may_take_emergency())
        })
    }

    fn has_room(&self) -> bool {
        let unsent = self.outbound.pending();
        self.in_flight < IN_FLIGHT_PER_CONNECTION_MAX
            && unsent < UNSENT_BYTES_PER_CONNECTION_MAX
            && self.account.may_read(self.in_flight, unsent)
    }

    /// Counts a request that came.
    pub(crate) fn begin_request(&mut self) {
        self.count_in_flight(self.in_flight + 1);
    }

    fn count_in_flight(&mut self, after: usize) {
        let before = std::mem::replace(&mut self.in_flight, after);
        self.account.change_in_flight(before, after);
    }

    /// Looks at how long the peer has kept the server waiting, about once a second. Returns whether it is too long.
    fn is_stalled(&mut self, now: Instant) -> bool {
        self.outbound.shrink_if_idle();
        let waits = stall::Waits {
            owes_bytes: self.owes_bytes() && self.may_take(),
            unsent: self.outbound.pending(),
            sent_total: self.outbound.sent_total(),
            is_useless: self.is_rightless() && self.in_flight == 0,
        };
        self.stall.look(now, waits)
    }

    /// Returns `true` if the rest of a frame, or HELLO, has not arrived yet.
    fn owes_bytes(&self) -> bool {
        let is_partial = self.inbound.as_ref().is_some_and(Inbound::is_partial);
        self.phase == Phase::Greeting || is_partial
    }

    /// Discards what has not been sent.
    fn abandon(&mut self) {
        self.phase = Phase::Abandoned;
        self.outbound.discard();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.count_in_flight(0);
    }
}

/// The connections of a shard.
pub(crate) struct Connections {
    pub(crate) accounts: Accounts,
    all: Slots<Connection>,
    /// Connections with frames to take; those whose next frame takes something away apart, since they go first.
    ready: VecDeque<Handle<Connection>>,
    urgent: VecDeque<Handle<Connection>>,
    /// Connections whose task is to look at them: something can be sent, or it may read again, or it is over.
    to_send: VecDeque<Handle<Connection>>,
    /// Connections whose sockets are to be closed.
    to_close: VecDeque<Handle<Connection>>,
    /// Connections that are over, and whose sockets are being closed.
    abandoned: usize,
    /// Bytes that the buffers have beyond a frame each.
    read_ahead_bytes: Rc<Cell<usize>>,
}

impl Connections {
    pub(crate) fn new(connections_max: usize) -> Self {
        Connections {
            accounts: Accounts::new(connections_max),
            all: Slots::default(),
            ready: VecDeque::new(),
            urgent: VecDeque::new(),
            to_send: VecDeque::new(),
            to_close: VecDeque::new(),
            abandoned: 0,
            read_ahead_bytes: Rc::default(),
        }
    }

    /// Returns how many connections there are, without those that are over.
    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.abandoned
    }

    pub(crate) fn get(&self, at: Handle<Connection>) -> Option<&Connection> {
        self.all.get(at)
    }

    pub(crate) fn get_mut(&mut self, at: Handle<Connection>) -> Option<&mut Connection> {
        self.all.get_mut(at)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Handle<Connection>, &Connection)> {
        let all = self.all.iter();
        all.map(|(at, connection)| (self.all.handle(at), connection))
    }

    pub(crate) fn add(
        &mut self,
        now: Instant,
        account: Rc<Account>,
        place: Place,
    ) -> Handle<Connection> {
        let inbound = Inbound::new(Rc::clone(&self.read_ahead_bytes));
        let at = self
            .all
            .insert(Connection::new(now, account, place, inbound));
        self.all.handle(at)
    }

    /// Takes out a connection whose socket is closed.
    pub(crate) fn remove(&mut self, at: Handle<Connection>) -> Option<Connection> {
        let removed = self.all.take(at)?;
        self.abandoned -= usize::from(removed.phase == Phase::Abandoned);
        Some(removed)
    }

    /// Notes that a connection may have frames to take.
    pub(crate) fn note_received(&mut self, at: Handle<Connection>) {
        let Some(connection) = self.all.get_mut(at) else {
            return;
        };
        if connection.marks.is_ready || !connection.has_frames() {
            return;
        }
        connection.marks.is_ready = true;
        let code = connection.inbound.as_ref().and_then(Inbound::next_code);
        match code.is_some_and(inbound::may_be_emergency) {
            true => self.urgent.push_back(at),
            false => self.ready.push_back(at),
        }
    }

    /// Returns the next connection with frames to take.
    pub(crate) fn next_ready(&mut self) -> Option<Handle<Connection>> {
        loop {
            let next = self.urgent.pop_front().or_else(|| self.ready.pop_front());
            let connection = self.all.get_mut(next?);
            if let Some(connection) = connection {
                connection.marks.is_ready = false;
                return next;
            }
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.urgent.is_empty() || !self.ready.is_empty()
    }

    /// Counts a request that has its answer, or needs none. Returns the connection if it can still be sent.
    pub(crate) fn finish_request(&mut self, at: Handle<Connection>) -> Option<&mut Connection> {
        let connection = self.all.get_mut(at)?;
        connection.count_in_flight(connection.in_flight.saturating_sub(1));
        (connection.phase != Phase::Abandoned).then_some(connection)
    }

    /// Releases what was appended to a connection, and has its task look at it.
    pub(crate) fn release(&mut self, at: Handle<Connection>) {
        if let Some(connection) = self.all.get_mut(at) {
            connection.outbound.release();
            if !std::mem::replace(&mut connection.marks.is_to_send, true) {
                self.to_send.push_back(at);
            }
        }
        // It may have waited for capacity.
        self.note_received(at);
    }

    /// Returns the next connection whose task is to look at it.
    pub(crate) fn next_to_send(&mut self) -> Option<Handle<Connection>> {
        loop {
            let at = self.to_send.pop_front()?;
            if let Some(connection) = self.all.get_mut(at) {
                connection.marks.is_to_send = false;
                return Some(at);
            }
        }
    }

    /// Returns the next connection whose socket is to be closed.
    pub(crate) fn next_to_close(&mut self) -> Option<Handle<Connection>> {
        self.to_close.pop_front()
    }

    /// Drops what a connection has not been sent, and has its socket closed.
    pub(crate) fn abandon(&mut self, at: Handle<Connection>) {
        if self.give_up(at) {
            self.to_close.push_back(at);
        }
    }

    /// Drops what a connection has not been sent. Returns whether it was not over before.
    pub(crate) fn give_up(&mut self, at: Handle<Connection>) -> bool {
        let connection = self.all.get_mut(at);
        let Some(connection) = connection.filter(|connection| connection.phase != Phase::Abandoned)
        else {
            return false;
        };
        connection.abandon();
        self.abandoned += 1;
        true
    }

    /// Ends connections whose peers are late.
    pub(crate) fn close_stalled(&mut self, now: Instant) {
        for number in 0..self.all.high_water() {
            let Some((at, _)) = self.all.nth(number) else {
                continue;
            };
            let connection = &mut self.all[at];
            if connection.phase != Phase::Abandoned && connection.is_stalled(now) {
                self.abandon(self.all.handle(at));
            }
        }
    }

    /// Returns the connection without rights that has asked for nothing for longest.
    pub(crate) fn most_useless(&self) -> Option<Handle<Connection>> {
        let useless = self.iter().filter(|(_, connection)| {
            connection.is_rightless() && connection.phase != Phase::Abandoned
        });
        let useless = useless.map(|(at, connection)| (connection.stall.useless_us(), at));
        useless.max().map(|(_, at)| at)
    }
}
