//! Everything that waits, and its deadline.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use keyway_core::wheel::{TimerId, Wheel};
use keyway_core::{Instant, Token};
use keyway_protocol::{Request, RequestFrame};
use zeroize::Zeroize;

use super::key_write::KeyWrite;
use super::permit::Permit;
use super::responder::Responder;
use crate::connection::{Connection, Place};
use keyway_core::slots::{Handle, Slots};

/// Requests of a shard that may wait for a flight, a peer or control.
pub const WAITING_MAX: usize = 65_536;

/// Places beyond these for commands that take something away.
pub const WAITING_FOR_EMERGENCY: usize = 4_096;

/// Bytes of requests that a shard keeps for later, all together.
pub const HELD_BYTES_MAX: usize = 64 << 20;

const _: () = assert!(crate::connection::IN_FLIGHT_PER_CONNECTION_MAX < WAITING_MAX);
const _: () = assert!(
    crate::connection::IN_FLIGHT_PER_PRINCIPAL_MAX
        < WAITING_MAX - crate::connection::WAITING_RESERVED
);

/// A claim on the shard's memory for held requests; given back when dropped.
pub(crate) struct MemoryReservation {
    bytes: usize,
    total: Rc<Cell<usize>>,
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.bytes);
    }
}

/// A whole request frame kept for later; wiped when dropped.
pub(crate) struct BufferedFrame {
    bytes: Vec<u8>,
    _claim: MemoryReservation,
}

impl BufferedFrame {
    /// Returns the request, decoded again. It was encoded here, so it decodes.
    pub(crate) fn frame(&self) -> Option<RequestFrame<'_>> {
        let decoded = RequestFrame::decode(&self.bytes).ok().flatten();
        decoded.map(|(frame, _)| frame)
    }

    /// Calls `read` with the request.
    pub(crate) fn with<R>(
        &self,
        read: impl FnOnce(&RequestFrame<'_>, &Request<'_>) -> R,
    ) -> Option<R> {
        let frame = self.frame()?;
        let request = Request::decode(&frame).ok()?;
        Some(read(&frame, &request))
    }

    /// Takes the bytes, for another shard; the claim stays until this is dropped.
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for BufferedFrame {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// A request that waits for something.
pub struct Job {
    /// `None` once its deadline has passed, or its connection is gone, while what it began continues.
    pub(crate) responder: Option<Responder>,
    /// The right to it, to be checked again when the wait is over.
    pub(crate) permit: Permit,
    pub(crate) frame: BufferedFrame,
    pub(crate) deadline: Option<Instant>,
    pub(crate) stage: Stage,
    /// Ends the wait, where the shard itself does.
    timer: Option<TimerId<Handle<Job>>>,
}

impl Job {
    pub(crate) fn new(
        responder: Responder,
        permit: Permit,
        frame: BufferedFrame,
        deadline: Option<Instant>,
        stage: Stage,
    ) -> Self {
        Job {
            responder: Some(responder),
            permit,
            frame,
            deadline,
            stage,
            timer: None,
        }
    }

    fn connection(&self) -> Option<Handle<Connection>> {
        self.responder.as_ref().and_then(Responder::connection)
    }
}

/// What a job waits for.
pub(crate) enum Stage {
    /// A key. The core has its deadline.
    Waiting,
    /// A force-refresh. The core has its deadline.
    Refreshing,
    /// Its turn in the slow lane.
    Slow,
    /// That its uses are written down.
    Unreserved,
    /// Another shard's answer.
    Forwarded {
        /// It changes a key.
        is_write: bool,
    },
    /// Control's answer.
    Control,
    /// A page of the log.
    Listing { _place: Place },
    /// A step of a write.
    Writing(KeyWrite),
}

impl Stage {
    /// Returns whether the core hands the job out, in time.
    pub(crate) fn is_in_core(&self) -> bool {
        match self {
            Stage::Waiting | Stage::Refreshing => true,
            Stage::Writing(write) => write.awaits_dek(),
            _ => false,
        }
    }
}

/// The jobs of a shard.
pub(crate) struct Jobs {
    all: Slots<Job>,
    /// Those whose answer goes to a connection of this shard, so that only those are looked for when it ends.
    by_connection: BTreeMap<Handle<Connection>, BTreeSet<Handle<Job>>>,
    /// When the shard itself ends a wait.
    timers: Wheel<Handle<Job>>,
    held_bytes: Rc<Cell<usize>>,
    /// Jobs in [`Stage::Unreserved`].
    pub(crate) unreserved: usize,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Jobs {
            all: Slots::new(),
            by_connection: BTreeMap::new(),
            timers: Wheel::new(),
            held_bytes: Rc::default(),
            unreserved: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns whether one more request may wait while so many places stay free for others.
    pub(crate) fn has_room_beside(&self, reserved: usize) -> bool {
        self.len() + reserved < WAITING_MAX
    }

    /// Returns the same for a command that takes something away.
    pub(crate) fn has_room_for_emergency(&self, reserved: usize) -> bool {
        self.len() + reserved < WAITING_MAX + WAITING_FOR_EMERGENCY
    }

    /// Returns the core's name for the job that is parked next.
    pub(crate) fn next_token(&self) -> Token {
        Token(self.all.vacant().to_bits())
    }

    /// Keeps a copy of a request; `None` when the shard holds too much already. `reserved` bytes stay free for others.
    pub(crate) fn buffer_frame(
        &self,
        frame: &RequestFrame<'_>,
        reserved: usize,
    ) -> Option<BufferedFrame> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).ok()?;
        let total = self.held_bytes.get() + bytes.len();
        if total + reserved > HELD_BYTES_MAX {
            return None;
        }
        self.held_bytes.set(total);
        let claim = MemoryReservation {
            bytes: bytes.len(),
            total: Rc::clone(&self.held_bytes),
        };
        Some(BufferedFrame {
            bytes,
            _claim: claim,
        })
    }

    /// Keeps nothing, for a request that is answered without looking at it again. That needs no room, and leaves no copy of
    /// a secret behind.
    pub(crate) fn hold_nothing(&self) -> BufferedFrame {
        BufferedFrame {
            bytes: Vec::new(),
            _claim: MemoryReservation {
                bytes: 0,
                total: Rc::clone(&self.held_bytes),
            },
        }
    }

    /// Lets a job wait. Its name is the one of [`Jobs::next_token`].
    pub(crate) fn park(&mut self, mut job: Job) -> Handle<Job> {
        self.unreserved += usize::from(matches!(job.stage, Stage::Unreserved));
        let at = self.all.vacant();
        job.timer = time_of(&job).map(|time| self.timers.arm(time, at));
        if let Some(connection) = job.connection() {
            self.by_connection.entry(connection).or_default().insert(at);
        }
        self.all.insert(job);
        at
    }

    /// Takes a job that goes on; `None` if it has ended meanwhile.
    pub(crate) fn take(&mut self, at: Handle<Job>) -> Option<Job> {
        let job = self.all.take(at)?;
        self.unreserved -= usize::from(matches!(job.stage, Stage::Unreserved));
        if let Some(timer) = job.timer {
            self.timers.cancel(timer);
        }
        self.leave(job.connection(), at);
        Some(job)
    }

    /// Returns a job that waits.
    pub(crate) fn get(&self, at: Handle<Job>) -> Option<&Job> {
        self.all.get(at)
    }

    /// Takes the duty to answer from a job that continues.
    pub(crate) fn take_responder(&mut self, at: Handle<Job>) -> Option<Responder> {
        let job = self.all.get_mut(at)?;
        let connection = job.connection();
        let responder = job.responder.take();
        self.leave(connection, at);
        responder
    }

    /// Takes the list of a connection's jobs, which has ended. The jobs themselves stay.
    pub(crate) fn take_connection(
        &mut self,
        connection: Handle<Connection>,
    ) -> BTreeSet<Handle<Job>> {
        self.by_connection.remove(&connection).unwrap_or_default()
    }

    fn leave(&mut self, connection: Option<Handle<Connection>>, at: Handle<Job>) {
        let Some(connection) = connection else {
            return;
        };
        if let Some(jobs) = self.by_connection.get_mut(&connection) {
            jobs.remove(&at);
            if jobs.is_empty() {
                self.by_connection.remove(&connection);
            }
        }
    }

    /// Returns the next job whose time has come, once.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Handle<Job>> {
        self.timers.advance(now);
        self.timers.pop()
    }
}

/// Returns when the shard itself ends a wait.
fn time_of(job: &Job) -> Option<Instant> {
    let is_ours = job.responder.is_some() && !job.stage.is_in_core();
    job.deadline.filter(|_| is_ours)
}
