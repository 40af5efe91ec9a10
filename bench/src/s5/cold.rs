//! Cold starts: a thousand keyspaces at once, and a hundred thousand requests on one.

use std::time::{Duration, Instant};

use keyway_protocol::Algorithm;
use keyway_testkit::fault_proxy::{Call, concurrency_max};
use serde::Serialize;

use super::answers::{self, Counts, Seen};
use super::calls::{self, KmsSecond, began_within, is_unwrap};
use super::kms::{BUDGET, Budget, FAULTY, GENEROUS, Kms};
use crate::Setup;
use crate::control::Control;
use crate::error::Result;
use crate::load::{Load, PATIENCE, Pace, Second, run as run_load};
use crate::server::Server;
use crate::traffic::Keys;

/// Keyspaces that are cold at once, each with one key.
const KEYSPACES: usize = 1_000;
/// Asked in turn, so that all of them want their DEK within a fifth of a second.
const RATE_PER_S: f64 = 5_000.0;
/// The budget lets the calls through in 18 s.
const DURATION: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 8;

/// Keys of the one keyspace that is stormed.
const STORM_KEYS: usize = 1_000;
const STORM_REQUESTS: u64 = 100_000;
/// The generator has up to 1,000 requests in flight on each.
const STORM_CONNECTIONS: usize = 100;
/// For a load that goes on without its waiters.
const AFTER_STORM: Duration = Duration::from_secs(2);

/// A thousand cold keyspaces.
#[derive(Clone, Debug, Serialize)]
pub struct Cold {
    pub keyspaces: usize,
    pub rate_per_s: f64,
    pub budget: Budget,
    pub kms_calls: u64,
    /// Has to be one for each keyspace.
    pub unwraps_ok: u64,
    /// Calls that began within any second, at most.
    pub kms_rate_max: u64,
    pub kms_concurrency_max: usize,
    pub unanswered: u64,
    pub answers: Counts,
    /// From the first second on in which each request and every later one was served.
    pub all_served_after_s: Option<u64>,
    pub request_seconds: Vec<Counts>,
    pub kms_seconds: Vec<KmsSecond>,
}

/// A hundred thousand requests on a thousand cold keys of one keyspace.
#[derive(Clone, Debug, Serialize)]
pub struct Storm {
    pub keys: usize,
    pub requests: u64,
    pub connections: usize,
    /// Has to be one that gives a DEK.
    pub unwraps: Vec<Unwrap>,
    pub unanswered: u64,
    pub answers: Counts,
    /// Keys that were served when each was asked for once afterwards.
    pub keys_ok_afterwards: u64,
}

/// One call of the KMS for a DEK.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Unwrap {
    /// From the start of the load.
    pub at_ms: f64,
    /// Until it was answered or given up; `None` if it was in flight to the end.
    pub took_ms: Option<f64>,
    pub status: Option<u16>,
}

/// Runs the cold start. The server is started again before it, and no key was ever used.
pub fn run_cold(setup: &Setup, kms: &Kms) -> Result<Cold> {
    eprintln!("S5 cold: making {KEYSPACES} keyspaces with a key each");
    let mut server = start(setup, kms, "s5-cold")?;
    let frames = server.explain(make_keyspaces(&server))?;
    server.restart(&kms.config(BUDGET))?;
    server.explain(measure_cold(&server, kms, &frames))
}

/// Runs the storm, likewise.
pub fn run_storm(setup: &Setup, kms: &Kms) -> Result<Storm> {
    eprintln!("S5 storm: {STORM_REQUESTS} requests on {STORM_KEYS} cold keys of one keyspace");
    let mut server = start(setup, kms, "s5-storm")?;
    let keys = server.explain(make_keys(&server))?;
    server.restart(&kms.config(BUDGET))?;
    server.explain(measure_storm(&server, kms, &keys))
}

fn start(setup: &Setup, kms: &Kms, name: &str) -> Result<Server> {
    let config = kms.config(GENEROUS);
    Server::start_with(&setup.server, &setup.out, name, setup.cores, &config)
}

/// One request for each keyspace.
fn make_keyspaces(server: &Server) -> Result<Vec<Vec<u8>>> {
    let address = server.address();
    let control = Control::connect(address)?;
    let mut frames = Vec::new();
    for index in 0..KEYSPACES {
        let keyspace_id = control.create_keyspace(&format!("cold-{index:04}"), &settings())?;
        let keys = Keys::name(keyspace_id, 1, &[Algorithm::HmacSha256])?;
        keys.generate(address)?;
        frames.extend(keys.frames);
    }
    Ok(frames)
}

fn make_keys(server: &Server) -> Result<Keys> {
    let control = Control::connect(server.address())?;
    let keyspace_id = control.create_keyspace("storm", &settings())?;
    let keys = Keys::name(keyspace_id, STORM_KEYS, &[Algorithm::HmacSha256])?;
    keys.generate(server.address())?;
    Ok(keys)
}

fn settings() -> String {
    format!("kms={FAULTY}\n")
}

fn measure_cold(server: &Server, kms: &Kms, frames: &[Vec<u8>]) -> Result<Cold> {
    let mut seen = Vec::with_capacity((1.1 * RATE_PER_S * DURATION.as_secs_f64()) as usize);
    let mut next = 0;
    let start = Instant::now();
    let load = Load {
        address: server.address(),
        connections: CONNECTIONS,
        pace: Pace::Poisson {
            rate_per_s: RATE_PER_S,
            duration: DURATION,
        },
        frames,
        choose: &mut || {
            next = (next + 1) % frames.len();
            next
        },
        seed: 1,
        patience: PATIENCE,
        observe: Some(&mut |answer| seen.push(Seen::new(0, answer))),
    };
    let mut show = |second: &Second| {
        let (at_s, of_s) = (second.at_s + 1, DURATION.as_secs());
        let (answered, not_ok) = (second.answered, second.not_ok);
        eprintln!("S5 cold: {at_s}/{of_s} s, {answered} answered, {not_ok} not OK");
    };
    let outcome = run_load(load, &mut show)?;
    let calls = calls_since(kms, start);
    let request_seconds: Vec<Counts> = answers::by_second::<1>(&seen, start, DURATION.as_secs())
        .into_iter()
        .map(|[counts]| counts)
        .collect();
    Ok(Cold {
        keyspaces: frames.len(),
        rate_per_s: RATE_PER_S,
        budget: BUDGET,
        kms_calls: calls.len() as u64,
        unwraps_ok: calls::unwraps_ok(&calls),
        kms_rate_max: calls::rate_max(calls.iter()),
        kms_concurrency_max: concurrency_max(&calls),
        unanswered: outcome.unanswered(),
        answers: Counts::of(seen.iter()),
        all_served_after_s: answers::recovered_after(&request_seconds, 1.0),
        request_seconds,
        kms_seconds: calls::by_second(&calls, start, DURATION.as_secs()),
    })
}

fn measure_storm(server: &Server, kms: &Kms, keys: &Keys) -> Result<Storm> {
    let mut next = 0;
    let mut choose = || {
        next = (next + 1) % keys.frames.len();
        next
    };
    let start = Instant::now();
    let mut seen = Vec::with_capacity(STORM_REQUESTS as usize);
    let load = Load {
        address: server.address(),
        connections: STORM_CONNECTIONS,
        pace: Pace::Burst {
            count: STORM_REQUESTS,
        },
        frames: &keys.frames,
        choose: &mut choose,
        seed: 1,
        patience: PATIENCE,
        observe: Some(&mut |answer| seen.push(Seen::new(0, answer))),
    };
    let outcome = run_load(load, &mut |_| {})?;
    std::thread::sleep(AFTER_STORM);
    let each_once = Pace::ClosedCount {
        window: 1,
        count: keys.frames.len() as u64,
    };
    let afterwards = keys.load(server.address(), 1, each_once, &mut choose, &mut |_| {})?;
    Ok(Storm {
        keys: keys.frames.len(),
        requests: outcome.offered,
        connections: STORM_CONNECTIONS,
        unwraps: unwraps(&calls_since(kms, start), start),
        unanswered: outcome.unanswered(),
        answers: Counts::of(seen.iter()),
        keys_ok_afterwards: afterwards.ok(),
    })
}

fn unwraps(calls: &[Call], start: Instant) -> Vec<Unwrap> {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let unwrap = |call: &Call| Unwrap {
        at_ms: ms(call.at - start),
        took_ms: call.ended.map(|ended| ms(ended - call.at)),
        status: call.status,
    };
    calls
        .iter()
        .filter(|call| is_unwrap(call))
        .map(unwrap)
        .collect()
}

fn calls_since(kms: &Kms, start: Instant) -> Vec<Call> {
    let calls = kms.proxy().calls();
    began_within(&calls, start, Instant::now())
        .cloned()
        .collect()
}
