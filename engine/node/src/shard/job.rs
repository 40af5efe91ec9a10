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
use super::places::{Claim, Places, Purpose, WaitingPlace};
use super::responder::Responder;
use crate::connection::{Connection, HELD_BYTES_RESERVED, Place};
use crate::limits::VERDICT_US;
use keyway_core::slots::{Handle, Slots};

/// Bytes of requests that a shard keeps for later, all together.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// The largest frame of a revocation: its head, the key's id and a version.
const REVOCATION_LEN_MAX: usize = 256;

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
    pub(crate) place: Option<WaitingPlace>,
    /// Ends the wait, where the shard itself does.
    timer: Option<TimerId<Handle<Job>>>,
}

impl Job {
    pub(crate) fn new(
        responder: Responder,
        permit: Permit,
        kept: Kept,
        deadline: Option<Instant>,
        stage: Stage,
    ) -> Self {
        Job {
            responder: Some(responder),
            permit,
            frame: kept.frame,
            deadline,
            stage,
            place: Some(kept.place),
            timer: None,
        }
    }

    fn connection(&self) -> Option<Handle<Connection>> {
        self.responder.as_ref().and_then(Responder::connection)
    }
}

/// A place, and what is kept of the request that takes it.
pub(crate) struct Kept {
    pub(crate) place: WaitingPlace,
    pub(crate) frame: BufferedFrame,
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
        /// It takes something away.
        takes_away: bool,
    },
    /// Control's answer.
    Control {
        /// It may take something away.
        takes_away: bool,
    },
    /// Control reports something: the right is checked again before it is passed on.
    Reported,
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

    /// Returns whether something may be taken away elsewhere, and nothing but the answer can say whether it is in force.
    pub(crate) fn awaits_verdict(&self) -> bool {
        match self {
            Stage::Forwarded { takes_away, .. } | Stage::Control { takes_away } => *takes_away,
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
    may_have_due: bool,
    held_bytes: Rc<Cell<usize>>,
    pub(crate) places: Places,
    /// Jobs in [`Stage::Unreserved`].
    pub(crate) unreserved: usize,
}

impl Jobs {
    pub(crate) fn new() -> Self {
        Jobs {
            all: Slots::new(),
            by_connection: BTreeMap::new(),
            timers: Wheel::new(),
            may_have_due: false,
            held_bytes: Rc::default(),
            places: Places::default(),
            unreserved: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Returns the core's name for the job that is parked next.
    pub(crate) fn next_token(&self) -> Token {
        Token(self.all.vacant().to_bits())
    }

    /// Takes a place for a request, and keeps a copy of it. `place`: the one that it has already. `None`: there is none, or
    /// the shard keeps too much already.
    pub(crate) fn keep(
        &self,
        claim: Claim,
        place: Option<WaitingPlace>,
        frame: &RequestFrame<'_>,
    ) -> Option<Kept> {
        // Before the frame is copied: refusing is cheap, above all when there is much to refuse.
        let place = place.or_else(|| self.places.take(claim))?;
        let frame = self.buffer_frame(claim, frame)?;
        Some(Kept { place, frame })
    }

    fn buffer_frame(&self, claim: Claim, frame: &RequestFrame<'_>) -> Option<BufferedFrame> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).ok()?;
        // Those of revocations are bounded by their places.
        if claim.purpose != Purpose::Request {
            let mut held = self.hold_nothing();
            held.bytes = bytes;
            return (held.bytes.len() <= REVOCATION_LEN_MAX).then_some(held);
        }
        let reserved = match claim.is_operator {
            true => 0,
            false => HELD_BYTES_RESERVED,
        };
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

    /// Takes a place and keeps nothing, for a request that is answered without looking at it again. That leaves no copy of a
    /// secret behind.
    pub(crate) fn keep_nothing(&self, claim: Claim, place: Option<WaitingPlace>) -> Option<Kept> {
        Some(Kept {
            place: place.or_else(|| self.places.take(claim))?,
            frame: self.hold_nothing(),
        })
    }

    fn hold_nothing(&self) -> BufferedFrame {
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

    /// Takes the next job of a connection, which has ended, off its list. The job itself stays.
    pub(crate) fn pop_of(&mut self, connection: Handle<Connection>) -> Option<Handle<Job>> {
        let job = *self.by_connection.get(&connection)?.first()?;
        self.leave(Some(connection), job);
        Some(job)
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

    /// Has jobs looked for whose time has come.
    pub(crate) fn look_for_due(&mut self) {
        self.may_have_due = true;
    }

    /// Returns whether there may be jobs whose time has come.
    pub(crate) fn may_have_due(&self) -> bool {
        self.may_have_due
    }

    /// Returns the next job whose time has come, once.
    pub(crate) fn next_due(&mut self, now: Instant) -> Option<Handle<Job>> {
        self.timers.advance(now);
        let due = self.timers.pop();
        self.may_have_due = due.is_some();
        due
    }
}

/// Returns when the shard itself ends a wait.
fn time_of(job: &Job) -> Option<Instant> {
    let is_ours = job.responder.is_some() && !job.stage.is_in_core();
    let deadline = job.deadline.filter(|_| is_ours)?;
    match job.stage.awaits_verdict() {
        true => Some(deadline.plus_us(VERDICT_US)),
        false => Some(deadline),
    }
}
