//! 10,000 requests at once on one soft-expired key: exactly one rehydrate.

use std::thread::sleep;
use std::time::Duration;

use keyway_protocol::Algorithm;
use serde::Serialize;

use super::arm::{FIGURES_DELAY, RequestLatency};
use crate::Setup;
use crate::control::Control;
use crate::error::Result;
use crate::load::Pace;
use crate::server::Server;
use crate::traffic::Keys;

/// Requests at once.
pub const REQUESTS: u64 = 10_000;

const KEYSPACE: &str = "stampede";
/// Several, since the server bounds what is in flight on one.
const CONNECTIONS: usize = 16;
/// Longer than the whole stampede takes: a key that soft-expires a second time while the requests
/// are still being served would rightly be rehydrated again.
const SOFT_TTL_MS: u64 = 3_000;

/// The measurements of the stampede.
#[derive(Clone, Debug, Serialize)]
pub struct Stampede {
    pub requests: u64,
    pub connections: usize,
    /// Has to be 1.
    pub rehydrates: u64,
    pub requests_ok: u64,
    pub requests_stale: u64,
    pub wait_timeouts: u64,
    pub request_latency_us: RequestLatency,
}

/// Runs it against a server of its own, in which nothing else is loaded: no prefetcher, one key.
pub fn run(setup: &Setup) -> Result<Stampede> {
    eprintln!("S4 stampede: {REQUESTS} requests on one soft-expired key");
    let server = Server::start(&setup.server, &setup.out, "s4-stampede", setup.cores)?;
    server.explain(measure(&server))
}

fn measure(server: &Server) -> Result<Stampede> {
    let address = server.address();
    let control = Control::connect(address)?;
    let settings = format!(
        "soft_ttl_ms={SOFT_TTL_MS}\nhard_ttl_ms=600000\non_soft_expiry=wait\nmax_in_flight=0\n\
         jitter_pct=0\n"
    );
    let keyspace_id = control.create_keyspace(KEYSPACE, &settings)?;
    let keys = Keys::name(keyspace_id, 1, &[Algorithm::Ed25519])?;
    keys.generate(address)?;
    keys.touch(address)?;
    // Past its soft TTL, and the metrics of the first load are all in STATUS.
    sleep(Duration::from_millis(SOFT_TTL_MS) + FIGURES_DELAY);
    let before = control.status(KEYSPACE)?;
    let pace = Pace::Burst { count: REQUESTS };
    let outcome = keys.load(address, CONNECTIONS, pace, &mut || 0, &mut |_| {})?;
    sleep(FIGURES_DELAY);
    let after = control.status(KEYSPACE)?;
    let grown = |name: &str| Ok::<_, crate::error::Error>(after.count(name)? - before.count(name)?);
    Ok(Stampede {
        requests: REQUESTS,
        connections: CONNECTIONS,
        rehydrates: grown("rehydrate_total")?,
        requests_ok: outcome.ok(),
        requests_stale: outcome.stale,
        wait_timeouts: grown("singleflight_wait_timeout_total")?,
        request_latency_us: RequestLatency::of(&outcome),
    })
}
