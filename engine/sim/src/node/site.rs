//! A shard and its driver: inputs reach it when its thread is free, it takes turns, and what it asks for is done.

use super::clock::Clock;
use super::plan::Way;
use super::port::SimPort;
use super::terms::Terms;
use super::{Event, World};
use crate::oracle::{Checked, ensure};
use keyway_core::TICK_US;
use keyway_core::slots::Handle;
use keyway_node::connection::Connection;
use keyway_node::messages::{Lane, ToControl, ToPeer, ToShard};
use keyway_node::shard::{Done, Effect, Report, Shard, TaskId, Turn};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

const LANE: u64 = 202;
const MESH: u64 = 203;
/// A shard without work looks at its wheel as rarely as this, µs; at the end of a history more rarely still.
const REST_US_MAX: u64 = 20_000;
const CALM_REST_US_MAX: u64 = 500_000;

/// A history has some thousands.
const TURNS_MAX: u64 = 2_000_000;

/// What reaches a shard.
pub(super) enum Input {
    Control(Lane, ToShard),
    Peer(u16, Vec<ToPeer>),
    Done(TaskId, Done),
    Accept {
        client: usize,
        connection: u64,
    },
    Bytes {
        client: usize,
        connection: u64,
        bytes: Vec<u8>,
    },
    /// A client's connection is gone.
    Closed {
        client: usize,
        connection: u64,
    },
    /// So many connections of which nothing comes.
    Strangers(u32),
    /// A socket takes bytes again.
    Writable(usize),
}

/// One shard of the process that runs.
pub(super) struct Site {
    pub(super) shard: Shard<SimPort>,
    pub(super) clock: Rc<Clock>,
    pub(super) terms: BTreeMap<u32, Terms>,
    /// The client at the other end of each connection.
    pub(super) handles: BTreeMap<Handle<Connection>, usize>,
    /// Connections of no client.
    pub(super) strangers: BTreeSet<Handle<Connection>>,
    inputs: VecDeque<Input>,
    /// Its thread is not free before that.
    pub(super) busy_until: u64,
    wake_at: Option<u64>,
    rest_us: u64,
    pub(super) turn_began_at: u64,
    pub(super) ticked: Ticked,
}

/// Up to when the shard has surely taken what had arrived, and looked at its deadlines since.
#[derive(Default)]
pub(super) struct Ticked {
    pub(super) until: u64,
    idle_at: Option<u64>,
}

impl Ticked {
    fn note(&mut self, turn: Turn, began_at: u64, ended_at: u64) {
        if let Some(at) = self.idle_at.filter(|at| at + 2 * TICK_US <= began_at) {
            self.until = at;
            self.idle_at = None;
        }
        if let (Turn::Idle { .. }, None) = (turn, self.idle_at) {
            self.idle_at = Some(ended_at);
        }
    }
}

impl Site {
    pub(super) fn new(
        shard: Shard<SimPort>,
        clock: Rc<Clock>,
        terms: BTreeMap<u32, Terms>,
    ) -> Self {
        Self {
            shard,
            clock,
            terms,
            handles: BTreeMap::new(),
            strangers: BTreeSet::new(),
            inputs: VecDeque::new(),
            busy_until: 0,
            wake_at: None,
            rest_us: 0,
            turn_began_at: 0,
            ticked: Ticked::default(),
        }
    }
}

impl World<'_> {
    /// An input lies before a shard.
    pub(super) fn arrive(&mut self, shard: u16, input: Input) {
        let site = &mut self.sites[usize::from(shard)];
        site.inputs.push_back(input);
        let at = site.busy_until;
        self.wake_by(shard, at);
    }

    /// Has a shard's thread look by then at the latest.
    pub(super) fn wake_by(&mut self, shard: u16, at: u64) {
        let site = &mut self.sites[usize::from(shard)];
        let at = at.max(self.now).max(site.busy_until);
        if site.wake_at.is_none_or(|wake_at| at < wake_at) {
            site.wake_at = Some(at);
            self.schedule(at, Event::Wake(shard));
        }
    }

    pub(super) fn wake(&mut self, number: u16) -> Checked {
        let now = self.now;
        let site = &mut self.sites[usize::from(number)];
        if site.wake_at.is_none_or(|at| at != now) {
            return Ok(());
        }
        site.wake_at = None;
        if site.busy_until > now {
            let at = site.busy_until;
            self.wake_by(number, at);
            return Ok(());
        }
        site.clock.set(now);
        let had_input = !site.inputs.is_empty();
        while let Some(input) = self.sites[usize::from(number)].inputs.pop_front() {
            self.take_in(number, input);
        }
        self.feed_all(number);
        self.show_room(number);
        let site = &mut self.sites[usize::from(number)];
        site.turn_began_at = now;
        site.clock.begin_turn();
        site.shard.handle_rested();
        let turn = site.shard.turn();
        self.outcome.turns += 1;
        ensure!(
            24,
            self.outcome.turns < TURNS_MAX,
            "the history does not end"
        );
        let ended_at = self.sites[usize::from(number)].clock.now();
        self.shard_effects(number, ended_at)?;
        let site = &mut self.sites[usize::from(number)];
        site.ticked.note(turn, now, ended_at);
        self.look_at(number)?;
        self.go_on(number, turn, had_input);
        Ok(())
    }

    /// When the shard's thread looks again.
    fn go_on(&mut self, number: u16, turn: Turn, had_input: bool) {
        let has_bytes = self.has_bytes(number);
        let is_waited_for = self.books.is_waiting();
        let most = if self.is_calm {
            CALM_REST_US_MAX
        } else {
            REST_US_MAX
        };
        let site = &mut self.sites[usize::from(number)];
        let ended_at = site.clock.now();
        site.busy_until = ended_at;
        if let Turn::Idle { .. } = turn {
            site.terms.values_mut().for_each(Terms::settle);
        }
        let at = match turn {
            Turn::More => ended_at + 1,
            Turn::Idle { .. } if has_bytes => ended_at + 1,
            Turn::Idle { until } => {
                site.rest_us = match had_input || is_waited_for {
                    true => 0,
                    false => (site.rest_us * 2).clamp(500, most),
                };
                until.as_micros().max(ended_at) + site.rest_us
            }
        };
        self.wake_by(number, at);
    }

    /// Hands the shard what lies before it.
    fn take_in(&mut self, number: u16, input: Input) {
        let now = self.now;
        let site = &mut self.sites[usize::from(number)];
        match input {
            Input::Control(lane, message) => {
                self.trace.note(now, || told_text(number, &message));
                match &message {
                    ToShard::Keyspace(change) => {
                        let new = || Terms::new((**change).clone());
                        let terms = site.terms.entry(change.id).or_insert_with(new);
                        terms.tell(now, change);
                    }
                    ToShard::Lease {
                        keyspace,
                        epoch,
                        event,
                        ..
                    } => {
                        if let Some(terms) = site.terms.get_mut(keyspace)
                            && *epoch >= terms.acted.epoch
                        {
                            terms.lease(now, *event);
                        }
                    }
                    _ => {}
                }
                site.shard.handle_control(lane, message);
            }
            Input::Peer(from, batch) => site.shard.handle_peer(from, batch),
            Input::Done(task, done) => site.shard.handle_done(task, done),
            Input::Accept { client, connection } => self.accept(number, client, connection),
            Input::Bytes {
                client,
                connection,
                bytes,
            } => self.take_bytes(client, connection, &bytes),
            Input::Closed { client, connection } => self.take_close(number, client, connection),
            Input::Strangers(count) => self.accept_strangers(number, count),
            Input::Writable(client) => self.send(number, client),
        }
    }

    fn shard_effects(&mut self, number: u16, at: u64) -> Checked {
        self.take_seen(number)?;
        loop {
            let effect = self.sites[usize::from(number)].shard.poll_effect();
            let Some(effect) = effect else { break };
            match effect {
                Effect::Send(handle) => {
                    let client = self.sites[usize::from(number)]
                        .handles
                        .get(&handle)
                        .copied();
                    if let Some(client) = client {
                        self.look_at_answers(number, client)?;
                        self.send(number, client);
                    }
                }
                Effect::Close(handle) => self.close_by_server(number, handle),
                Effect::Do(task, errand) => {
                    self.check_errand(number, &errand)?;
                    self.logs[usize::from(number)]
                        .borrow_mut()
                        .begin(at, task, errand);
                    self.watch_log(number);
                }
                Effect::Tell(lane, message) => self.tell(number, at, lane, message)?,
                Effect::Batch(to) => self.send_batches(number, to, at),
                Effect::Log(report) => self.look_at_report(number, &report)?,
                Effect::Observe(_) | Effect::Publish => {}
            }
        }
        Ok(())
    }

    fn tell(&mut self, number: u16, at: u64, lane: Lane, message: ToControl) -> Checked {
        let Some(message) = self.take_told(number, at, lane, message)? else {
            return Ok(());
        };
        let site = &mut self.sites[usize::from(number)];
        if let ToControl::Acted { keyspace, revision } = &message
            && let Some(terms) = site.terms.get_mut(keyspace)
        {
            let change = self.books.change(*keyspace, *revision);
            if let Some(change) = change {
                terms.act(at, &change);
            }
        }
        self.check_said(number, &message)?;
        let from = number;
        self.post(false, number, lane, at, Event::ToControl { from, message });
        Ok(())
    }

    /// Puts a message on its lane.
    pub(super) fn post(&mut self, to_shard: bool, shard: u16, lane: Lane, at: u64, event: Event) {
        let mut dice = self.dice(LANE, u64::from(shard));
        let delay_us = match lane {
            Lane::Emergency => dice.range(5, 300),
            Lane::Ordinary if dice.one_in(20) => dice.range(1_000, 40_000),
            Lane::Ordinary => dice.range(5, 2_000),
        };
        let way = match to_shard {
            true => Way::ToShards,
            false => Way::ToControl,
        };
        let at = self.pressure.passes_at(way, lane, at) + delay_us;
        let free_at = self.lanes.entry((to_shard, shard, lane)).or_default();
        let at = at.max(*free_at);
        *free_at = at;
        self.schedule(at, event);
    }

    fn send_batches(&mut self, from: u16, to: u16, at: u64) {
        let mut dice = self.dice(MESH, u64::from(from));
        loop {
            let site = &mut self.sites[usize::from(from)];
            let Some(batch) = site.shard.take_batch(to) else {
                return;
            };
            if !self.is_calm && dice.one_in(12) {
                // There is no room; it is offered again after the next turn.
                site.shard.give_back(to, batch);
                return self.wake_by(from, at + 100);
            }
            // The mesh keeps the order of what one shard sends another.
            let lane = (from, to);
            let free_at = self.books.mesh.entry(lane).or_default();
            let arrives_at = (at + dice.range(3, 200)).max(*free_at);
            *free_at = arrives_at;
            let input = Input::Peer(from, batch);
            self.schedule(arrives_at, Event::ToShard { shard: to, input });
        }
    }

    pub(super) fn log_goes_on(&mut self, shard: u16) -> Checked {
        let done = self.logs[usize::from(shard)]
            .borrow_mut()
            .take_done(self.now);
        for (task, done) in done {
            self.trace
                .note(self.now, || format!("  log {shard}: {}", done_text(&done)));
            self.arrive(shard, Input::Done(task, done));
        }
        self.log_watches[usize::from(shard)] = None;
        self.watch_log(shard);
        self.look_at_log(shard)
    }

    fn look_at_report(&mut self, number: u16, report: &Report) -> Checked {
        self.trace
            .note(self.now, || format!("  log of shard {number}: {report:?}"));
        match report {
            Report::CorePanicked => ensure!(0, false, "shard {number}: the core panicked"),
            Report::HandlerPanicked => ensure!(
                0,
                self.books.take_planted_panic(),
                "shard {number}: a handler panicked"
            ),
            _ => {}
        }
        Ok(())
    }
}

fn told_text(number: u16, message: &ToShard) -> String {
    match message {
        ToShard::Keyspace(change) => format!(
            "  shard {number}: keyspace {} is locked: {}, revision {}, floor {}",
            change.id, change.guard.locked, change.revision.0, change.seal_floor
        ),
        ToShard::Lease {
            keyspace, event, ..
        } => format!("  shard {number}: lease of {keyspace}: {event:?}"),
        ToShard::Reseal { keyspace, work, .. } => {
            format!("  shard {number}: {work:?} keyspace {keyspace}")
        }
        ToShard::Progress { keyspace, .. } => format!("  shard {number}: progress of {keyspace}?"),
        ToShard::Hot { keyspace, .. } => format!("  shard {number}: what is hot of {keyspace}?"),
        ToShard::Answer { status, .. } => format!("  shard {number}: control's answer: {status:?}"),
    }
}

fn done_text(done: &Done) -> String {
    match done {
        Done::Read(Ok(found)) => match found {
            keyway_node::port::Found::Blob(blob) => format!("read version {}", blob.version),
            other => format!("read {other:?}"),
        },
        Done::Listed(Ok(page)) => format!("a page of {} keys", page.rows.len()),
        other => format!("{other:?}"),
    }
}
