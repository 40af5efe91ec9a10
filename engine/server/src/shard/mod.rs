//! One shard: the pure core, its keys, and what connects them to sockets, peers and the control
//! thread. Everything here runs on one thread; nothing is locked.
//!
//! ```text
//!  connection ──frame──▶ request ──▶ core ──▶ operation ──▶ outbox
//!       │ not mine                    │ actions (pump)
//!       ▼                             ▼
//!     mesh ──▶ owner's shard      rehydrator, control thread, waiting requests
//! ```

mod accept;
mod admin;
mod answer;
mod control;
mod core_cell;
mod deadlines;
mod dek_wait;
mod figures;
pub mod forward;
mod held;
mod hello;
mod keyspaces;
pub mod leases;
mod log;
mod operation;
mod permit;
mod pump;
mod ready;
mod request;
mod serve;
mod slow;
mod turn;
mod uses;
pub mod waiting;
mod wakeup;
mod warm;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use keyway_core::{Instant, Limits};
use keyway_keys::UnlockedKey;
use keyway_node::ids::Epoch;
use keyway_node::messages::ToShard;
pub use keyway_node::shard::hot;
use keyway_protocol::Router;
use tokio::sync::mpsc;

use crate::accounts::{Accounts, WAITING_RESERVED};
use crate::authorise::Owner;
use crate::connection::Connection;
use crate::control::lanes::LaneEnds;
use crate::control::link::ControlLink;
use crate::metrics::exporter;
use crate::rehydrator::Rehydrator;
use crate::runtime::mesh::Mesh;

pub use answer::{Origin, Responder};
pub use serve::{Start, serve};
pub use turn::Turn;

use answer::Orphans;
use core_cell::CoreCell;
use deadlines::Deadlines;
use dek_wait::DekWaits;
use figures::Figures;
use forward::MeshMessage;
use keyspaces::Keyspaces;
use pump::LoadQueue;
use request::Waiting;
use slow::SlowOperation;
use uses::Unreserved;
use waiting::WaitingRoom;
use wakeup::Wakeup;
use warm::WarmStart;

/// Requests of one connection under way; past it the connection is not read.
pub const IN_FLIGHT_PER_CONNECTION_MAX: usize = 1_024;

/// Requests of a shard that may wait for a flight, a peer or the control thread.
pub const WAITING_MAX: usize = 65_536;

/// Places beyond these for commands that take something away.
pub const WAITING_FOR_EMERGENCY: usize = 4_096;

/// Slow operations that may queue; past it they are answered OVERLOADED.
pub const SLOW_QUEUE_MAX: usize = 4_096;

const _: () = assert!(IN_FLIGHT_PER_CONNECTION_MAX < WAITING_MAX);
const _: () =
    assert!(crate::accounts::IN_FLIGHT_PER_PRINCIPAL_MAX < WAITING_MAX - WAITING_RESERVED);

/// One shard.
pub struct Shard {
    index: u16,
    router: Router,
    ports: Vec<u16>,
    owner: Owner,
    accounts: Accounts,
    /// The process's limit of open files.
    descriptors_max: u64,
    core: CoreCell<keyway_core::Shard<UnlockedKey>>,
    rehydrator: Rehydrator,
    keyspaces: RefCell<Keyspaces>,
    waiting: WaitingRoom<Waiting>,
    deadlines: Deadlines,
    /// Writes that wait for a DEK.
    dek_waits: DekWaits,
    held_bytes: Rc<Cell<usize>>,
    /// What connections have been read ahead, beyond a frame each.
    read_ahead_bytes: Rc<Cell<usize>>,
    loads: RefCell<LoadQueue>,
    slow: RefCell<VecDeque<SlowOperation>>,
    unreserved: RefCell<VecDeque<Unreserved>>,
    orphans: Rc<Orphans>,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    mesh: Mesh<MeshMessage>,
    control: ControlLink,
    /// What the control thread says.
    events: RefCell<LaneEnds<ToShard>>,
    /// When the core's next tick is due.
    tick_at: Cell<Instant>,
    /// Wakes the lane of those whose wait is over, for what a turn had to leave.
    ready_work: Wakeup,
    exporter: mpsc::Sender<exporter::Message>,
    /// Keyspaces that are being wiped, and the epoch of the lock that control is told of when nothing is left.
    locking: RefCell<Vec<(u32, Epoch)>>,
    warm: RefCell<WarmStart>,
    figures: Figures,
    stopping: Cell<bool>,
}

impl Shard {
    /// Whether the shard has stopped taking connections.
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Bytes that inboxes of connections have beyond a frame each.
    pub fn read_ahead_bytes(&self) -> Rc<Cell<usize>> {
        Rc::clone(&self.read_ahead_bytes)
    }
}

/// The core's limits on a shard of this size.
fn limits(
    index: u16,
    count: u16,
    renew_early_ppm: u32,
    keys_max: usize,
    arena_bytes: usize,
) -> Limits {
    Limits {
        shard_index: index,
        shard_count: count,
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
