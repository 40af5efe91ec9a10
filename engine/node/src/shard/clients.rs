//! Connections at a shard: which get a place, which have to give it up, whose frames are taken, and what is taken back
//! from those that have ended.

use keyway_core::Instant;
use keyway_core::slots::Handle;
use keyway_protocol::RequestFrame;

use super::Shard;
use super::permit::TurnScope;
use super::port::Port;
use super::report::Report;
use crate::connection::{
    Connection, DESCRIPTORS_RESERVED, Full, Phase, Place, Standing, UNSENT_BYTES_MAX,
};
use crate::policy::Principal;

/// What the process had left when it accepted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Who is at the other end.
    pub who: Principal,
    /// Descriptors that the process could still open.
    pub descriptors_left: u64,
}

impl<P: Port> Shard<P> {
    /// Takes a new connection. Strangers leave descriptors and places free for the server's user; where all are taken, a
    /// connection without any right makes room for one that has some.
    ///
    /// # Errors
    /// There is no place: its socket is to be closed.
    pub fn handle_accepted(
        &mut self,
        now: Instant,
        arrival: Arrival,
    ) -> Result<Handle<Connection>, Full> {
        let account = self.out.connections.accounts.of(arrival.who);
        account.set_standing(self.governed.standing(arrival.who));
        match self.place_for(arrival) {
            Ok(place) => Ok(self.out.connections.add(now, account, place)),
            Err(full) => {
                self.upkeep.counts.connections_refused_total += 1;
                Err(full)
            }
        }
    }

    fn place_for(&mut self, arrival: Arrival) -> Result<Place, Full> {
        let connections = &mut self.out.connections;
        let is_operator = self.governed.owner.is_operator(arrival.who);
        if arrival.descriptors_left <= DESCRIPTORS_RESERVED && !is_operator {
            return Err(Full::Shard);
        }
        let account = connections.accounts.of(arrival.who);
        let open = connections.len();
        let place = connections.accounts.connect(&account, open, is_operator);
        if place.is_ok()
            || account.standing() == Standing::Rightless
            || matches!(place, Err(Full::Principal))
        {
            return place;
        }
        let Some(useless) = connections.most_useless() else {
            return place;
        };
        connections.abandon(useless);
        let open = open - 1;
        connections.accounts.connect(&account, open, is_operator)
    }

    /// Returns room for the next bytes of a connection; empty while it is not to be read.
    pub fn recv_space(&mut self, at: Handle<Connection>) -> &mut [u8] {
        match self.out.connections.get_mut(at) {
            Some(Connection {
                inbound: Some(inbound),
                phase: Phase::Greeting | Phase::Open,
                ..
            }) => inbound.space(),
            _ => &mut [],
        }
    }

    /// Takes in the first `len` bytes of [`Shard::recv_space`]. Deadlines count from `now`.
    pub fn handle_received(&mut self, now: Instant, at: Handle<Connection>, len: usize) {
        if let Some(connection) = self.out.connections.get_mut(at) {
            if let Some(inbound) = &mut connection.inbound {
                inbound.received(now, len);
            }
            self.out.connections.note_received(at);
        }
    }

    /// Returns the bytes of a connection that may be sent.
    #[must_use]
    pub fn to_send(&self, at: Handle<Connection>) -> &[u8] {
        let connection = self.out.connections.get(at);
        connection.map_or(&[], |connection| connection.outbound.to_send())
    }

    /// Counts the first `len` bytes of [`Shard::to_send`] as sent.
    pub fn handle_sent(&mut self, at: Handle<Connection>, len: usize) {
        if let Some(connection) = self.out.connections.get_mut(at) {
            connection.outbound.advance(len);
            // It may have waited for capacity.
            self.out.connections.note_received(at);
        }
    }

    /// Returns whether frames of some connection wait for a turn.
    #[must_use]
    pub fn has_frames(&self) -> bool {
        self.out.connections.has_ready()
    }

    /// Returns whether a connection is over: everything has been sent, and nothing more will be taken.
    #[must_use]
    pub fn is_over(&self, at: Handle<Connection>) -> bool {
        self.out
            .connections
            .get(at)
            .is_none_or(|connection| match connection.phase {
                Phase::Greeting | Phase::Open => false,
                Phase::Closing => connection.outbound.pending() == 0,
                Phase::Abandoned => true,
            })
    }

    /// Takes back a connection whose socket is closed.
    pub fn handle_closed(&mut self, at: Handle<Connection>) {
        // Nothing is to be sent or read any more. Its slot is free once its requests are taken back, in the next turns.
        self.out.connections.give_up(at);
        if let Some(connection) = self.out.connections.get_mut(at) {
            connection.inbound = None;
        }
        self.inbox.closed.push_back(at);
    }

    /// Takes back one thing that the next closed connection was waiting for, and the connection when nothing is left.
    pub(super) fn forget_next(&mut self) {
        let Some(at) = self.inbox.closed.front().copied() else {
            return;
        };
        match self.jobs.pop_of(at) {
            Some(job) => self.abandon_job(job),
            None => {
                self.inbox.closed.pop_front();
                self.out.connections.remove(at);
            }
        }
    }

    /// Takes frames of the next connection that has some, until that time: first those that take something away, wherever
    /// they stand, then the others as far as there is room.
    pub(super) fn run_connection(&mut self, scope: &TurnScope, until: Instant) {
        let Some(at) = self.out.connections.next_ready() else {
            return;
        };
        let Some(connection) = self.out.connections.get_mut(at) else {
            return;
        };
        // The frames lie in it while the shard works on them.
        let Some(mut inbound) = connection.inbound.take() else {
            return;
        };
        let mut has_taken = false;
        loop {
            if inbound.may_have_emergency() && self.may_take_emergency(at) {
                // One at least, so that each turn gets on.
                let mut may_more = true;
                inbound.take_emergencies(|frame, received_at| {
                    let may = may_more && self.may_take_emergency(at);
                    if may {
                        self.unit(|shard| shard.dispatch_frame(scope, at, frame, received_at));
                        has_taken = true;
                        may_more = self.timed.now() < until;
                    }
                    may
                });
            } else if inbound.may_have_frame() && self.may_take(at) {
                let taken = inbound.take_next(|frame, received_at| {
                    self.unit(|shard| shard.dispatch_frame(scope, at, frame, received_at));
                });
                match taken {
                    Ok(taken) => has_taken |= taken,
                    Err(error) => {
                        let id = RequestFrame::request_id_at(inbound.rest()).unwrap_or(0);
                        self.unit(|shard| shard.reject_stream(at, id, &error));
                    }
                }
            } else {
                break;
            }
            if self.timed.now() >= until || self.timed.is_over() || self.core.is_broken() {
                break;
            }
        }
        inbound.settle();
        if let Some(connection) = self.out.connections.get_mut(at) {
            connection.inbound = Some(inbound);
            if has_taken {
                connection.stall.note_frame();
            }
        }
        self.out.connections.note_received(at);
    }

    fn may_take(&self, at: Handle<Connection>) -> bool {
        let connection = self.out.connections.get(at);
        connection.is_some_and(Connection::may_take)
    }

    fn may_take_emergency(&self, at: Handle<Connection>) -> bool {
        let connection = self.out.connections.get(at);
        connection.is_some_and(Connection::may_take_emergency)
    }

    /// Ends connections whose peers are late, and looks at what each principal may do now.
    pub(super) fn look_at_connections(&mut self) {
        let now = self.timed.now();
        let governed = &self.governed;
        self.out
            .connections
            .accounts
            .for_each(|account| account.set_standing(governed.standing(account.principal())));
        self.out.connections.close_stalled(now);
    }

    /// Ends the connections that read least, until the shard's unsent answers are within their bound.
    pub(super) fn shed_unsent(&mut self) {
        let connections = &mut self.out.connections;
        if connections.accounts.unsent_bytes() <= UNSENT_BYTES_MAX {
            return;
        }
        let owner = &self.governed.owner;
        let mut readers: Vec<_> = connections
            .iter()
            .map(|(at, connection)| {
                let who = connection.principal();
                let unsent_bytes = connection.outbound.held();
                let last = std::cmp::Reverse(unsent_bytes);
                // A slow reader can miss one look; who reads nothing misses all of them.
                let longest = std::cmp::Reverse(connection.stall.untaken_us());
                (owner.is_operator(who), longest, last, at, who)
            })
            .collect();
        readers.sort_by_key(|(is_operator, longest, last, ..)| (*is_operator, *longest, *last));
        for (.., last, at, who) in readers {
            if connections.accounts.unsent_bytes() <= UNSENT_BYTES_MAX {
                break;
            }
            connections.abandon(at);
            let unsent_bytes = last.0;
            self.out
                .effects
                .push(super::effect::Effect::Log(Report::UnsentShed {
                    who,
                    unsent_bytes,
                }));
        }
    }
}
