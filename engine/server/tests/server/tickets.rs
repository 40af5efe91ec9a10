//! UNLOCK_STATUS is correct for every issued ticket, and reports any other as unknown.
//!
//! Shards and the control thread used to number tickets independently. A ticket from NEEDS_UNLOCK returned the status of
//! the latest unlock, whatever that was, `done` was returned when the first shard had opened, and any number got an
//! answer.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeSet;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Input, KeyOptions, KeyPath, Scheme, UnlockState, UnlockStatus, UnlockWith,
};

use crate::common::{Server, past_the_start, prod, wait_until};

/// Longest duration of the slowest step on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// Enough that each shard owns some.
const KEYS: usize = 16;

fn key(number: usize) -> KeyPath {
    format!("prod/{number}").parse().unwrap()
}

fn sign(client: &Client, number: usize) -> Result<(), keyway_client::Error> {
    let message = Input::Message(b"message");
    let signed = client.sign(&key(number), Scheme::Default, message);
    signed.map(|_| ())
}

/// Returns the tickets with which all keys are refused.
fn tickets(client: &Client) -> BTreeSet<u64> {
    let ticket = |number| sign(client, number).unwrap_err().ticket().unwrap();
    (0..KEYS).map(ticket).collect()
}

fn status(client: &Client, ticket: u64) -> UnlockStatus {
    client.unlock_status(&prod(), ticket).unwrap().value
}

fn state(client: &Client, ticket: u64) -> UnlockState {
    status(client, ticket).state
}

fn unlocked(client: &Client) -> u64 {
    let ticket = client.unlock(&prod(), UnlockWith::Nothing).unwrap().value;
    wait_until("the unlock", WITHIN, || {
        state(client, ticket) != UnlockState::Pending
    });
    assert_eq!(state(client, ticket), UnlockState::Done);
    ticket
}

#[test]
fn each_ticket_has_its_own_status_and_others_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let setup = crate::common::Setup::new(&dir.path().join("data")).shards(3);
    let server: Server = setup.start();
    let client = server.client();
    for number in 0..KEYS {
        let options = KeyOptions::default();
        past_the_start(|| client.key_generate(&key(number), Algorithm::Ed25519, options)).unwrap();
        past_the_start(|| sign(&client, number)).unwrap();
    }
    client.lock(&prod()).unwrap();
    let first = tickets(&client);
    assert_eq!(
        first.len(),
        1,
        "one keyspace, one ticket, whatever the shard"
    );
    let first = first.into_iter().next().unwrap();
    let pending = status(&client, first);
    assert_eq!(pending.state, UnlockState::Pending);
    assert!(pending.message.contains("keyway unlock"), "{pending:?}");

    let unlock = unlocked(&client);
    // Done means that every shard is open: no key needs an unlock.
    for number in 0..KEYS {
        sign(&client, number).unwrap();
    }
    let done = status(&client, first);
    assert_eq!(done.state, UnlockState::Done, "{done:?}");
    assert_ne!(first, unlock);

    client.lock(&prod()).unwrap();
    let second = tickets(&client).into_iter().next().unwrap();
    assert_ne!(first, second);
    assert_eq!(state(&client, second), UnlockState::Pending);
    // What was done stays done.
    assert_eq!(state(&client, first), UnlockState::Done);
    assert_eq!(state(&client, unlock), UnlockState::Done);

    let unknown = |ticket: u64| state(&client, ticket) == UnlockState::Unknown;
    let others = [
        0,
        1,
        7,
        first + 1,
        unlock - 1,
        second + 2,
        1 << 32,
        1 << 48 | 1,
        u64::MAX,
    ];
    // One number in 131,072 is taken for a ticket.
    assert!(others.into_iter().filter(|ticket| unknown(*ticket)).count() >= others.len() - 1);

    server.kill();
    let server = setup.start();
    let client = server.client();
    for ticket in [first, unlock, second] {
        assert_eq!(
            state(&client, ticket),
            UnlockState::Unknown,
            "of an earlier process"
        );
    }
    unlocked(&client);
}
