//! The only place where a key is used.

use keyway_core::{Grant, Instant, KeyspaceId, Refusal, Verdict};
use keyway_protocol::{RequestFrame, ResponseFlags, ResponseHead, Status};
use zeroize::Zeroize;

use super::Shard;
use super::effect::{Errand, OwnedName};
use super::governed::Keyspaces;
use super::job::{Job, Jobs, Kept, Stage};
use super::key_use::Use;
use super::outputs::{Outputs, ResponseResult};
use super::permit::Allowed;
use super::places::{Claim, WaitingPlace};
use super::port::{Cost, Operation, Port};
use super::refusal::overloaded;
use super::responder::Responder;
use super::slow_lane::SlowLane;
use super::tasks::{Task, Tasks};
use super::timed::Timed;

/// Encryptions that may wait at once until their uses are written down.
const UNRESERVED_MAX: usize = 4_096;

/// A request that may be carried out in this turn.
pub(crate) struct Asked<'turn> {
    /// Where its answer goes.
    pub(crate) responder: Responder,
    /// The right to it.
    pub(crate) allowed: Allowed<'turn>,
    /// After this the answer is of no use.
    pub(crate) deadline: Option<Instant>,
    /// The place that it has, if it has waited before.
    pub(crate) place: Option<WaitingPlace>,
}

impl Asked<'_> {
    /// Returns the job to park.
    pub(crate) fn into_job(self, kept: Kept, stage: Stage) -> Job {
        let permit = self.allowed.park();
        Job::new(self.responder, permit, kept, self.deadline, stage)
    }
}

/// Whether a slow operation may be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// It has to queue.
    Fast,
    /// This is the slow lane's own unit of work.
    Slow,
}

/// The parts of a shard that are not the core: what may be changed while a key is lent out.
pub(super) struct Hands<'s, P: Port> {
    pub(super) timed: &'s mut Timed<P>,
    pub(super) governed: &'s mut Keyspaces,
    pub(super) out: &'s mut Outputs,
    pub(super) jobs: &'s mut Jobs,
    pub(super) slow: &'s mut SlowLane,
    pub(super) tasks: &'s mut Tasks,
}

impl<P: Port> Shard<P> {
    /// Asks the core for the key, and uses it, lets the request wait for it, or refuses.
    pub(super) fn use_key(&mut self, asked: Asked<'_>, operation: &Operation<'_>, pace: Pace) {
        let frame = operation.frame;
        let wanted = keyway_core::Request {
            token: self.jobs.next_token(),
            keyspace: KeyspaceId(frame.keyspace_id),
            key_id: &frame.key_id,
            deadline: asked.deadline,
        };
        let now = self.timed.now();
        let port = &self.timed.port;
        let verdict = self.core.call(|core| {
            port.panic_if_planted("core", &frame.key_id);
            core.handle_request(now, wanted)
        });
        let hands = Hands {
            timed: &mut self.timed,
            governed: &mut self.governed,
            out: &mut self.out,
            jobs: &mut self.jobs,
            slow: &mut self.slow,
            tasks: &mut self.tasks,
        };
        match verdict {
            Verdict::Serve(grant) => hands.run_operation(asked, operation, &grant, pace),
            Verdict::Refuse(refusal) => {
                hands
                    .out
                    .refuse_as(hands.governed, asked.responder, refusal);
            }
            Verdict::Wait => self.wait_for_key(asked, frame),
        }
    }

    /// Keeps a request that the core lets wait.
    fn wait_for_key(&mut self, mut asked: Asked<'_>, frame: &RequestFrame<'_>) {
        let (now, token) = (self.timed.now(), self.jobs.next_token());
        let counters = self.core.view().counters(KeyspaceId(frame.keyspace_id));
        let waiters = counters.map_or(0, |counters| counters.singleflight_waiters);
        if let Some(at) = asked.responder.count.keyspace {
            let governed = &mut self.governed[at];
            governed.waiters_max = governed.waiters_max.max(waiters);
            governed.tally.wait(now, &frame.key_id);
        }
        match self.jobs.keep(Claim::REQUEST, asked.place.take(), frame) {
            Some(kept) => {
                self.jobs.park(asked.into_job(kept, Stage::Waiting));
            }
            None => {
                self.core.call(|core| core.handle_waiter_gone(now, token));
                self.refuse_as(asked.responder, overloaded(10_000));
            }
        }
    }
}

impl<P: Port> Hands<'_, P> {
    /// Uses the key now, or queues the request when the operation is a slow one.
    ///
    /// The clock is read again after the operation: a result that was made when the key's time was over is wiped and does
    /// not leave.
    pub(super) fn run_operation(
        self,
        asked: Asked<'_>,
        operation: &Operation<'_>,
        grant: &Grant<'_, P::Key>,
        pace: Pace,
    ) {
        match self.timed.port.cost(grant.value, operation) {
            Cost::Slow if pace == Pace::Fast => return self.queue_slow(asked, operation.frame),
            Cost::Unreserved { version } => {
                return self.wait_for_uses(asked, operation.frame, version);
            }
            Cost::Slow | Cost::Fast => {}
        }
        let with = Use::of(grant, asked.allowed);
        let timed = self.timed;
        let granted_at = timed.now();
        self.out
            .answer_until(grant.expires_at, asked.responder, |payload| {
                let start = payload.len();
                let port = &timed.port;
                port.panic_if_planted("operation", &operation.frame.key_id);
                let performed = port.perform(with, operation, payload);
                let done_at = timed.read();
                let key_version = performed.map_err(|error| {
                    (ResponseHead::status(error.status), error.explanation.into())
                })?;
                if done_at >= grant.expires_at {
                    payload[start..].zeroize();
                    return expired_meanwhile();
                }
                let age_us = grant.age_us + done_at.saturating_since(granted_at);
                Ok(ResponseHead {
                    flags: match grant.stale {
                        true => ResponseFlags::STALE,
                        false => ResponseFlags::NONE,
                    },
                    key_version,
                    key_age_ms: u32::try_from(age_us / 1_000).unwrap_or(u32::MAX),
                    ..ResponseHead::OK
                })
            });
    }

    fn queue_slow(self, mut asked: Asked<'_>, frame: &RequestFrame<'_>) {
        let kept = self.jobs.keep(Claim::REQUEST, asked.place.take(), frame);
        let (Some(kept), Some(of)) = (
            kept.filter(|_| self.slow.has_room()),
            asked.allowed.keyspace(),
        ) else {
            return self.refuse(asked, overloaded(100_000));
        };
        let job = self.jobs.park(asked.into_job(kept, Stage::Slow));
        self.slow.push(of, job);
    }

    /// Lets an encryption wait until the next block of its key's uses is written down: once in 16,777,216 encryptions of
    /// a key, and at its first since the start.
    fn wait_for_uses(self, mut asked: Asked<'_>, frame: &RequestFrame<'_>, version: u32) {
        let kept = self.jobs.keep(Claim::REQUEST, asked.place.take(), frame);
        let Some(kept) = kept.filter(|_| self.jobs.unreserved < UNRESERVED_MAX) else {
            return self.refuse(asked, overloaded(100_000));
        };
        let name = OwnedName {
            keyspace: frame.keyspace_id,
            key_id: Box::from(frame.key_id.bytes()),
        };
        let job = self.jobs.park(asked.into_job(kept, Stage::Unreserved));
        let errand = Errand::Reserve(name, version);
        self.tasks.begin(self.out, Task::Job(job), errand);
    }

    fn refuse(self, asked: Asked<'_>, refusal: Refusal) {
        self.out.refuse_as(self.governed, asked.responder, refusal);
    }
}

/// Returns the answer that replaces a result that was computed too late.
pub(super) fn expired_meanwhile() -> ResponseResult {
    let head = ResponseHead {
        after_us: 1_000,
        ..ResponseHead::status(Status::Retry)
    };
    Err((
        head,
        "the key's time ended during the operation; try again".into(),
    ))
}
