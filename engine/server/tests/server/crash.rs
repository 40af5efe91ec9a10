//! kill -9 in the middle of a bulk import, and of starts that move the keys to another number of shards, repeatedly on
//! one data directory: what was acknowledged is present after every restart, and what was not is present completely or
//! not at all.
//!
//! `KEYWAY_CRASH_ROUNDS` sets the rounds (`make crash-loop` runs 100), `KEYWAY_CRASH_SEED` repeats a run's choices; the
//! seed is printed.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Random, Server, Setup, WITHIN, past_the_start};
use crate::library::Library;
use keyway_client::blocking::{Client, Pending};
use keyway_client::{Algorithm, Answer, Call, Error, Input, KeyFormat, KeyOptions, KeyPath};
use keyway_client::{Scheme, Status};
use keyway_keys::ImportFormat;

const ROUNDS_DEFAULT: u32 = 10;
const SHARDS: u16 = 2;
/// Calls in flight.
const PIPELINE: usize = 64;
/// Most acknowledgements in a round before the kill.
const ACKNOWLEDGED_MAX: u64 = 500;
/// Starts with another number of shards that are killed, before the one that completes.
const BROKEN_STARTS: u32 = 3;
/// Longest time before such a start is killed: it is ready after some 50 ms.
const START_US_MAX: u64 = 60_000;

/// What the importer knows about a key; its index determines its id, its algorithm and its secrets.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The latest version acknowledged or seen after a restart; 0 for none.
    version_min: u32,
    /// The latest version ever requested.
    version_max: u32,
    revoked: bool,
    may_be_revoked: bool,
}

#[derive(Clone, Copy)]
enum Change {
    Import,
    Rotate,
    Revoke,
}

#[test]
fn no_acknowledged_write_is_lost_and_none_is_half_there() {
    let rounds =
        setting("KEYWAY_CRASH_ROUNDS").map_or(ROUNDS_DEFAULT, |text| text.parse().unwrap());
    let seed = setting("KEYWAY_CRASH_SEED").map_or_else(
        || {
            std::time::UNIX_EPOCH
                .elapsed()
                .unwrap()
                .subsec_nanos()
                .into()
        },
        |text| text.parse().unwrap(),
    );
    println!("KEYWAY_CRASH_SEED={seed} KEYWAY_CRASH_ROUNDS={rounds}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let library = Library::new();
    let mut keys = Vec::new();
    let mut in_doubt = 0;
    let mut broken_off = 0;
    for round in 1..=rounds {
        let server = Setup::new(&data).shards(SHARDS).start();
        let acknowledged = AtomicUsize::new(0);
        let killing = AtomicBool::new(false);
        let target = 1 + random.below(ACKNOWLEDGED_MAX) as usize;
        let pause = Duration::from_micros(random.below(5_000));
        let client = server.client();
        std::thread::scope(|scope| {
            let importer = scope.spawn(|| {
                let round = Import {
                    client,
                    acknowledged: &acknowledged,
                    killing: &killing,
                };
                round.run(&mut keys, &mut random);
            });
            while acknowledged.load(Ordering::Relaxed) < target && !importer.is_finished() {
                std::thread::yield_now();
            }
            std::thread::sleep(pause);
            killing.store(true, Ordering::SeqCst);
            server.kill();
            importer.join().unwrap();
        });
        // The log must be readable whatever the number of shards that wrote it and that read it, and however often the
        // move to another number was interrupted.
        let moves = round % 2 == 0;
        let shards = if moves {
            1 + 2 * (random.below(2) as u16)
        } else {
            SHARDS
        };
        if moves {
            for _ in 0..BROKEN_STARTS {
                let pause = Duration::from_micros(random.below(START_US_MAX));
                Setup::new(&data).shards(shards).start_and_kill(pause);
                broken_off += usize::from(generations(&data) > 1);
            }
        }
        let server = Setup::new(&data).shards(shards).start();
        in_doubt += check(&server, &library, &mut keys);
        server.kill();
        println!(
            "round {round}: {} keys, killed after {target}, {shards} shards",
            keys.len()
        );
    }
    let there = keys.iter().filter(|known| known.version_min > 0).count();
    let revoked = keys.iter().filter(|known| known.revoked).count();
    println!("{there} keys, {revoked} of them revoked; {in_doubt} writes were in doubt");
    println!("{broken_off} moves to another number of shards were broken off");
    assert!(there > 0, "nothing was imported");
}

/// Returns the number of generations of logs in the directory: more than one in the middle of a move.
fn generations(data: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(data).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with("blobs-"))
        .count()
}

struct Import<'a> {
    client: Client,
    acknowledged: &'a AtomicUsize,
    killing: &'a AtomicBool,
}

impl Import<'_> {
    /// Imports, and sometimes rotates or revokes, until the server is gone.
    fn run(&self, keys: &mut Vec<Known>, random: &mut Random) {
        let mut under_way: VecDeque<(usize, Change, Pending<()>)> = VecDeque::new();
        let mut alive = true;
        while alive || !under_way.is_empty() {
            while alive && under_way.len() < PIPELINE {
                let (index, change) = choose(keys, random);
                under_way.push_back((index, change, self.submit(index, change, keys)));
                alive = !self.killing.load(Ordering::SeqCst);
            }
            let Some((index, change, pending)) = under_way.pop_front() else {
                break;
            };
            match pending.wait() {
                Ok(answer) => {
                    acknowledge(&mut keys[index], change, &answer);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let killing = self.killing.load(Ordering::SeqCst);
                    assert!(killing, "{}: {error}", path(index).key_id);
                    alive = false;
                }
            }
        }
    }

    fn submit(&self, index: usize, change: Change, keys: &mut [Known]) -> Pending<()> {
        let known = &mut keys[index];
        let key = path(index);
        let call = match change {
            Change::Import => {
                known.version_max = 1;
                let (bytes, options) = (secret(index, 1), KeyOptions::default());
                Call::key_import(
                    &key,
                    Some(algorithm(index)),
                    options,
                    KeyFormat::Raw,
                    &bytes,
                )
            }
            Change::Rotate => {
                known.version_max += 1;
                let bytes = secret(index, known.version_max);
                Call::key_rotate(&key, Some((KeyFormat::Raw, &bytes)))
            }
            Change::Revoke => {
                known.may_be_revoked = true;
                Call::key_revoke(&key)
            }
        };
        self.client.submit(call.deadline(WITHIN))
    }
}

/// Returns mostly a new key; otherwise one with nothing in flight.
fn choose(keys: &mut Vec<Known>, random: &mut Random) -> (usize, Change) {
    let dice = random.below(100);
    if dice < 25 && !keys.is_empty() {
        let index = random.below(keys.len() as u64) as usize;
        let known = keys[index];
        let settled = known.version_min > 0 && known.version_min == known.version_max;
        if settled && !known.may_be_revoked {
            return (
                index,
                if dice < 18 {
                    Change::Rotate
                } else {
                    Change::Revoke
                },
            );
        }
    }
    keys.push(Known::default());
    (keys.len() - 1, Change::Import)
}

fn acknowledge(known: &mut Known, change: Change, answer: &Answer<()>) {
    match change {
        Change::Import | Change::Rotate => {
            assert_eq!(answer.key_version, known.version_max);
            known.version_min = answer.key_version;
        }
        Change::Revoke => known.revoked = true,
    }
}

/// Uses every key ever requested. What is seen now has to stay. Returns the number of writes in doubt.
fn check(server: &Server, library: &Library, keys: &mut [Known]) -> usize {
    let client = server.client();
    let mut in_doubt = 0;
    for first in (0..keys.len()).step_by(PIPELINE) {
        let end = keys.len().min(first + PIPELINE);
        let answers: Vec<_> = (first..end)
            .map(|index| client.submit(operation(index)))
            .collect();
        for ((index, known), answer) in (first..end).zip(&mut keys[first..end]).zip(answers) {
            let doubted =
                known.version_min != known.version_max || known.may_be_revoked != known.revoked;
            in_doubt += usize::from(doubted);
            let mut first = Some(answer.wait());
            let again = || {
                first
                    .take()
                    .unwrap_or_else(|| client.call(operation(index)))
            };
            see(server, index, known, past_the_start(again), library);
        }
    }
    in_doubt
}

fn see(
    server: &Server,
    index: usize,
    known: &mut Known,
    answer: Result<Answer<Vec<u8>>, Error>,
    library: &Library,
) {
    let key = path(index).key_id;
    match answer {
        Ok(answer) => {
            assert!(!known.revoked, "{key}: its revocation was lost");
            let version = answer.key_version;
            let versions = known.version_min.max(1)..=known.version_max;
            assert!(
                versions.contains(&version),
                "{key}: version {version} of {versions:?}"
            );
            let right = library.sign_or_mac(
                algorithm(index),
                ImportFormat::Raw,
                &secret(index, version),
                &index.to_le_bytes(),
            );
            assert_eq!(
                answer.value, right,
                "{key}: version {version} has other bytes"
            );
            (known.version_min, known.version_max) = (version, version);
            known.may_be_revoked = false;
        }
        Err(error) => match error.status() {
            Some(Status::NotFound) => {
                assert_eq!(known.version_min, 0, "{key}: acknowledged and lost");
                // It stays so, since it is not requested again.
                known.version_max = 0;
            }
            Some(Status::Revoked) => {
                assert!(known.may_be_revoked, "{key}: it was never revoked");
                known.revoked = true;
                known.version_max = known.version_min;
            }
            _ => panic!("{key}: {error}; {}", server.log()),
        },
    }
}

fn path(index: usize) -> KeyPath {
    format!("prod/crash-{index}").parse().unwrap()
}

fn algorithm(index: usize) -> Algorithm {
    if index.is_multiple_of(2) {
        Algorithm::Ed25519
    } else {
        Algorithm::HmacSha256
    }
}

/// Returns a key's secret, which is a function of its index and version.
fn secret(index: usize, version: u32) -> [u8; 32] {
    let mut random = Random((index as u64) << 32 | u64::from(version));
    let mut bytes = [0; 32];
    bytes
        .chunks_exact_mut(8)
        .for_each(|chunk| chunk.copy_from_slice(&random.next().to_le_bytes()));
    bytes
}

fn operation(index: usize) -> Call<Vec<u8>> {
    let (key, message) = (path(index), index.to_le_bytes());
    let call = match algorithm(index) {
        Algorithm::Ed25519 => Call::sign(&key, Scheme::Default, Input::Message(&message)),
        _ => Call::mac(&key, &message),
    };
    call.deadline(WITHIN)
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
