//! Scenarios about deadlines, retries and what is known after a failure.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use keyway_client::{Blame, Call, CallEffect, Error, Status};
use keyway_protocol::{Opcode, ResponseWriter};

use crate::face::Face;
use crate::server::{Reaction, Server, echo, ok_bytes, refuse_with_hint};
use crate::{key, mac};

pub fn retries_within_the_deadline_lead_to_the_answer<F: Face>() {
    let count = AtomicUsize::new(0);
    let server = Server::start(1, move |incoming| {
        match count.fetch_add(1, Ordering::Relaxed) {
            0 => refuse_with_hint(incoming, Status::Retry, 1_000),
            1 => refuse_with_hint(incoming, Status::Overloaded, 0),
            2 => refuse_with_hint(incoming, Status::Unavailable, 500),
            _ => echo(incoming),
        }
    });
    let client = F::open(&server.address);
    assert_eq!(client.call(mac("alice", b"m")).unwrap().value, b"m");
    assert_eq!(server.count(Opcode::Mac), 4);
    let seen = server.seen();
    let deadlines: Vec<_> = seen.iter().filter(|it| it.opcode == Opcode::Mac).collect();
    // What is left of the deadline shrinks from one to the next.
    assert!(
        deadlines
            .windows(2)
            .all(|it| it[0].deadline_us > it[1].deadline_us)
    );
}

pub fn a_hint_beyond_the_deadline_is_not_waited_for<F: Face>() {
    let hour_us = 3_600_000_000;
    let server = Server::start(1, move |incoming| {
        refuse_with_hint(incoming, Status::Unavailable, hour_us)
    });
    let client = F::open(&server.address);
    let error = client.call(mac("alice", b"m")).unwrap_err();
    assert_eq!(error.status(), Some(Status::Unavailable));
    assert_eq!(error.blame(), Blame::Server);
    assert!(error.retry_can_help());
    let Error::Refused(refusal) = error else {
        panic!("{error:?}");
    };
    assert_eq!(refusal.after, Some(Duration::from_secs(3_600)));
    assert_eq!(server.count(Opcode::Mac), 1);
}

pub fn a_deadline_travels_and_is_kept_and_the_late_answer_dropped<F: Face>() {
    let held = Mutex::new(None);
    let server = Server::start(1, move |incoming| {
        let mut held = held.lock().unwrap();
        if incoming.payload == b"first" {
            *held = Some(incoming.request_id);
            return Reaction::Hold;
        }
        let late = held.take().map(|id| ok_bytes(id, b"late"));
        let mut out = late.unwrap_or_default();
        out.extend(ok_bytes(incoming.request_id, &incoming.payload));
        Reaction::Send(out)
    });
    let client = F::open(&server.address);
    // On a slow machine its time can be over before it is sent.
    let error = loop {
        let call = mac("alice", b"first").deadline(Duration::from_millis(300));
        let error = client.call(call).unwrap_err();
        if server.count(Opcode::Mac) > 0 {
            break error;
        }
    };
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!(error.outcome(), CallEffect::NotDone);
    assert_eq!(
        client.call(mac("alice", b"second")).unwrap().value,
        b"second"
    );
    let seen = server.seen();
    let first = seen.iter().find(|it| it.opcode == Opcode::Mac).unwrap();
    assert!((1..=300_000).contains(&first.deadline_us));
    assert_eq!(server.connection_count(), 1);
}

pub fn a_write_without_an_answer_has_an_unknown_outcome<F: Face>() {
    let server = Server::start(1, |_| Reaction::Hold);
    let client = F::open(&server.address);
    // On a slow machine its time can be over before it is sent: then it is known that it was not done.
    let error = loop {
        let call = Call::key_rotate(&key("alice"), None).deadline(Duration::from_millis(300));
        let error = client.call(call).unwrap_err();
        if error.outcome() != CallEffect::NotDone || server.count(Opcode::KeyRotate) > 0 {
            break error;
        }
    };
    assert!(matches!(error, Error::Deadline { .. }), "{error:?}");
    assert_eq!(error.outcome(), CallEffect::Unknown);
    assert!(!error.retry_can_help());
    assert!(error.to_string().contains("may have been done"));
}

pub fn a_read_is_sent_again_when_its_connection_breaks<F: Face>() {
    let server = Server::start(1, |incoming| match incoming.connection {
        0 => Reaction::Close,
        _ => echo(incoming),
    });
    let client = F::open(&server.address);
    assert_eq!(client.call(mac("alice", b"m")).unwrap().value, b"m");
    assert_eq!(server.count(Opcode::Mac), 2);
}

pub fn a_write_is_not_sent_again_when_its_connection_breaks<F: Face>() {
    let server = Server::start(1, |incoming| match incoming.opcode {
        Opcode::KeyRotate => Reaction::CloseAll,
        _ => echo(incoming),
    });
    let client = F::open(&server.address);
    let error = client
        .call(Call::key_rotate(&key("alice"), None))
        .unwrap_err();
    assert!(matches!(error, Error::Disconnected { .. }), "{error:?}");
    assert_eq!(error.outcome(), CallEffect::Unknown);
    assert!(!error.retry_can_help());
    // The client itself goes on.
    assert_eq!(client.call(mac("alice", b"m")).unwrap().value, b"m");
    assert_eq!(server.count(Opcode::KeyRotate), 1);
}

pub fn needs_unlock_carries_its_ticket<F: Face>() {
    let server = Server::start(1, |incoming| {
        let mut out = Vec::new();
        ResponseWriter::begin(&mut out, incoming.request_id).finish_needs_unlock(77);
        Reaction::Send(out)
    });
    let client = F::open(&server.address);
    let error = client.call(mac("alice", b"m")).unwrap_err();
    assert_eq!(error.status(), Some(Status::NeedsUnlock));
    assert_eq!((error.ticket(), error.blame()), (Some(77), Blame::Key));
    assert!(!error.retry_can_help());
    assert!(error.to_string().contains("ticket 77"), "{error}");
}

pub fn a_call_that_cannot_be_encoded_is_not_sent<F: Face>() {
    let server = Server::start(1, echo);
    let client = F::open(&server.address);
    let error = client.call(mac("alice", &[0; 65_537])).unwrap_err();
    assert!(matches!(error, Error::Call(_)), "{error:?}");
    assert_eq!(error.blame(), Blame::Caller);
    assert!(error.to_string().contains("65537"), "{error}");
    assert_eq!(server.count(Opcode::Mac), 0);
}
