//! What to do with the outcome of sending a call: be done, send again, or ask HELLO again.

use std::time::{Duration, Instant};

use keyway_protocol::{Scope, Status};

use crate::Error;
use crate::answer::Reply;
use crate::call::CallSpec;
use crate::error::{CallEffect, Refusal};
use crate::jitter::Jitter;

/// Jitter before a call is sent again reaches at least this far, and twice as far each time.
const JITTER_BASE: Duration = Duration::from_micros(500);

/// Where that stops to grow.
const JITTER_MAX: Duration = Duration::from_millis(100);

/// How a call that was sent ended.
#[derive(Clone, Debug)]
pub(crate) enum SendOutcome {
    /// With an answer.
    Replied(Reply),
    /// The connection broke.
    Lost(String),
    /// The connection was closed, since its bytes made no sense.
    Malformed(String),
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Next {
    /// This is the result.
    Finish(Result<Reply, Error>),
    /// Send it again, not before this.
    Again(Instant),
    /// Send HELLO again, then the call.
    RefreshHello,
}

/// One call in progress.
#[derive(Debug)]
pub(crate) struct Attempts {
    deadline: Instant,
    is_write: bool,
    has_keyspace: bool,
    retries: u32,
    asked_hello: bool,
    last: Option<String>,
}

impl Attempts {
    pub(crate) fn new(call: &CallSpec, deadline: Instant) -> Self {
        Self {
            deadline,
            is_write: call.opcode.is_write(),
            has_keyspace: call.opcode.scope() != Scope::Server,
            retries: 0,
            asked_hello: false,
            last: None,
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What the wire says of the deadline: the µs that are left, at least 1. `None` if it passed.
    pub(crate) fn deadline_us(&self, now: Instant) -> Option<u32> {
        let left = self.deadline.checked_duration_since(now)?;
        let left_us = u32::try_from(left.as_micros()).unwrap_or(u32::MAX);
        (left_us > 0).then_some(left_us)
    }

    pub(crate) fn handle(&mut self, now: Instant, delivery: SendOutcome, jitter: &Jitter) -> Next {
        match delivery {
            SendOutcome::Replied(reply) => self.handle_reply(now, reply, jitter),
            SendOutcome::Lost(cause) if self.is_write => Next::Finish(Err(Error::Disconnected {
                outcome: CallEffect::Unknown,
                cause,
            })),
            SendOutcome::Lost(cause) => {
                self.last = Some(cause);
                Next::Again(now + self.jitter(Duration::ZERO, jitter))
            }
            SendOutcome::Malformed(cause) => Next::Finish(Err(Error::Answer {
                outcome: CallEffect::of_write(self.is_write),
                cause,
            })),
        }
    }

    fn handle_reply(&mut self, now: Instant, reply: Reply, jitter: &Jitter) -> Next {
        match reply.status {
            Status::Ok => Next::Finish(Ok(reply)),
            Status::NoKeyspace if self.has_keyspace && !self.asked_hello => {
                self.asked_hello = true;
                Next::RefreshHello
            }
            // The server says with these that it has done nothing, so writes go again too.
            Status::Retry | Status::Overloaded | Status::Unavailable => {
                let hint = Duration::from_micros(reply.after_us.into());
                let at = now + hint + self.jitter(hint, jitter);
                if at >= self.deadline {
                    return Next::Finish(Err(Error::Refused(Refusal::new(&reply, self.is_write))));
                }
                let name = reply.status.name().to_ascii_uppercase();
                let explanation = Refusal::new(&reply, self.is_write).explanation;
                self.last = Some(match explanation.is_empty() {
                    true => name,
                    false => format!("{name}: {explanation}"),
                });
                Next::Again(at)
            }
            _ => Next::Finish(Err(Error::Refused(Refusal::new(&reply, self.is_write)))),
        }
    }

    /// The map names no such keyspace.
    pub(crate) fn handle_unknown_keyspace(&mut self, call: &CallSpec) -> Next {
        if self.asked_hello {
            return Next::Finish(Err(Error::Refused(Refusal {
                status: Status::NoKeyspace,
                after: None,
                ticket: None,
                explanation: format!(
                    "there is no keyspace {:?} that you may use; \
                     `keyway keyspace list` shows those there are",
                    call.keyspace.as_ref().map_or("", |name| name.as_str())
                ),
                outcome: CallEffect::NotDone,
            })));
        }
        self.asked_hello = true;
        Next::RefreshHello
    }

    /// The connection has no room for another request.
    pub(crate) fn handle_full(&mut self, now: Instant, jitter: &Jitter) -> Next {
        self.last = Some("too many requests wait on one connection".to_owned());
        Next::Again(now + self.jitter(JITTER_BASE, jitter))
    }

    /// The deadline has passed while the call was in flight (`sent`) or before it could be sent.
    pub(crate) fn timed_out(&self, sent: bool, cause: Option<String>) -> Error {
        Error::Deadline {
            outcome: CallEffect::of_write(sent && self.is_write),
            last: self.last.clone().or(cause),
        }
    }

    fn jitter(&mut self, at_least: Duration, jitter: &Jitter) -> Duration {
        let grown = JITTER_BASE.saturating_mul(1 << self.retries.min(16));
        self.retries += 1;
        jitter.up_to(grown.min(JITTER_MAX).max(at_least))
    }
}

#[cfg(test)]
mod tests {
    use keyway_protocol::{KeyPath, ResponseFlags};

    use super::*;
    use crate::{Call, Secret};

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> KeyPath {
        "prod/alice".parse().unwrap()
    }

    fn read(now: Instant) -> Attempts {
        Attempts::new(&Call::public_key(&key(), 0).spec, now + SECOND)
    }

    fn write(now: Instant) -> Attempts {
        Attempts::new(&Call::key_revoke(&key()).spec, now + SECOND)
    }

    fn replied(status: Status, after: Duration) -> SendOutcome {
        SendOutcome::Replied(Reply {
            status,
            flags: ResponseFlags::NONE,
            key_version: 0,
            after_us: after.as_micros() as u32,
            key_age_ms: 0,
            payload: Secret::new(Vec::new()),
        })
    }

    fn error(next: Next) -> Error {
        match next {
            Next::Finish(Err(error)) => error,
            other => panic!("{other:?} where an error was expected"),
        }
    }

    #[test]
    fn a_hint_within_the_deadline_is_kept_with_jitter() {
        let (now, jitter) = (Instant::now(), Jitter::new());
        let hint = Duration::from_millis(10);
        for status in [Status::Retry, Status::Overloaded, Status::Unavailable] {
            for mut attempts in [read(now), write(now)] {
                match attempts.handle(now, replied(status, hint), &jitter) {
                    Next::Again(at) => assert!(at >= now + hint && at <= now + 2 * hint),
                    other => panic!("{status}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_hint_beyond_the_deadline_is_given_to_the_caller() {
        let (now, jitter) = (Instant::now(), Jitter::new());
        let error = error(read(now).handle(now, replied(Status::Retry, SECOND), &jitter));
        assert_eq!(error.status(), Some(Status::Retry));
        assert!(error.retry_can_help());
    }

    #[test]
    fn a_read_is_sent_again_when_its_connection_breaks_and_a_write_is_not() {
        let (now, jitter) = (Instant::now(), Jitter::new());
        let lost = SendOutcome::Lost("reset".to_owned());
        assert!(matches!(
            read(now).handle(now, lost.clone(), &jitter),
            Next::Again(_)
        ));
        let error = error(write(now).handle(now, lost, &jitter));
        assert_eq!(error.outcome(), CallEffect::Unknown);
        assert!(!error.retry_can_help());
    }

    #[test]
    fn hello_is_asked_again_once() {
        let (now, jitter) = (Instant::now(), Jitter::new());
        let mut attempts = read(now);
        let no_keyspace = replied(Status::NoKeyspace, Duration::ZERO);
        assert!(matches!(
            attempts.handle(now, no_keyspace.clone(), &jitter),
            Next::RefreshHello
        ));
        let refused = error(attempts.handle(now, no_keyspace, &jitter));
        assert_eq!(refused.status(), Some(Status::NoKeyspace));
        let unknown = error(attempts.handle_unknown_keyspace(&Call::public_key(&key(), 0).spec));
        assert_eq!(unknown.status(), Some(Status::NoKeyspace));
    }

    #[test]
    fn only_a_write_that_was_sent_has_an_unknown_outcome_when_time_is_up() {
        let now = Instant::now();
        assert_eq!(
            write(now).timed_out(true, None).outcome(),
            CallEffect::Unknown
        );
        assert_eq!(
            write(now).timed_out(false, None).outcome(),
            CallEffect::NotDone
        );
        assert_eq!(
            read(now).timed_out(true, None).outcome(),
            CallEffect::NotDone
        );
    }

    #[test]
    fn every_other_status_goes_to_the_caller_at_once() {
        let (now, jitter) = (Instant::now(), Jitter::new());
        for &status in Status::ALL {
            let mut attempts = read(now);
            match attempts.handle(now, replied(status, Duration::ZERO), &jitter) {
                Next::Finish(Ok(_)) => assert_eq!(status, Status::Ok),
                Next::Finish(Err(error)) => assert_eq!(error.status(), Some(status)),
                Next::Again(_) => assert!(status.has_hint()),
                Next::RefreshHello => assert_eq!(status, Status::NoKeyspace),
            }
        }
    }

    #[test]
    fn the_wire_never_says_no_deadline() {
        let now = Instant::now();
        let attempts = read(now);
        assert_eq!(attempts.deadline_us(now), Some(1_000_000));
        assert_eq!(attempts.deadline_us(now + SECOND), None);
        assert_eq!(attempts.deadline_us(now + 2 * SECOND), None);
    }
}
