//! Requests whose wait is over: for a key, for their turn in the slow lane, for their uses to be written down, for
//! another shard, for control; and those whose time is over first.
//!
//! The right to each is looked at again, and so is the key.

use keyway_core::{Instant, KeyspaceId, Outcome, Refusal};
use keyway_protocol::{Request, ResponseFlags, ResponseHead, Status};
use zeroize::Zeroizing;

use super::Shard;
use super::effect::Done;
use super::governed::Keyspaces;
use super::job::{Job, Stage};
use super::outputs::Outputs;
use super::permit::TurnScope;
use super::port::{Operation, Port, WriteError};
use super::refusal::WriteRefusal;
use super::use_key::{Asked, Hands, Pace, expired_meanwhile};
use keyway_core::slots::Handle;

/// Offset of the flags in a response frame.
const RESPONSE_FLAGS_AT: usize = 6;

impl<P: Port> Shard<P> {
    pub(super) fn take_job(&mut self, at: Handle<Job>) -> Option<Job> {
        self.jobs.take(at)
    }

    /// Takes the job of this name, which has been to another shard or to control.
    fn take_named(&mut self, token: u64) -> Option<Job> {
        self.take_job(Handle::from_bits(token)?)
    }

    /// Carries out one request that the core has settled.
    pub(super) fn serve_one_settled(&mut self, turn: &TurnScope) {
        let now = self.timed.now();
        let settled = self.core.call(|core| core.poll_ready(now));
        let Some((token, outcome)) = settled else {
            return;
        };
        let hands = Hands {
            timed: &mut self.timed,
            governed: &mut self.governed,
            out: &mut self.out,
            jobs: &mut self.jobs,
            slow: &mut self.slow,
            tasks: &mut self.tasks,
        };
        let job = Handle::from_bits(token.0);
        let job = job.and_then(|job| hands.jobs.take(job));
        let Some(mut job) = job else {
            return;
        };
        // A client without a right must not learn the outcome of a load either.
        let Some(asked) = ask_again(hands.governed, hands.out, turn, &mut job) else {
            return;
        };
        match outcome {
            Outcome::Serve(grant) => {
                let Some(frame) = job.frame.frame() else {
                    return;
                };
                // It was decoded when it came.
                if let Ok(request) = Request::decode(&frame) {
                    let operation = Operation {
                        frame: &frame,
                        request: &request,
                    };
                    hands.run_operation(asked, &operation, &grant, Pace::Fast);
                }
            }
            Outcome::Dek => {
                job.responder = Some(asked.responder);
                self.resume_write(job);
            }
            Outcome::Refreshed { version } => hands.out.answer(asked.responder, |_| {
                Ok(ResponseHead {
                    key_version: version,
                    ..ResponseHead::OK
                })
            }),
            Outcome::Refuse(refusal) => {
                hands
                    .out
                    .refuse_as(hands.governed, asked.responder, refusal);
            }
        }
    }

    /// Carries out the next operation of the slow lane.
    pub(super) fn serve_one_slow(&mut self, turn: &TurnScope) {
        if let Some(job) = self.slow.pop() {
            self.resume(turn, job);
        }
    }

    /// Goes on with an encryption whose uses are written down, or cannot be.
    pub(super) fn go_on_reserved(
        &mut self,
        turn: &TurnScope,
        job: Handle<Job>,
        reserved: Result<(), WriteError>,
    ) {
        let Err(error) = reserved else {
            return self.resume(turn, job);
        };
        let error = match error {
            WriteError::Store(why) | WriteError::Unknown(why) => WriteError::Store(format!(
                "nothing was encrypted, since the key's use count cannot be written down: {why}"
            )),
            other => other,
        };
        if let Some(responder) = self.take_job(job).and_then(|job| job.responder) {
            self.out
                .refuse_write(&mut self.governed, responder, WriteRefusal::Error(error));
        }
    }

    /// Takes in that an errand of a job was lost.
    pub(super) fn lose_step(&mut self, turn: &TurnScope, at: Handle<Job>) {
        match self.jobs.get(at).map(|job| &job.stage) {
            Some(Stage::Writing(_)) => self.go_on_writing(at, Done::Lost),
            Some(Stage::Listing { .. }) => {
                if let Some(responder) = self.take_job(at).and_then(|job| job.responder) {
                    let text = "the page was lost; this is a bug, please report it".into();
                    self.out.refuse(responder, Status::Internal, text);
                }
            }
            _ => {
                let lost = WriteError::Unknown("a step was lost; this is a bug".to_owned());
                self.go_on_reserved(turn, at, Err(lost));
            }
        }
    }

    /// Asks for a key again, since the one that was found before the wait may have gone.
    fn resume(&mut self, turn: &TurnScope, job: Handle<Job>) {
        let Some(mut job) = self.take_job(job) else {
            return;
        };
        let Some(asked) = ask_again(&self.governed, &mut self.out, turn, &mut job) else {
            return;
        };
        let Some(frame) = job.frame.frame() else {
            return;
        };
        if let Ok(request) = Request::decode(&frame) {
            let operation = Operation {
                frame: &frame,
                request: &request,
            };
            self.use_key(asked, &operation, Pace::Slow);
        }
    }

    /// Passes another shard's answer on, unless the right to it was withdrawn or the time of the key that was used has
    /// ended in transit. The answer to a write is passed on anyway: it was done.
    pub(super) fn relay_reply(&mut self, token: u64, good_until: Instant, frame: Vec<u8>) {
        let mut frame = Zeroizing::new(frame);
        let Some(job) = self.take_named(token) else {
            return;
        };
        let (Stage::Forwarded { is_write, .. }, Some(responder)) = (job.stage, job.responder)
        else {
            return;
        };
        if let (false, Err(denied)) = (is_write, self.governed.recheck(job.permit)) {
            return self.out.deny(responder, denied);
        }
        if self.timed.now() >= good_until {
            return self.out.answer(responder, |_| expired_meanwhile());
        }
        if let Some(flags) = frame.get_mut(RESPONSE_FLAGS_AT) {
            *flags |= ResponseFlags::FORWARDED.bits() as u8;
        }
        self.out.pass_on(responder, &frame);
    }

    /// Passes control's answer on.
    pub(super) fn relay_answer(&mut self, token: u64, status: Status, answer: Zeroizing<Vec<u8>>) {
        let Some(job) = self.take_named(token) else {
            return;
        };
        let Some(responder) = job.responder else {
            return;
        };
        // The answer may have been sent before a withdrawal that has overtaken it.
        if matches!(job.stage, Stage::Reported)
            && let Err(denied) = self.governed.recheck(job.permit)
        {
            return self.out.deny(responder, denied);
        }
        self.out.answer(responder, |payload| {
            if status == Status::Ok {
                payload.extend_from_slice(&answer);
                return Ok(ResponseHead::OK);
            }
            let mut head = ResponseHead::status(status);
            if status.has_hint() {
                head.after_us = 100_000;
            }
            Err((head, String::from_utf8_lossy(&answer).into_owned().into()))
        });
    }

    /// Refuses a command for which control had no room after all.
    pub(super) fn refuse_command(&mut self, token: u64) {
        let job = self.take_named(token);
        if let Some(responder) = job.and_then(|job| job.responder) {
            self.refuse_as(responder, super::refusal::overloaded(100_000));
        }
    }

    /// Ends the wait of a job whose deadline has passed. Its work may be in progress, and be done or not: the answer
    /// says so.
    pub(super) fn end_overdue(&mut self, at: Handle<Job>) {
        let Some(job) = self.jobs.get(at) else {
            return;
        };
        let is_in_force = matches!(&job.stage, Stage::Writing(write) if write.is_in_force());
        let is_unknown = job.stage.awaits_verdict();
        let responder = match &job.stage {
            Stage::Writing(_) => self.jobs.take_responder(at),
            _ => self.take_job(at).and_then(|job| job.responder),
        };
        let (status, why) = match (is_in_force, is_unknown) {
            (true, _) => (
                Status::NotPersisted,
                "the revocation is in force and is not written yet, so that a restart would undo it; the server keeps trying: \
                 check the disk",
            ),
            (false, true) => (
                Status::Internal,
                "it was not confirmed in time that the command is in force on every shard: it may be, or be soon; send it \
                 again, with more time, until the answer is OK",
            ),
            (false, false) => (
                Status::DeadlineExceeded,
                "the deadline passed before there was an answer; a write may have been done",
            ),
        };
        if let Some(responder) = responder {
            self.out.refuse(responder, status, why.into());
        }
    }

    /// Takes back what a connection that has ended was waiting for. Its flights, and writes that were begun, go on
    /// without it.
    pub(super) fn abandon_job(&mut self, at: Handle<Job>) {
        let now = self.timed.now();
        let Some(job) = self.jobs.get(at) else {
            return;
        };
        let is_core = job.stage.is_in_core();
        if !is_core && matches!(job.stage, Stage::Writing(_)) {
            let responder = self.jobs.take_responder(at);
            return responder.into_iter().for_each(|duty| duty.abandon());
        }
        if let Some(responder) = self.take_job(at).and_then(|job| job.responder) {
            responder.abandon();
        }
        if is_core && !self.core.is_broken() {
            let token = keyway_core::Token(at.to_bits());
            self.core.call(|core| core.handle_waiter_gone(now, token));
        }
    }

    /// Answers what the core refused.
    pub(super) fn refuse_as(&mut self, responder: super::responder::Responder, refusal: Refusal) {
        self.out.refuse_as(&mut self.governed, responder, refusal);
    }

    /// Returns whether a keyspace is closed to what needs its keys.
    pub(super) fn is_closed(&self, keyspace: u32) -> bool {
        let gauges = self
            .core
            .view()
            .gauges(self.timed.now(), KeyspaceId(keyspace));
        gauges.is_some_and(|gauges| gauges.locked || gauges.denied)
    }
}

/// Takes a request out of its job, to be carried out in this turn. `None`: it has its answer, or its right was withdrawn
/// meanwhile, and it is answered so.
fn ask_again<'turn>(
    governed: &Keyspaces,
    out: &mut Outputs,
    turn: &'turn TurnScope,
    job: &mut Job,
) -> Option<Asked<'turn>> {
    let responder = job.responder.take()?;
    match governed.allow(turn, job.permit) {
        Ok(allowed) => Some(Asked {
            responder,
            allowed,
            deadline: job.deadline,
            place: job.place.take(),
        }),
        Err(denied) => {
            out.deny(responder, denied);
            None
        }
    }
}
