//! One shard of the node: the pure core, and everything that decides around it. One owner, no locks, no clock.
//!
//! ```text
//!  bytes ─▶ connection ─ frame ─▶ request ─ permit ─▶ core ─ grant ─▶ use_key ─ Port::perform ─▶ outputs ─▶ bytes
//!                          │ not mine       │ actions │ settled
//!                          ▼                ▼         ▼
//!                      forwarder     loads, shelf   waited ◀─ jobs: everything that waits, and its deadline
//!                          ▲                ▲
//!                     peers' shards     the log, control
//! ```
//!
//! # Order of calls
//!
//! 1. [`Shard::boot`] with the keyspaces.
//! 2. Any `handle_*`: they only queue, except that bytes are taken in and out of the connections' buffers.
//! 3. [`Shard::handle_rested`] if I/O was polled since the last turn, [`Shard::turn`], then drain [`Shard::poll_effect`]
//!    and do what it returns. After [`Turn::More`] poll I/O and take another turn. Without inputs, take one at the time
//!    of [`Turn::Idle`].
//! 4. Each [`Effect::Do`] is answered by one [`Shard::handle_done`], whatever happens. A message for which control's lane
//!    or a peer's queue is full is given back.

mod clients;
mod command;
mod core_guard;
mod effect;
pub mod figures;
mod forwarder;
mod governed;
mod hello;
mod inbox;
mod job;
mod key_admin;
mod key_list;
mod key_place;
mod key_use;
mod key_write;
mod key_written;
mod loads;
mod orders;
mod outputs;
mod permit;
mod places;
pub mod port;
mod refusal;
mod report;
mod request;
mod reseal;
mod responder;
mod shelf;
mod slow_lane;
mod snapshot;
mod tasks;
mod tick;
mod timed;
mod turn;
mod upkeep;
mod use_key;
mod waited;
mod warm;

use keyway_core::{Limits, LimitsError};
use keyway_protocol::Router;

pub use clients::Arrival;
pub use command::ControlRoom;
pub use effect::{Done, Effect, Errand, OwnedName, TaskId};
pub use forwarder::{BATCH_LEN_MAX, Forwarder, OUTGOING_MAX};
pub use job::{HELD_BYTES_MAX, Job};
pub use key_use::Use;
pub use loads::{PREFETCH_READS_MAX, READS_MAX};
pub use places::{WAITING_FOR_EMERGENCY, WAITING_MAX};
pub use report::{KeyChange, Report};
pub use slow_lane::SLOW_QUEUE_MAX;
pub use timed::TURN_US_MAX;
pub use turn::Turn;
pub use warm::HOT_KEYS_MAX;

use crate::connection::{Connections, WAITING_RESERVED};
use crate::keyspace_change::KeyspaceChange;
use crate::limits::{EMERGENCIES_MAX, TO_SHARD_MAX};
use crate::messages::{HotKey, Lane, ToControl, ToPeer, ToShard};
use crate::policy::Owner;
use core_guard::CoreGuard;
use governed::Keyspaces;
use inbox::Inbox;
use job::Jobs;
use loads::LoadQueue;
use outputs::Outputs;
use port::Port;
use shelf::Shelf;
use slow_lane::SlowLane;
use tasks::Tasks;
use timed::Timed;
use upkeep::Upkeep;

/// Which shard it is, and what does not change.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its number.
    pub index: u16,
    /// Which shard has which key.
    pub router: Router,
    /// Each shard's own port.
    pub ports: Vec<u16>,
}

/// What a shard is made of.
pub struct Start {
    /// Which shard it is.
    pub site: Site,
    /// The core's limits.
    pub limits: Limits,
    /// Seed of the core's randomness.
    pub seed: u64,
    /// The rights that hold everywhere.
    pub owner: Owner,
    /// Connections for strangers.
    pub connections_max: usize,
    /// The keys of this shard that were hot in the last run, hottest first.
    pub hot_keys: Vec<HotKey>,
}

/// One shard.
pub struct Shard<P: Port> {
    site: Site,
    timed: Timed<P>,
    core: CoreGuard<P::Key>,
    governed: Keyspaces,
    out: Outputs,
    jobs: Jobs,
    slow: SlowLane,
    loads: LoadQueue,
    tasks: Tasks,
    shelf: Shelf<P::Dek>,
    inbox: Inbox,
    upkeep: Upkeep,
}

impl<P: Port> Shard<P> {
    /// Makes a shard without keyspaces.
    ///
    /// # Errors
    /// The limits contradict each other.
    pub fn new(start: Start, port: P) -> Result<Self, LimitsError> {
        let timed = Timed::new(port);
        let shards = start.site.router.shard_count();
        Ok(Shard {
            core: CoreGuard::new(keyway_core::Shard::new(start.limits, start.seed)?),
            governed: Keyspaces::new(start.owner),
            out: Outputs::new(
                Connections::new(start.connections_max),
                Forwarder::new(shards),
            ),
            jobs: Jobs::new(),
            slow: SlowLane::default(),
            loads: LoadQueue::default(),
            tasks: Tasks::default(),
            shelf: Shelf::default(),
            inbox: Inbox::default(),
            upkeep: Upkeep::new(timed.now(), start.hot_keys),
            site: start.site,
            timed,
        })
    }

    /// Makes the node's keyspaces known, before anything else.
    pub fn boot<'a>(&mut self, keyspaces: impl IntoIterator<Item = &'a KeyspaceChange>) {
        self.timed.begin();
        for change in keyspaces {
            self.take_change(change);
        }
        self.shelf.confirm_none();
    }

    /// Returns whether the core has panicked: the shard answers nothing any more and must be stopped.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.core.is_broken()
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> &P {
        &self.timed.port
    }

    /// Queues a message of control.
    pub fn handle_control(&mut self, lane: Lane, message: ToShard) {
        match lane {
            Lane::Emergency => self.inbox.emergencies.push_back(message),
            Lane::Ordinary => self.inbox.orders.push_back(message),
        }
    }

    /// Returns whether one more message of control may be queued. Others stay in their lane.
    #[must_use]
    pub fn takes_control(&self, lane: Lane) -> bool {
        match lane {
            Lane::Emergency => self.inbox.emergencies.len() < EMERGENCIES_MAX,
            Lane::Ordinary => self.inbox.orders.len() < TO_SHARD_MAX,
        }
    }

    /// Notes that I/O was polled: the next slow operation may be done, in the turn that follows.
    pub fn handle_rested(&mut self) {
        self.upkeep.has_rested = true;
    }

    /// Notes how many messages control's lanes have room for.
    pub fn handle_control_room(&mut self, room: ControlRoom) {
        self.upkeep.control_room = room;
    }

    /// Takes back what control had no room for.
    pub fn handle_untold(&mut self, lane: Lane, message: ToControl) {
        self.inbox.untold.push_back((lane, message));
    }

    /// Queues what another shard has sent.
    pub fn handle_peer(&mut self, from: u16, batch: Vec<ToPeer>) {
        self.inbox.push_batch(from, batch);
    }

    /// Queues the result of an errand.
    pub fn handle_done(&mut self, task: TaskId, done: Done) {
        self.inbox.done.push_back((task, done));
    }

    /// Returns what the driver has to do next; drained after each turn.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some(at) = self.out.connections.next_to_close() {
            return Some(Effect::Close(at));
        }
        if let Some(at) = self.out.connections.next_to_send() {
            return Some(Effect::Send(at));
        }
        self.out.effects.next()
    }

    /// Takes the next messages for another shard.
    pub fn take_batch(&mut self, to: u16) -> Option<Vec<ToPeer>> {
        self.out.forwarder.take_batch(to)
    }

    /// Takes back a batch for which there was no room; it is offered again after the next turn.
    pub fn give_back(&mut self, to: u16, batch: Vec<ToPeer>) {
        self.out.forwarder.give_back(to, batch);
    }
}

/// Returns the fewest keys that a shard may be limited to: more than may be loaded at the same time.
#[must_use]
pub fn keys_max_least() -> usize {
    Limits::default().flights_max + 1
}

/// Returns the core's limits on a shard of this size.
#[must_use]
pub fn limits(
    shard: (u16, u16),
    renew_early_ppm: u32,
    keys_max: usize,
    arena_bytes: usize,
) -> Limits {
    Limits {
        shard_index: shard.0,
        shard_count: shard.1,
        entries_max: keys_max,
        // The rest of the arena is for keys that are being loaded, DEKs and slot rounding.
        key_bytes_max: arena_bytes / 4 * 3,
        waiters_max: WAITING_MAX - WAITING_RESERVED,
        negatives_max: (keys_max / 4).max(1),
        revoked_max: (keys_max / 4).max(1),
        renew_early_ppm,
        ..Limits::default()
    }
}
