//! A node in virtual time: shards, mesh, control thread, store, KMS and clients.

mod actions;
mod calm;
mod checks;
mod leases;
mod loads;
mod node;
mod requests;
mod steps;
mod time;
mod wanted;
mod writes;

use crate::coverage::Coverage;
use crate::kms::{Control, Dek, Kms};
use crate::oracle::{Checked, Oracle, Tally};
use crate::plan::{Caller, Mood, Name, Plan, StoreMood};
use crate::schedule::Scheduled;
use crate::store::{Fate, Store};
use crate::trace::Trace;
use keyway_core::{FlightId, KeyspaceId, LeaseEvent, Settings, Shard};
use keyway_protocol::Router;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

pub(crate) type Core = Shard<crate::oracle::SimKey>;

/// One shard's thread.
#[derive(Debug)]
struct Site {
    core: Core,
    /// The keys that belong here.
    names: Vec<Name>,
    deks: BTreeMap<u8, Dek>,
    tallies: BTreeMap<u8, Tally>,
    next_tick: u64,
    idle_ticks: u32,
    stalled_until: u64,
    late_results: u64,
    /// Newest DEK generation that a write was to be sealed under, by keyspace.
    seal_generations: BTreeMap<u8, u32>,
}

/// Something that will happen at a shard, or in the control thread.
#[derive(Clone, Debug)]
enum Event {
    /// A request has reached the shard of its connection, or its owner.
    Process(u64),
    Deliver(u64),
    /// Tells the owner that a client has gone.
    Gone(u64),
    SlowTurn(u64),
    /// A load that queued begins to read.
    Begins(u64),
    Loaded(u64),
    /// The same load answers once more.
    LoadedAgain(FlightId),
    Synced(u64),
    Ask(u8),
    Answered {
        keyspace: u8,
        call: u64,
        mood: Mood,
    },
    Lease {
        keyspace: u8,
        event: LeaseEvent,
        dek: Option<Dek>,
    },
    Gate {
        keyspace: u8,
        lock: bool,
    },
    Config {
        keyspace: u8,
        settings: Settings,
    },
    Hot(Name),
}

/// Where an event happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Shard(u16),
    Control,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request { slow: bool },
    Force,
    Put { not_after_us: Option<u64> },
    Revoke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// In flight to the shard that owns the key.
    Travelling,
    /// In a flight. A request: until when, and when its budget ends.
    Waiting {
        until: u64,
        budget_ends_at: u64,
    },
    Slow,
    Writing,
    /// In flight on the way back.
    Answered,
}

#[derive(Clone, Debug)]
struct Asked {
    by: Caller,
    name: Name,
    kind: Kind,
    owner: u16,
    deadline: Option<u64>,
    stage: Stage,
    called_step: u64,
    /// The client's connection is closed: the answer goes nowhere.
    closed: bool,
    /// Ticks of its shard since its wait should have been over.
    ticks_overdue: u64,
}

impl Asked {
    /// Whether it waits for a key.
    fn is_request(&self) -> bool {
        matches!(self.kind, Kind::Request { .. })
    }
}

/// A load in progress.
#[derive(Clone, Debug)]
struct Loading {
    shard: u16,
    name: Name,
    flight: FlightId,
    queued_at: u64,
    /// When it began to read; what is not found until then is not known.
    started_at: u64,
    started_step: u64,
    fate: Fate,
    found: Option<crate::store::Blob>,
    /// The flight is over: whatever this brings must not matter.
    void: bool,
    /// Ticks of its shard since its flight should have been over.
    ticks_overdue: u64,
}

/// All of it.
pub(crate) struct World<'a> {
    plan: &'a Plan,
    now: u64,
    /// Counts inputs: an order where many things happen in one µs.
    step: u64,
    sequence: u64,
    queue: BinaryHeap<Scheduled<(Place, Event)>>,
    incarnation: u64,
    router: Router,
    sites: Vec<Site>,
    control: Control,
    store: Store,
    kms: Kms,
    requests: BTreeMap<u64, Asked>,
    /// Requests that were answered, or whose answer was dropped with their connection.
    over: BTreeSet<u64>,
    mesh_load: BTreeMap<(u16, u16), usize>,
    loads: BTreeMap<u64, Loading>,
    /// The load whose result counts, by key.
    current: BTreeMap<Name, u64>,
    /// Since when a flight waits for a DEK, as ticks have seen it, and ticks since it should have been over.
    awaiting: BTreeMap<Name, (u64, u64)>,
    /// Times that a flight has gone on after its load lacked a DEK.
    dek_missed: BTreeMap<Name, u32>,
    load_count: u64,
    request_count: u64,
    /// The faults have stopped.
    is_calm: bool,
    oracle: Oracle,
    pub(crate) coverage: Coverage,
    pub(crate) trace: Trace,
    pub(crate) figures: Figures,
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) virtual_us: u64,
    pub(crate) inputs: u64,
    pub(crate) served: u64,
    pub(crate) loads: u64,
}

impl<'a> World<'a> {
    pub(crate) fn new(plan: &'a Plan, trace: Trace) -> Self {
        let shape = &plan.shape;
        let mut world = Self {
            plan,
            now: 1_000_000 + plan.seed % 5_000,
            step: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            incarnation: 0,
            router: Router::new([7; 16], shape.shards).expect("a valid shard count"),
            sites: Vec::new(),
            control: Control::default(),
            store: Store::default(),
            kms: Kms {
                mood: Mood::Good,
                takes_us: 1_000,
                late_us: 0,
            },
            requests: BTreeMap::new(),
            over: BTreeSet::new(),
            mesh_load: BTreeMap::new(),
            loads: BTreeMap::new(),
            current: BTreeMap::new(),
            awaiting: BTreeMap::new(),
            dek_missed: BTreeMap::new(),
            load_count: 0,
            request_count: 0,
            is_calm: false,
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            trace,
            figures: Figures::default(),
        };
        world.store.mood = StoreMood {
            load_us: 500,
            ..StoreMood::default()
        };
        world.fill();
        world
    }

    /// Runs the whole history: what was planned, then a time without faults, then rest.
    pub(crate) fn run(&mut self) -> Checked {
        let began_at = self.now;
        self.boot(self.plan.shape.shards)?;
        let plan = self.plan;
        for planned in &plan.steps {
            self.advance(planned.after_us)?;
            self.carry_out(planned.number, &planned.step)?;
        }
        self.calm_down()?;
        self.figures.virtual_us = self.now - began_at;
        self.figures.inputs = self.step;
        Ok(())
    }
}

fn keyspace_id(keyspace: u8) -> KeyspaceId {
    KeyspaceId(u32::from(keyspace) * 6 + 1)
}

fn keyspace_of(id: KeyspaceId) -> u8 {
    ((id.0 - 1) / 6) as u8
}

fn key_id(name: Name) -> [u8; 2] {
    [b'k', name.key]
}

/// Names a key's stream of draws.
fn number_of(name: Name) -> u64 {
    u64::from(name.keyspace) << 8 | u64::from(name.key)
}

fn name_of(keyspace: KeyspaceId, key_id: &[u8]) -> Name {
    Name {
        keyspace: keyspace_of(keyspace),
        key: key_id[1],
    }
}
