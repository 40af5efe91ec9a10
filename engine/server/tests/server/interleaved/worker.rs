//! A client that creates, uses, rotates and revokes its own keys while the server runs.

use std::sync::atomic::Ordering;

use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Answer, CallEffect, Error, KeyFormat, KeyOptions, Status};

use super::ledger::{Key, secret};
use super::{DEADLINE, KEYSPACES, World, count, is_odd};
use crate::common::Random;
use crate::library::Library;

/// Most keys that one worker creates in a round, and in total: a check visits all of them.
const KEYS_PER_ROUND_MAX: usize = 25;
const KEYS_MAX: usize = 200;

/// One key in this many may be revoked, so that most survive all events.
const MORTAL: usize = 8;

pub struct Worker<'a> {
    world: &'a World,
    number: usize,
    client: Client,
    random: Random,
    library: Library,
}

impl<'a> Worker<'a> {
    pub fn new(world: &'a World, number: usize, client: Client, seed: u64) -> Worker<'a> {
        Worker {
            world,
            number,
            client: client.with_deadline(DEADLINE),
            random: Random(seed),
            library: Library::new(),
        }
    }

    pub fn run(mut self) {
        let world = self.world;
        let mut keys = world.keys[self.number].lock().unwrap();
        let keys_max = KEYS_MAX.min(keys.len() + KEYS_PER_ROUND_MAX);
        while !world.ends.load(Ordering::SeqCst) {
            let dice = self.random.below(100);
            if keys.is_empty() || (dice < 15 && keys.len() < keys_max) {
                let number = keys.len();
                let made = self.make(number);
                // A refused key does not exist.
                if made.version_max > 0 {
                    keys.push(made);
                }
                continue;
            }
            let index = self.random.below(keys.len() as u64) as usize;
            let key = &mut keys[index];
            match dice {
                0..80 => self.use_it(key),
                80..97 if !key.is_in_doubt() && !key.revoked => self.rotate(key),
                97.. if index.is_multiple_of(MORTAL) && !key.is_in_doubt() && !key.revoked => {
                    self.revoke(key);
                }
                _ => self.use_it(key),
            }
        }
    }

    /// Makes a call that needs the DEK. An answer while the keyspace was locked throughout must not be a success.
    fn call<T>(
        &self,
        key: &Key,
        call: impl FnOnce(&Client) -> Result<Answer<T>, Error>,
    ) -> Result<Answer<T>, Error> {
        self.call_past(key, false, call)
    }

    /// As above for a revocation, which needs no DEK, and is allowed during a lock, but not without a grant.
    fn call_past<T>(
        &self,
        key: &Key,
        past_locks: bool,
        call: impl FnOnce(&Client) -> Result<Answer<T>, Error>,
    ) -> Result<Answer<T>, Error> {
        let keyspace = key.path.keyspace.as_str();
        let at = KEYSPACES.iter().position(|(_, name)| *name == keyspace);
        let gate = &self.world.gates[at.unwrap()];
        let may_be_withdrawn = || gate.may_be_withdrawn.load(Ordering::SeqCst);
        let (before, may_be_forbidden) = (gate.read(), may_be_withdrawn());
        let answer = call(&self.client);
        let unchanged = gate.read() == before;
        let (locked, withdrawn) = (is_odd(before.0), is_odd(before.1));
        if unchanged && answer.is_ok() {
            assert!(past_locks || !locked, "{}: served while locked", key.path);
            assert!(!withdrawn, "{}: served without a grant", key.path);
        }
        if let Err(error) = &answer {
            let forbidden = [Some(Status::Forbidden), Some(Status::NoKeyspace)];
            let may_be_forbidden = may_be_forbidden || may_be_withdrawn() || !unchanged;
            match error {
                Error::Refused(_) if forbidden.contains(&error.status()) => {
                    assert!(may_be_forbidden, "{}: {error}", key.path);
                }
                Error::Refused(_) | Error::Deadline { .. } => {}
                // A connection breaks only if the server has ended.
                _ => assert!(self.world.ends.load(Ordering::SeqCst), "{error}"),
            }
        }
        answer
    }

    fn make(&mut self, number: usize) -> Key {
        let (_, keyspace) = KEYSPACES[self.random.below(2) as usize];
        let id = self.random.next();
        let path = format!("{keyspace}/key-{}-{number}-{id:x}", self.number);
        let mut key = Key::new(path.parse().unwrap());
        let path = key.path.clone();
        let options = KeyOptions::default();
        let made = if self.random.below(2) == 0 {
            self.call(&key, |client| {
                client.key_generate(&path, Algorithm::Ed25519, options)
            })
        } else {
            let secret = secret(&mut self.random);
            key.expect_secret(&self.library, 1, &secret);
            self.call(&key, |client| {
                let algorithm = Some(Algorithm::Ed25519);
                client.key_import(&path, algorithm, options, KeyFormat::Raw, &secret)
            })
        };
        self.settle(&mut key, made);
        key
    }

    fn rotate(&mut self, key: &mut Key) {
        key.version_max += 1;
        let path = key.path.clone();
        let rotated = if self.random.below(2) == 0 {
            self.call(key, |client| client.key_rotate(&path, None))
        } else {
            let secret = secret(&mut self.random);
            key.expect_secret(&self.library, key.version_max, &secret);
            self.call(key, |client| {
                client.key_rotate(&path, Some((KeyFormat::Raw, &secret)))
            })
        };
        self.settle(key, rotated);
    }

    /// Records that a version was created, or was not, or that the outcome is unknown.
    fn settle(&self, key: &mut Key, written: Result<Answer<()>, Error>) {
        match written {
            Ok(answer) => {
                assert_eq!(answer.key_version, key.version_max, "{}", key.path);
                key.version_min = key.version_max;
                count(&self.world.tally.writes);
                let (path, version) = (key.path.clone(), key.version_min);
                let public = self.call(key, |client| client.public_key(&path, version));
                match public {
                    Ok(answer) => key.see_public(version, &answer.value),
                    Err(error) => assert_present(key, &error),
                }
            }
            Err(error) if error.outcome() == CallEffect::NotDone => {
                assert_transient(key, &error);
                key.forget_newest();
            }
            Err(error) => assert_transient(key, &error),
        }
    }

    fn revoke(&self, key: &mut Key) {
        let path = key.path.clone();
        match self.call_past(key, true, |client| client.key_revoke(&path)) {
            Ok(_) => {
                (key.revoked, key.may_be_revoked) = (true, true);
                count(&self.world.tally.revocations);
            }
            Err(error) => {
                assert_transient(key, &error);
                key.may_be_revoked = error.outcome() != CallEffect::NotDone;
            }
        }
    }

    fn use_it(&self, key: &mut Key) {
        match self.call(key, |client| key.sign(client)) {
            Ok(answer) => {
                key.see_signature(&answer);
                count(&self.world.tally.uses);
            }
            Err(error) => assert_present(key, &error),
        }
    }
}

/// Asserts that an acknowledged key is not reported as missing, revoked or corrupt.
fn assert_present(key: &Key, error: &Error) {
    match error.status() {
        Some(Status::NotFound) => assert_eq!(key.version_min, 0, "{}: {error}", key.path),
        Some(Status::Revoked) => assert!(key.may_be_revoked, "{}: {error}", key.path),
        _ => assert_transient(key, error),
    }
}

/// Asserts that the error is one for operations that are not possible now.
fn assert_transient(key: &Key, error: &Error) {
    let transient = [
        Status::Retry,
        Status::NeedsUnlock,
        Status::Unavailable,
        Status::Overloaded,
        Status::Forbidden,
        Status::NoKeyspace,
        Status::DeadlineExceeded,
        // A lock prevents the write.
        Status::Conflict,
    ];
    if let Some(status) = error.status() {
        assert!(transient.contains(&status), "{}: {error}", key.path);
    }
}
