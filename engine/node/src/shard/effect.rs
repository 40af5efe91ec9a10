//! What a shard asks its driver for.

use std::collections::VecDeque;

use super::figures::Observation;
use super::port::{Generated, Page, ReadError, Write, WriteError};
use super::report::Report;
use crate::connection::Connection;
use crate::messages::{Lane, ToControl};
use keyway_core::slots::Handle;

/// Names one thing that the driver was asked to do and that has a result: exactly one, given to
/// [`super::Shard::handle_done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub(super) u64);

/// The name of a key, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedName {
    /// Its keyspace.
    pub keyspace: u32,
    /// Its id in it.
    pub key_id: Box<[u8]>,
}

/// What the driver has to do.
pub enum Effect {
    /// Look at a connection: bytes can be sent, or it may be read again, or it is over. Once for each connection and turn.
    Send(Handle<Connection>),
    /// Close a connection's socket now. The end is reported by [`super::Shard::handle_closed`] as always.
    Close(Handle<Connection>),
    /// Do something that takes time.
    Do(TaskId, Errand),
    /// Tell control. What finds no room comes back by [`super::Shard::handle_untold`].
    Tell(Lane, ToControl),
    /// Send another shard what [`super::Shard::take_batch`] gives.
    Batch(u16),
    /// Write to the log.
    Log(Report),
    /// Enter into a histogram.
    Observe(Observation),
    /// Publish a snapshot now: the warm start is done.
    Publish,
}

/// Something that takes time, beside the shard.
#[derive(Debug)]
pub enum Errand {
    /// Read a key's blob: [`Done::Read`].
    Read(OwnedName),
    /// Write to the log: [`Done::Put`].
    Put(OwnedName, Write),
    /// Find out when a key was revoked: [`Done::RevokedAt`].
    RevokedAt(OwnedName),
    /// Page through a keyspace's keys: [`Done::Listed`].
    List {
        /// Which keyspace.
        keyspace: u32,
        /// Where the page begins; empty for the first.
        cursor: Vec<u8>,
        /// Rows, at most.
        rows_max: usize,
    },
    /// Generate a secret of the algorithm with this code: [`Done::Generated`].
    Generate(u8),
    /// Write down that the next uses of a key version may be made: [`Done::Reserved`].
    Reserve(OwnedName, u32),
}

/// How an errand ended.
#[derive(Debug)]
pub enum Done {
    /// Of [`Errand::Read`].
    Read(Result<super::port::Found, ReadError>),
    /// Of [`Errand::Put`]: the key's version.
    Put(Result<u32, WriteError>),
    /// Of [`Errand::RevokedAt`]: ms since 1970, if it is known.
    RevokedAt(Result<Option<u64>, WriteError>),
    /// Of [`Errand::List`].
    Listed(Result<Page, String>),
    /// Of [`Errand::Generate`].
    Generated(Result<Generated, WriteError>),
    /// Of [`Errand::Reserve`].
    Reserved(Result<(), WriteError>),
    /// Of any: it was lost, by a panic for one.
    Lost,
}

/// Effects that wait for the driver. As many as a turn can cause, and what control has no room for.
#[derive(Default)]
pub(crate) struct Effects {
    queue: VecDeque<Effect>,
    /// Messages for control, each lane in order.
    urgent: VecDeque<ToControl>,
    ordinary: VecDeque<ToControl>,
    /// A lane had no room since the last turn.
    is_urgent_full: bool,
    is_ordinary_full: bool,
}

impl Effects {
    pub(super) fn push(&mut self, effect: Effect) {
        self.queue.push_back(effect);
    }

    pub(super) fn tell(&mut self, message: ToControl) {
        match lane_of(&message) {
            Lane::Emergency => self.urgent.push_back(message),
            Lane::Ordinary => self.ordinary.push_back(message),
        }
    }

    /// Takes back what control had no room for: it is said again in the next turn.
    pub(super) fn untold(&mut self, lane: Lane, message: ToControl) {
        match lane {
            Lane::Emergency => {
                self.urgent.push_front(message);
                self.is_urgent_full = true;
            }
            Lane::Ordinary => {
                self.ordinary.push_front(message);
                self.is_ordinary_full = true;
            }
        }
    }

    /// Tries lanes again that were full.
    pub(super) fn retry(&mut self) {
        self.is_urgent_full = false;
        self.is_ordinary_full = false;
    }

    pub(super) fn next(&mut self) -> Option<Effect> {
        if !self.is_urgent_full
            && let Some(message) = self.urgent.pop_front()
        {
            return Some(Effect::Tell(Lane::Emergency, message));
        }
        if let Some(effect) = self.queue.pop_front() {
            return Some(effect);
        }
        if self.is_ordinary_full {
            return None;
        }
        let message = self.ordinary.pop_front()?;
        Some(Effect::Tell(Lane::Ordinary, message))
    }
}

/// Returns on which lane a message goes to control: commands that take something away, and all that has to arrive,
/// overtake the rest, so that no lock waits for an acknowledgement.
fn lane_of(message: &ToControl) -> Lane {
    match message {
        ToControl::Request(request) => request.command.lane(),
        message if message.must_deliver() => Lane::Emergency,
        _ => Lane::Ordinary,
    }
}
