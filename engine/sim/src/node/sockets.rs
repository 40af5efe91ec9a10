//! Connections: a client's end and a server's end, and bytes between them that are split, late, unread or lost.

use super::site::Input;
use super::{Event, World};
use crate::oracle::{Checked, ensure};
use keyway_core::Instant;
use keyway_core::slots::Handle;
use keyway_node::connection::{
    Connection, IN_FLIGHT_PER_CONNECTION_MAX, UNSENT_BYTES_PER_CONNECTION_MAX,
};
use keyway_node::policy::Principal;
use keyway_node::shard::Arrival;
use keyway_protocol::limits::FRAME_LEN_MAX;
use keyway_protocol::{ResponseFlags, ResponseFrame, Status};
use std::collections::VecDeque;

const WIRE: u64 = 204;
const READ: u64 = 205;
/// The longest answer of control in a history that has few keyspaces.
const COMMAND_ANSWER_LEN_MAX: usize = 1 << 10;
/// Answers that wait for a client, with the last one and those to commands: when these arrived, their answers were not there.
const UNSENT_MAX: usize = UNSENT_BYTES_PER_CONNECTION_MAX
    + FRAME_LEN_MAX
    + IN_FLIGHT_PER_CONNECTION_MAX * COMMAND_ANSWER_LEN_MAX;

/// A client's connection.
#[derive(Default)]
pub(super) struct Socket {
    /// Numbers the client's connections.
    pub(super) connection: u64,
    pub(super) is_open: bool,
    up_free_at: u64,
    down_free_at: u64,
    /// What the client has received and not decoded.
    received: Vec<u8>,
    /// Until then the client reads nothing.
    pub(super) unread_until: u64,
    sent_len: u64,
    /// Where each request ends in what the client has sent.
    ends: VecDeque<End>,
    pub(super) server: Option<ServerEnd>,
}

/// Where a request ends in what was sent on a connection.
#[derive(Clone, Copy)]
struct End {
    connection: u64,
    at: u64,
    request: u64,
}

/// The server's end of it.
pub(super) struct ServerEnd {
    connection: u64,
    pub(super) shard: u16,
    handle: Handle<Connection>,
    /// What has arrived and was not read.
    kernel: VecDeque<u8>,
    read_len: u64,
    /// How much of what may be sent was looked at.
    looked_len: usize,
}

/// An answer as it lies in a connection's bytes.
#[derive(Clone, Debug)]
pub(super) struct ReceivedAnswer {
    pub(super) request: u64,
    pub(super) status: Status,
    pub(super) version: u32,
    pub(super) is_stale: bool,
    pub(super) payload: Vec<u8>,
}

impl Socket {
    /// As after a crash of the server: the client has no connection.
    pub(super) fn gone(&self) -> Self {
        Self {
            connection: self.connection,
            ..Self::default()
        }
    }
}

impl World<'_> {
    /// A client connects, unless it is.
    pub(super) fn connect(&mut self, client: usize) {
        let socket = &mut self.sockets[client];
        if socket.is_open {
            return;
        }
        socket.connection += 1;
        socket.is_open = true;
        socket.received.clear();
        socket.sent_len = 0;
        let connection = socket.connection;
        self.send_up(client, Input::Accept { client, connection }, 50);
        self.say_hello(client);
    }

    /// Something from a client to its shard, in order.
    fn send_up(&mut self, client: usize, input: Input, delay_us: u64) {
        let shard = self.shard_of(client);
        let at = (self.now + delay_us).max(self.sockets[client].up_free_at);
        self.sockets[client].up_free_at = at;
        self.schedule(at, Event::ToShard { shard, input });
    }

    /// The shard that a client connects to.
    pub(super) fn shard_of(&self, client: usize) -> u16 {
        let connected = self.sockets[client].server.as_ref().map(|end| end.shard);
        connected.unwrap_or(self.plan.clients[client].shard % self.sites.len() as u16)
    }

    /// A client sends a request, perhaps in pieces.
    pub(super) fn send_frame(&mut self, client: usize, request: u64, mut bytes: Vec<u8>) {
        let socket = &mut self.sockets[client];
        socket.sent_len += bytes.len() as u64;
        let connection = socket.connection;
        socket.ends.push_back(End {
            connection,
            at: socket.sent_len,
            request,
        });
        let mut dice = self.dice(WIRE, request);
        while !bytes.is_empty() {
            let len = match dice.one_in(8) && !self.is_calm {
                true => 1 + dice.below(bytes.len() as u64) as usize,
                false => bytes.len(),
            };
            let rest = bytes.split_off(len);
            let bytes = std::mem::replace(&mut bytes, rest);
            let delay_us = match dice.one_in(20) && !self.is_calm {
                true => dice.range(1_000, 150_000),
                false => dice.range(5, 500),
            };
            let input = Input::Bytes {
                client,
                connection,
                bytes,
            };
            self.send_up(client, input, delay_us);
        }
    }

    /// A client's connection is gone, by its own doing.
    pub(super) fn reset(&mut self, client: usize) {
        let socket = &mut self.sockets[client];
        if std::mem::replace(&mut socket.is_open, false) {
            let connection = socket.connection;
            self.books.lose(client);
            self.send_up(client, Input::Closed { client, connection }, 20);
        }
    }

    pub(super) fn accept(&mut self, number: u16, client: usize, connection: u64) {
        let who = self.principal_of(client);
        let arrival = Arrival {
            who,
            descriptors_left: self.descriptors_left(),
        };
        let (now, site) = (self.now, &mut self.sites[usize::from(number)]);
        let accepted = site
            .shard
            .handle_accepted(Instant::from_micros(now), arrival);
        let handle = match accepted {
            Ok(handle) if arrival.descriptors_left > 0 => handle,
            _ => {
                self.note_refused(number, arrival);
                return self.send_down(client, connection, None);
            }
        };
        site.handles.insert(handle, client);
        self.sockets[client].server = Some(ServerEnd {
            connection,
            shard: number,
            handle,
            kernel: VecDeque::new(),
            read_len: 0,
            looked_len: 0,
        });
    }

    pub(super) fn principal_of(&self, client: usize) -> Principal {
        Principal::Uid(super::process::uid_of(self.plan.clients[client].user))
    }

    pub(super) fn take_bytes(&mut self, client: usize, connection: u64, bytes: &[u8]) {
        if let Some(end) = &mut self.sockets[client].server
            && end.connection == connection
        {
            end.kernel.extend(bytes);
        }
    }

    pub(super) fn take_close(&mut self, number: u16, client: usize, connection: u64) {
        let socket = &mut self.sockets[client];
        if let Some(end) = socket.server.take_if(|end| end.connection == connection) {
            let site = &mut self.sites[usize::from(number)];
            site.handles.remove(&end.handle);
            site.shard.handle_closed(end.handle);
        }
    }

    /// Has a shard read its sockets, as far as it does.
    pub(super) fn feed_all(&mut self, number: u16) {
        for client in 0..self.sockets.len() {
            self.feed(number, client);
        }
    }

    fn feed(&mut self, number: u16, client: usize) {
        let now = self.now;
        let mut dice = self.dice(READ, client as u64);
        let socket = &mut self.sockets[client];
        let Some(end) = socket.server.as_mut().filter(|end| end.shard == number) else {
            return;
        };
        let site = &mut self.sites[usize::from(number)];
        while !end.kernel.is_empty() {
            let space = site.shard.recv_space(end.handle);
            let mut len = space.len().min(end.kernel.len());
            if len == 0 {
                return;
            }
            if dice.one_in(10) {
                len = 1 + dice.below(len as u64) as usize;
            }
            for (to, from) in space.iter_mut().zip(end.kernel.drain(..len)) {
                *to = from;
            }
            site.shard
                .handle_received(Instant::from_micros(now), end.handle, len);
            end.read_len += len as u64;
            while let Some(next) = socket.ends.front().copied()
                && (next.connection, next.at) <= (end.connection, end.read_len)
            {
                socket.ends.pop_front();
                if next.connection == end.connection {
                    self.books.receive(number, next.request, now);
                }
            }
        }
    }

    /// Whether a shard could read a socket.
    pub(super) fn has_bytes(&mut self, number: u16) -> bool {
        let site = &mut self.sites[usize::from(number)];
        let ends = self
            .sockets
            .iter()
            .filter_map(|socket| socket.server.as_ref());
        let mut ends = ends.filter(|end| end.shard == number && !end.kernel.is_empty());
        ends.any(|end| !site.shard.recv_space(end.handle).is_empty())
    }

    /// Looks at answers that have passed the release mark since the last look.
    pub(super) fn look_at_answers(&mut self, number: u16, client: usize) -> Checked {
        let Some(end) = &mut self.sockets[client].server else {
            return Ok(());
        };
        let site = &self.sites[usize::from(number)];
        let bytes = site.shard.to_send(end.handle);
        ensure!(
            17,
            bytes.len() < UNSENT_MAX,
            "client {client}: {} bytes of answers wait for it",
            bytes.len()
        );
        let mut rest = bytes.get(end.looked_len..).unwrap_or_default();
        let mut answers = Vec::new();
        while let Some((answer, len)) = decode(rest)? {
            answers.push(answer);
            rest = &rest[len..];
        }
        ensure!(31, rest.is_empty(), "half an answer was released");
        end.looked_len = bytes.len();
        for answer in answers {
            self.released(number, client, &answer)?;
        }
        Ok(())
    }

    /// Has a socket take what may be sent, or a part of it.
    pub(super) fn send(&mut self, number: u16, client: usize) {
        let at = self.sites[usize::from(number)].clock.now();
        let mut dice = self.dice(READ, 1_000 + client as u64);
        let socket = &mut self.sockets[client];
        let Some(end) = socket.server.as_mut().filter(|end| end.shard == number) else {
            return;
        };
        let site = &mut self.sites[usize::from(number)];
        let bytes = site.shard.to_send(end.handle);
        let writable_at = match (socket.unread_until > at, bytes.len()) {
            (true, 1..) => Some(socket.unread_until),
            (_, all) => {
                let len = match all > 1 && dice.one_in(12) && !self.is_calm {
                    true => 1 + dice.below(all as u64) as usize,
                    false => all,
                };
                let (taken, connection) = (bytes[..len].to_vec(), end.connection);
                site.shard.handle_sent(end.handle, len);
                end.looked_len = end.looked_len.saturating_sub(len);
                if len > 0 {
                    self.send_down(client, connection, Some(taken));
                }
                (len < all).then(|| at + dice.range(50, 2_000))
            }
        };
        if let Some(at) = writable_at {
            let input = Input::Writable(client);
            self.schedule(
                at,
                Event::ToShard {
                    shard: number,
                    input,
                },
            );
            return;
        }
        self.close_if_over(number, client);
    }

    fn close_if_over(&mut self, number: u16, client: usize) {
        let socket = &mut self.sockets[client];
        let site = &mut self.sites[usize::from(number)];
        let over = socket.server.take_if(|end| site.shard.is_over(end.handle));
        if let Some(end) = over {
            site.handles.remove(&end.handle);
            site.shard.handle_closed(end.handle);
            self.send_down(client, end.connection, None);
        }
    }

    /// Closes a socket that the shard has given up.
    pub(super) fn close_by_server(&mut self, number: u16, handle: Handle<Connection>) {
        let client = self.sites[usize::from(number)]
            .handles
            .get(&handle)
            .copied();
        match client {
            Some(client) => self.close_if_over(number, client),
            None => self.close_stranger(number, handle),
        }
    }

    fn send_down(&mut self, client: usize, connection: u64, bytes: Option<Vec<u8>>) {
        let mut dice = self.dice(WIRE, 1 << 40);
        let from = self
            .now
            .max(self.sites[usize::from(self.shard_of(client))].clock.now());
        let socket = &mut self.sockets[client];
        let at = (from + dice.range(5, 300)).max(socket.down_free_at);
        socket.down_free_at = at;
        let event = Event::ToClient {
            client,
            connection,
            bytes,
        };
        self.schedule(at, event);
    }

    /// Bytes reach a client.
    pub(super) fn reach_client(
        &mut self,
        client: usize,
        connection: u64,
        bytes: Option<Vec<u8>>,
    ) -> Checked {
        let socket = &mut self.sockets[client];
        if socket.connection != connection || !socket.is_open {
            return Ok(());
        }
        let Some(bytes) = bytes else {
            socket.is_open = false;
            self.books.lose(client);
            let who = self.plan.clients[client].user;
            // Who has no right at all has to go when it has asked for nothing for some seconds.
            ensure!(
                31,
                who.is_some_and(
                    |who| self.books.may_be_rightless(who) || self.pressure.had_strangers()
                ),
                "client {client}: its connection is closed by the server"
            );
            return Ok(());
        };
        socket.received.extend_from_slice(&bytes);
        let received = std::mem::take(&mut socket.received);
        let mut rest = received.as_slice();
        while let Some((answer, len)) = decode(rest)? {
            rest = &rest[len..];
            self.answered(client, &answer)?;
        }
        self.sockets[client].received = rest.to_vec();
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Checked<Option<(ReceivedAnswer, usize)>> {
    let decoded = ResponseFrame::decode(bytes);
    ensure!(33, decoded.is_ok(), "an answer is no frame: {decoded:?}");
    Ok(decoded.ok().flatten().map(|(frame, len)| {
        let answer = ReceivedAnswer {
            request: frame.request_id,
            status: frame.status,
            version: frame.key_version,
            is_stale: frame.flags.bits() & ResponseFlags::STALE.bits() != 0,
            payload: frame.payload.to_vec(),
        };
        (answer, len)
    }))
}
