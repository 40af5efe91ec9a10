//! Outgoing answers: written in place, counted, released.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::{ResponseHead, ResponseWriter, Status};
use zeroize::Zeroize;

use super::effect::{Effect, Effects};
use super::figures::{CountedOutcome, Observation, RequestCounts};
use super::forwarder::Forwarder;
use super::report::Report;
use super::responder::{CountAt, Orphans, Responder, To};
use crate::connection::Connections;
use crate::messages::{ToControl, ToPeer};

/// The head of an answer, or of a refusal with its explanation.
pub(crate) type ResponseResult = Result<ResponseHead, (ResponseHead, Cow<'static, str>)>;

/// What leaves a shard.
pub(crate) struct Outputs {
    pub(crate) connections: Connections,
    pub(crate) forwarder: Forwarder,
    pub(crate) effects: Effects,
    /// Answers by keyspace.
    counts: Vec<RequestCounts>,
    orphans: Rc<Orphans>,
    pub(crate) panics_total: u64,
}

impl Outputs {
    pub(crate) fn new(connections: Connections, forwarder: Forwarder) -> Self {
        Outputs {
            connections,
            forwarder,
            effects: Effects::default(),
            counts: Vec::new(),
            orphans: Rc::default(),
            panics_total: 0,
        }
    }

    /// Takes on the duty to answer a request.
    pub(crate) fn responder(&self, to: To, request_id: u64, count: CountAt) -> Responder {
        self.orphans.responder(to, request_id, count)
    }

    /// Asks the driver for something.
    pub(crate) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    /// Sends control a message that is not refused.
    pub(crate) fn tell_control(&mut self, message: ToControl) {
        self.effects.tell(message);
    }

    /// Has something entered into a histogram.
    pub(crate) fn observe(&mut self, observation: Observation) {
        self.effects.push(Effect::Observe(observation));
    }

    /// Reports something to the log.
    pub(crate) fn report(&mut self, report: Report) {
        self.effects.push(Effect::Log(report));
    }

    /// Answers what handlers left without an answer.
    pub(crate) fn answer_orphans(&mut self) {
        while let Some(orphan) = self.orphans.next() {
            self.refuse(
                orphan,
                Status::Internal,
                "request handler panicked; please report this bug".into(),
            );
        }
    }

    /// Answers a request: `write` fills the payload and gives the head, or the refusal. A head that is not OK drops what
    /// was written.
    pub(crate) fn answer(
        &mut self,
        responder: Responder,
        write: impl FnOnce(&mut Vec<u8>) -> ResponseResult,
    ) {
        self.answer_until(Instant::MAX, responder, write);
    }

    /// As [`Outputs::answer`], with a result of a key that must not leave the node at `good_until` or later. A result for
    /// a connection of this shard leaves immediately; another shard receives the time after which it must not pass it on.
    pub(crate) fn answer_until(
        &mut self,
        good_until: Instant,
        mut responder: Responder,
        write: impl FnOnce(&mut Vec<u8>) -> ResponseResult,
    ) {
        match responder.discharge() {
            None => {}
            Some(To::Connection(at)) => {
                if let Some(connection) = self.connections.finish_request(at) {
                    let out = &mut connection.outbound.bytes;
                    let written = write_answer(responder.request_id, out, write);
                    self.connections.release(at);
                    self.count(responder.count, written);
                }
            }
            Some(To::Peer { shard, token }) => {
                let mut frame = Vec::with_capacity(256);
                let written = write_answer(responder.request_id, &mut frame, write);
                self.count(responder.count, written);
                let reply = ToPeer::Reply {
                    token,
                    good_until,
                    frame,
                };
                self.forwarder.reply(shard, reply);
            }
        }
    }

    /// Passes on an answer that another shard has written and counted.
    pub(crate) fn pass_on(&mut self, mut responder: Responder, frame: &[u8]) {
        if let Some(To::Connection(at)) = responder.discharge()
            && let Some(connection) = self.connections.finish_request(at)
        {
            connection.outbound.bytes.extend_from_slice(frame);
            self.connections.release(at);
        }
    }

    /// Answers with a status and an explanation.
    pub(crate) fn refuse(
        &mut self,
        responder: Responder,
        status: Status,
        explanation: Cow<'static, str>,
    ) {
        self.answer(responder, |_| {
            Err((ResponseHead::status(status), explanation))
        });
    }

    fn count(&mut self, at: CountAt, written: Written) {
        self.panics_total += u64::from(written.has_panicked);
        if written.has_panicked {
            self.report(Report::HandlerPanicked);
        }
        if at.keyspace.is_none() {
            return;
        }
        if self.counts.len() <= at.row {
            self.counts.resize_with(at.row + 1, RequestCounts::default);
        }
        self.counts[at.row].count(at.operation, written.outcome);
    }

    /// Returns the answers that were counted for a keyspace, by its number.
    pub(crate) fn counts(&self, row: usize) -> RequestCounts {
        self.counts.get(row).cloned().unwrap_or_default()
    }
}

#[derive(Clone, Copy)]
struct Written {
    outcome: CountedOutcome,
    has_panicked: bool,
}

fn write_answer(
    request_id: u64,
    out: &mut Vec<u8>,
    write: impl FnOnce(&mut Vec<u8>) -> ResponseResult,
) -> Written {
    let mut writer = ResponseWriter::begin(out, request_id);
    // A panic leaves half an answer behind: it is taken back, and the request gets a whole one.
    let written = catch_unwind(AssertUnwindSafe(|| write(writer.payload())));
    let has_panicked = written.is_err();
    let failed = || {
        let head = ResponseHead::status(Status::Internal);
        Err((
            head,
            "request handler panicked; please report this bug".into(),
        ))
    };
    let outcome = match written.unwrap_or_else(|_| failed()) {
        Ok(head) => {
            writer.finish(head);
            CountedOutcome::of(&head)
        }
        Err((head, explanation)) => {
            let made = writer.payload_len();
            let bytes = writer.payload();
            let start = bytes.len() - made;
            bytes[start..].zeroize();
            writer.finish_with_explanation(head, &explanation);
            CountedOutcome::of(&head)
        }
    };
    Written {
        outcome,
        has_panicked,
    }
}
