//! The shard and its surroundings: clients, the disk, control, and one other shard.

use std::collections::VecDeque;
use std::rc::Rc;

use keyway_core::{Limits, Settings};
use keyway_node::connection::{IN_FLIGHT_PER_CONNECTION_MAX, UNSENT_BYTES_MAX};
use keyway_node::ids::{Epoch, Opening, Revision};
use keyway_node::keyspace_change::{Guard, KeyspaceChange};
use keyway_node::messages::{Lane, ToControl, ToPeer};
use keyway_node::policy::{Owner, Policy, Principal};
use keyway_node::shard::{
    Arrival, ControlRoom, Done, Effect, Errand, Report, SLOW_QUEUE_MAX, Shard, Start, TaskId, Turn,
    WAITING_FOR_EMERGENCY, WAITING_MAX,
};
use keyway_protocol::{RequestFrame, Router};

use super::client::Client;
use super::disk::ended;
use super::frames;
use super::others::granted;
use super::port::{KEYSPACES, Labels, World};
use crate::script::Script;

const OWNER: Principal = Principal::Uid(500);
const GRANTED: Principal = Principal::Uid(1_000);
/// Who connects; only the first two have ever had a right.
pub(super) const PRINCIPALS: [Principal; 4] =
    [OWNER, GRANTED, Principal::Uid(7), Principal::Anonymous];

const CLIENTS_MAX: usize = 6;
/// Time that a step may let pass, µs.
const PAUSES_US: [u64; 8] = [0, 1, 50, 1_000, 20_000, 300_000, 2_000_000, 11_000_000];
/// Turns until nothing is left to do.
const TURNS_MAX: usize = 20_000;

/// The shard and what surrounds it.
pub(super) struct Site {
    pub(super) world: Rc<World>,
    pub(super) shard: Shard<Labels>,
    pub(super) clients: Vec<Client>,
    pub(super) changes: Vec<KeyspaceChange>,
    pub(super) errands: VecDeque<(TaskId, Errand)>,
    /// Requests that control has, by the shard's names for them.
    pub(super) commands: VecDeque<(Lane, u64)>,
    /// DEKs that control was asked for.
    pub(super) unwraps: VecDeque<u32>,
    /// Forwards that the other shard has: the name, and the request's id.
    pub(super) forwards: VecDeque<(u64, u64)>,
    /// Requests that the other shard has sent, without an answer.
    pub(super) asked: Vec<u64>,
    pub(super) last_token: u64,
    pub(super) last_question: u64,
    pub(super) has_input: bool,
}

impl Site {
    pub(super) fn new() -> Self {
        let world = Rc::new(World::default());
        world.now_us.set(1_000_000);
        let mut policy = Policy::default();
        let granted = policy.grant("uid:1000", "sign,mac,encrypt,manage");
        granted.expect("the grant is valid");
        let changes: Vec<KeyspaceChange> = (1..=KEYSPACES as u32)
            .map(|id| KeyspaceChange {
                id,
                name: format!("keyspace-{id}"),
                revision: Revision(1),
                epoch: Epoch::default(),
                opening: Opening::default(),
                guard: Guard {
                    locked: false,
                    policy: policy.clone(),
                    settings: Settings {
                        sign_wait_budget_us: 50_000,
                        ..Settings::default()
                    },
                },
                seal_floor: 1,
                oldest: 1,
                ticket: u64::from(id),
            })
            .collect();
        let start = Start {
            site: keyway_node::shard::Site {
                index: 0,
                router: router(),
                ports: vec![7421, 7422],
            },
            limits: Limits {
                entries_max: 64,
                negatives_max: 16,
                revoked_max: 16,
                flights_max: 16,
                on_demand_reserve: 4,
                ..Limits::default()
            },
            seed: 42,
            owner: Owner {
                dev: false,
                uid: 500,
            },
            connections_max: CLIENTS_MAX,
            hot_keys: Vec::new(),
        };
        let shard = Shard::new(start, Labels(Rc::clone(&world)));
        let mut shard = shard.expect("the limits are valid");
        shard.boot(&changes);
        Self {
            world,
            shard,
            clients: Vec::new(),
            changes,
            errands: VecDeque::new(),
            commands: VecDeque::new(),
            unwraps: VecDeque::new(),
            forwards: VecDeque::new(),
            asked: Vec::new(),
            last_token: 0,
            last_question: 0,
            has_input: false,
        }
    }

    /// One step of the script.
    pub(super) fn step(&mut self, script: &mut Script<'_>) {
        let step = script.u8();
        match step % 16 {
            0 => self.accept(script.u8()),
            1 | 2 => self.write_frame(script),
            3 => {
                let len = usize::from(script.u8());
                let bytes = script.bytes(len);
                if let Some(client) = pick(&mut self.clients, step >> 4) {
                    client.outgoing.extend_from_slice(bytes);
                }
            }
            4 | 5 => self.send(step >> 4, script.u16()),
            6 | 7 => {
                self.turn();
            }
            8 => {
                self.world
                    .pass(PAUSES_US[usize::from(step >> 4) % PAUSES_US.len()]);
                self.turn();
            }
            9 | 10 => self.end_errand(script.u8(), step >> 4),
            11 => self.receive(step >> 4, script.u16()),
            12 => self.control(script, step >> 4),
            13 => self.peer(script),
            14 => {
                let world = &self.world;
                world.cost.set(script.u8());
                world.mood.set(script.u8());
                let us = [0, 0, 100, 5_000, 1_000_000];
                world
                    .operation_us
                    .set(us[usize::from(step >> 4) % us.len()]);
            }
            _ => self.trouble(script, step >> 4),
        }
        assert!(!self.shard.is_broken(), "the core has panicked");
    }

    /// How often a key was used.
    pub(super) fn operations(&self) -> u64 {
        self.world.operations.get()
    }

    /// Everything works: whatever was asked is answered.
    pub(super) fn calm(&mut self) {
        let world = Rc::clone(&self.world);
        world.cost.set(0);
        world.mood.set(0);
        world.operation_us.set(0);
        self.shard.handle_control_room(ControlRoom::default());
        for which in 0..self.changes.len() {
            self.change(which, |change| change.guard.locked = false);
        }
        // Less than the 10 s after which a client is too slow, and more than any wait without an end of its own.
        for _ in 0..300 {
            self.turn_until_idle();
            for which in 0..self.clients.len() {
                self.send_all(which);
                self.receive_all(which);
            }
            while !self.errands.is_empty() {
                self.end_errand(0, 0);
            }
            while let Some((lane, token)) = self.commands.pop_front() {
                self.answer_command(lane, token);
            }
            while let Some(keyspace) = self.unwraps.pop_front() {
                self.lease(keyspace, granted(&self.world));
            }
            while let Some(forward) = self.forwards.pop_front() {
                self.reply(forward);
            }
            if self.is_at_rest() {
                break;
            }
            world.pass(10_000);
        }
        for client in &self.clients {
            let is_over = client.is_closed || self.shard.is_over(client.at);
            assert!(
                is_over || client.unanswered() == 0,
                "requests {:?} of {} are not answered",
                client.unanswered_ids(),
                client.who
            );
        }
        assert!(self.asked.is_empty(), "the other shard waits for answers");
        let figures = self.shard.figures();
        assert_eq!(figures.totals.panics_total, 0);
        assert_eq!(figures.waiting.jobs, 0, "nothing waits at rest");
    }

    /// Nothing waits for anything, and no client has more to send.
    fn is_at_rest(&mut self) -> bool {
        let waiting = self.shard.figures().waiting;
        let waits = waiting.jobs + waiting.slow + waiting.loads;
        let has_input = self.has_input || !self.errands.is_empty() || !self.asked.is_empty();
        let mut clients = self.clients.iter().filter(|client| !client.is_closed);
        waits == 0 && !has_input && clients.all(|client| client.unanswered() == 0)
    }

    fn accept(&mut self, what: u8) {
        if self.clients.len() >= 4 * CLIENTS_MAX {
            return;
        }
        let who = PRINCIPALS[usize::from(what) % PRINCIPALS.len()];
        let arrival = Arrival {
            who,
            descriptors_left: if what & 0x80 == 0 { 1_000 } else { 3 },
        };
        let now = self.world.now();
        if let Ok(at) = self.shard.handle_accepted(now, arrival) {
            let mut client = Client::new(at, who);
            if what & 0x40 == 0 {
                // HELLO, since little happens before it.
                frames::append(&mut Script::new(&[0]), 0, &mut client.outgoing);
            }
            self.clients.push(client);
        }
    }

    fn write_frame(&mut self, script: &mut Script<'_>) {
        let which = script.u8();
        let Some(client) = pick(&mut self.clients, which) else {
            return;
        };
        client.last_id += u64::from(which & 0x80 == 0);
        let id = client.last_id;
        let repeats = if which & 0x70 == 0x70 { 40 } else { 1 };
        let before = client.outgoing.len();
        frames::append(script, id, &mut client.outgoing);
        let frame = client.outgoing[before..].to_vec();
        if client.outgoing.len() < 1 << 20 {
            for _ in 1..repeats {
                client.outgoing.extend_from_slice(&frame);
            }
        }
    }

    /// Hands the shard some of what a client sends.
    fn send(&mut self, which: u8, len: u16) {
        let Some(client) = pick(&mut self.clients, which) else {
            return;
        };
        let len = if len & 1 == 0 {
            usize::MAX
        } else {
            usize::from(len >> 9)
        };
        let now = self.world.now();
        if !client.is_closed {
            push(&mut self.shard, client, now, len);
        }
    }

    fn send_all(&mut self, which: usize) {
        while !self.clients[which].is_closed && !self.clients[which].outgoing.is_empty() {
            let before = self.clients[which].outgoing.len();
            let now = self.world.now();
            push(&mut self.shard, &mut self.clients[which], now, usize::MAX);
            self.turn_until_idle();
            self.receive_all(which);
            if self.clients[which].outgoing.len() == before {
                return;
            }
        }
    }

    /// A client takes some of its answers.
    fn receive(&mut self, which: u8, len: u16) {
        let Some(client) = pick(&mut self.clients, which) else {
            return;
        };
        let len = if len & 1 == 0 {
            usize::MAX
        } else {
            usize::from(len >> 6)
        };
        take(&mut self.shard, client, len);
    }

    fn receive_all(&mut self, which: usize) {
        while !self.shard.to_send(self.clients[which].at).is_empty() {
            take(&mut self.shard, &mut self.clients[which], usize::MAX);
            self.turn_until_idle();
        }
    }

    fn turn(&mut self) -> Turn {
        self.shard.handle_rested();
        let turn = self.shard.turn();
        while let Some(effect) = self.shard.poll_effect() {
            self.carry_out(effect);
        }
        self.check_bounds();
        turn
    }

    fn turn_until_idle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.has_input = false;
            if self.turn() != Turn::More && !self.has_input {
                return;
            }
        }
        panic!("there is always more to do");
    }

    fn check_bounds(&mut self) {
        let figures = self.shard.figures();
        assert!(figures.connections <= CLIENTS_MAX as u64 + 8);
        assert!(figures.waiting.jobs <= (WAITING_MAX + WAITING_FOR_EMERGENCY) as u64);
        assert!(figures.waiting.slow <= SLOW_QUEUE_MAX as u64);
        assert!(
            figures.waiting.loads <= 16,
            "more loads wait than there are flights"
        );
        assert!(figures.unsent_answer_bytes <= 2 * UNSENT_BYTES_MAX as u64);
        let waits = figures.waiting.jobs as usize;
        let asked = self.asked.len() + (self.clients.len() * 2 * IN_FLIGHT_PER_CONNECTION_MAX);
        assert!(waits <= asked, "more requests wait than may be in flight");
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Do(task, errand) => self.errands.push_back((task, errand)),
            Effect::Tell(lane, ToControl::Request(request)) => {
                self.commands.push_back((lane, request.token));
            }
            Effect::Tell(_, ToControl::Unwrap { keyspace }) => self.unwraps.push_back(keyspace),
            Effect::Tell(..) | Effect::Send(_) | Effect::Observe(_) | Effect::Publish => {}
            Effect::Close(at) => self.close(at),
            Effect::Batch(to) => {
                while let Some(batch) = self.shard.take_batch(to) {
                    for message in batch {
                        self.take_of_shard(message);
                    }
                }
            }
            Effect::Log(report) => assert!(
                !matches!(report, Report::HandlerPanicked | Report::CorePanicked),
                "a handler has panicked"
            ),
        }
    }

    fn close(&mut self, at: keyway_core::slots::Handle<keyway_node::connection::Connection>) {
        self.shard.handle_closed(at);
        let closed = self.clients.iter_mut().find(|client| client.at == at);
        if let Some(client) = closed {
            client.is_closed = true;
        }
        self.has_input = true;
    }

    fn take_of_shard(&mut self, message: ToPeer) {
        match message {
            ToPeer::Forward { token, frame, .. } => {
                let decoded = RequestFrame::decode(&frame).expect("a whole frame is forwarded");
                let (frame, _) = decoded.expect("a whole frame is forwarded");
                self.forwards.push_back((token, frame.request_id));
            }
            ToPeer::Reply { token, .. } => {
                let at = self.asked.iter().position(|asked| *asked == token);
                let at = at.expect("a request of another shard is answered once");
                self.asked.swap_remove(at);
            }
        }
    }

    /// The oldest errand, or another one, ends.
    fn end_errand(&mut self, how: u8, which: u8) {
        let count = self.errands.len();
        if count == 0 {
            return;
        }
        let Some((task, errand)) = self.errands.remove(usize::from(which) % count) else {
            return;
        };
        self.shard.handle_done(task, ended(&errand, how));
        if how == 0xfe {
            // Twice: the second one is of no task.
            self.shard.handle_done(task, Done::Lost);
        }
        self.has_input = true;
    }

    fn trouble(&mut self, script: &mut Script<'_>, how: u8) {
        match how {
            0..4 => {
                let which = script.u8();
                if let Some(client) = pick(&mut self.clients, which) {
                    let at = client.at;
                    self.close(at);
                }
            }
            4..6 => {
                let room = usize::from(script.u8() & 1);
                self.shard.handle_control_room(ControlRoom {
                    emergency: room,
                    ordinary: room,
                });
            }
            6..8 => {
                let keyspace = u32::from(script.u8() & 3);
                let message = ToControl::Unwrap { keyspace };
                self.shard.handle_untold(Lane::Ordinary, message);
            }
            8..12 => {
                // Control's lane is full: the request comes back, and is refused.
                let Some((lane, token)) = self.commands.pop_back() else {
                    return;
                };
                let request = keyway_node::messages::Request {
                    token,
                    who: OWNER,
                    deadline: None,
                    command: keyway_node::messages::Command::LockAll,
                };
                self.shard.handle_untold(lane, ToControl::Request(request));
            }
            _ => {
                let (keyspace, revision) = (1, Revision(1));
                let message = ToControl::Acted { keyspace, revision };
                self.shard.handle_untold(Lane::Emergency, message);
            }
        }
        self.has_input = true;
    }
}

pub(super) fn router() -> Router {
    Router::new([7; 16], 2).expect("two shards are valid")
}

fn pick(clients: &mut [Client], which: u8) -> Option<&mut Client> {
    let count = clients.len().max(1);
    clients.get_mut(usize::from(which) % count)
}

fn push(shard: &mut Shard<Labels>, client: &mut Client, now: keyway_core::Instant, len_max: usize) {
    let space = shard.recv_space(client.at);
    let len = space.len().min(client.outgoing.len()).min(len_max);
    if len == 0 {
        return;
    }
    space[..len].copy_from_slice(&client.outgoing[..len]);
    shard.handle_received(now, client.at, len);
    let sent: Vec<u8> = client.outgoing.drain(..len).collect();
    client.note_sent(&sent);
}

fn take(shard: &mut Shard<Labels>, client: &mut Client, len_max: usize) {
    let bytes = shard.to_send(client.at);
    let len = bytes.len().min(len_max);
    if len == 0 {
        return;
    }
    let may_use = matches!(client.who, OWNER | GRANTED);
    client.note_received(&bytes[..len], may_use);
    shard.handle_sent(client.at, len);
}
