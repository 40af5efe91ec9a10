//! One arm: a fresh server, keys that soft-expire all the time, Zipf traffic at a fixed rate.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use keyway_protocol::{Algorithm, Status};
use serde::Serialize;

use super::watch::{RehydrateSecond, Watch};
use crate::Setup;
use crate::control::{Control, KeyspaceStatus};
use crate::error::Result;
use crate::load::{Pace, Recording, Second};
use crate::rng::Rng;
use crate::server::{Server, scrape};
use crate::traffic::Keys;
use crate::zipf::Zipf;

/// The server publishes its metrics once a second; after this they are complete.
pub const FIGURES_DELAY: Duration = Duration::from_millis(1500);
/// The keyspace under load.
pub const KEYSPACE: &str = "s4";
/// The histogram under test.
pub const REHYDRATE_LATENCY: &str = "rehydrate_latency_ms";

/// What all arms have in common.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Parameters {
    /// Half Ed25519, half HMAC-SHA-256.
    pub keys: usize,
    /// Of the Zipf distribution.
    pub zipf_exponent: f64,
    /// Offered, as a Poisson process.
    pub rate_per_s: f64,
    /// TCP connections, each pipelined.
    pub connections: usize,
    /// The keyspace's soft TTL.
    pub soft_ttl_ms: u64,
    /// The keyspace's hard TTL.
    pub hard_ttl_ms: u64,
    /// The keyspace's refresh window.
    pub refresh_window_ms: u64,
}

/// Chosen so that some hundred keys a second soft-expire, nearly all are used within one soft TTL
/// (so that refresh-ahead has something to do), and the server's core is mostly idle (so that what
/// is measured is the refresh, not the queue for the core).
pub const PARAMETERS: Parameters = Parameters {
    keys: 2_000,
    zipf_exponent: 0.99,
    rate_per_s: 12_000.0,
    connections: 8,
    soft_ttl_ms: 10_000,
    hard_ttl_ms: 40_000,
    refresh_window_ms: 2_000,
};

const _: () = assert!(PARAMETERS.soft_ttl_ms < PARAMETERS.hard_ttl_ms);
const _: () = assert!(PARAMETERS.refresh_window_ms < PARAMETERS.soft_ttl_ms);

/// Which arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `max_in_flight` as by default.
    On,
    /// `max_in_flight` = 0: no prefetcher.
    Off,
    /// `max_in_flight` = 1: a prefetcher that cannot keep up.
    Starved,
}

impl Kind {
    /// Its name in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Starved => "starved",
        }
    }

    const fn max_in_flight(self) -> u32 {
        match self {
            Self::On => 64,
            Self::Off => 0,
            Self::Starved => 1,
        }
    }
}

/// An arm's measurements. Counters cover the measured time, with up to a second more at both ends.
#[derive(Clone, Debug, Serialize)]
pub struct Arm {
    pub max_in_flight: u32,
    /// As the server measured it, since its start.
    pub rehydrate_latency_ms: RehydrateLatency,
    /// From the scraped buckets, over the measured time.
    pub prometheus_p95_ms: Option<f64>,
    pub rehydrate_total: u64,
    pub rehydrate_fail_total: u64,
    pub singleflight_wait_timeout_total: u64,
    pub singleflight_waiters_max: u64,
    pub prefetch_scan_total: u64,
    pub prefetch_trigger_total: u64,
    pub prefetch_skipped_total: u64,
    /// Triggers by scan, the runbook's query; none without scans.
    pub coverage: Option<f64>,
    /// The share of the rehydrates that the prefetcher started.
    pub prefetched_share: Option<f64>,
    /// Requests that were not served at once from memory.
    pub waits: u64,
    pub request_latency_us: RequestLatency,
    pub requests: u64,
    pub requests_ok: u64,
    pub requests_retry: u64,
    /// Neither OK nor RETRY, or not answered at all.
    pub requests_failed: u64,
    /// Of these, not answered at all.
    pub requests_unanswered: u64,
    pub requests_stale: u64,
    pub requests_by_status: BTreeMap<&'static str, u64>,
    pub offered_per_s: f64,
    /// OK answers by second.
    pub achieved_per_s: f64,
    pub request_seconds: Vec<Second>,
    pub rehydrate_seconds: Vec<RehydrateSecond>,
}

/// Quantiles of the server's own histogram.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RehydrateLatency {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub count: f64,
}

/// Quantiles of the latency from the due time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RequestLatency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// Runs an arm.
pub fn run(setup: &Setup, kind: Kind) -> Result<Arm> {
    let name = kind.name();
    eprintln!(
        "S4 {name}: starting a server, making {} keys",
        PARAMETERS.keys
    );
    let server = Server::start(
        &setup.server,
        &setup.out,
        &format!("s4-{name}"),
        setup.cores,
    )?;
    server.explain(measure(setup, kind, &server))
}

fn measure(setup: &Setup, kind: Kind, server: &Server) -> Result<Arm> {
    let name = kind.name();
    let address = server.address();
    let control = Control::connect(address)?;
    let keyspace_id = control.create_keyspace(KEYSPACE, &settings(kind))?;
    let algorithms = [Algorithm::Ed25519, Algorithm::HmacSha256];
    let keys = Keys::name(keyspace_id, PARAMETERS.keys, &algorithms)?;
    keys.generate(address)?;
    let soft_ttl = Duration::from_millis(PARAMETERS.soft_ttl_ms);
    eprintln!(
        "S4 {name}: first use of each key, spread over {} s",
        soft_ttl.as_secs()
    );
    keys.touch_within(address, soft_ttl)?;

    let mut rng = Rng::new(4);
    let zipf = Zipf::new(PARAMETERS.keys, PARAMETERS.zipf_exponent);
    let mut choose = || zipf.draw(&mut rng);
    let mut traffic = |what: &str, duration: Duration| {
        let pace = Pace::Poisson {
            rate_per_s: PARAMETERS.rate_per_s,
            duration,
        };
        let mut show = |second: &Second| show(name, what, duration, second);
        keys.load(
            address,
            PARAMETERS.connections,
            pace,
            &mut choose,
            &mut show,
        )
    };
    // One soft TTL, so that the first of the measured seconds is like the others.
    traffic("warm-up", soft_ttl)?;
    let before = control.status(KEYSPACE)?;
    let scraped_before = scrape(server.metrics_address())?;
    let watch = Watch::start(server.metrics_address(), Control::connect(address)?)?;
    let outcome = traffic("measured", setup.duration);
    let watched = watch.stop()?;
    let outcome = outcome?;
    sleep(FIGURES_DELAY);
    let after = control.status(KEYSPACE)?;
    let scraped_after = scrape(server.metrics_address())?;
    let buckets = scraped_after
        .buckets(REHYDRATE_LATENCY, KEYSPACE)
        .since(&scraped_before.buckets(REHYDRATE_LATENCY, KEYSPACE));

    let grown = Grown {
        before: &before,
        after: &after,
    };
    let triggers = grown.by("prefetch_trigger_total")?;
    let scans = grown.by("prefetch_scan_total")?;
    let rehydrates = grown.by("rehydrate_total")?;
    let latency = |figure: &str| after.rehydrate_latency_ms(figure);
    let retry = outcome.count(Status::Retry);
    Ok(Arm {
        max_in_flight: kind.max_in_flight(),
        rehydrate_latency_ms: RehydrateLatency {
            p50: latency("p50")?,
            p95: latency("p95")?,
            p99: latency("p99")?,
            p999: latency("p999")?,
            max: latency("max")?,
            count: latency("count")?,
        },
        prometheus_p95_ms: buckets.quantile(0.95),
        rehydrate_total: rehydrates,
        rehydrate_fail_total: grown.by("rehydrate_fail_total")?,
        singleflight_wait_timeout_total: grown.by("singleflight_wait_timeout_total")?,
        singleflight_waiters_max: watched
            .waiters_max
            .max(after.count("singleflight_waiters_max")?),
        prefetch_scan_total: scans,
        prefetch_trigger_total: triggers,
        prefetch_skipped_total: grown.by("prefetch_skipped_total")?,
        coverage: ratio(triggers, scans),
        prefetched_share: ratio(triggers, rehydrates),
        waits: grown.by("misses")?,
        request_latency_us: RequestLatency::of(&outcome),
        requests: outcome.offered,
        requests_ok: outcome.ok(),
        requests_retry: retry,
        requests_failed: outcome.offered - outcome.ok() - retry,
        requests_unanswered: outcome.unanswered(),
        requests_stale: outcome.stale,
        offered_per_s: outcome.offered as f64 / setup.duration.as_secs_f64(),
        achieved_per_s: outcome.ok() as f64 / outcome.elapsed.as_secs_f64(),
        requests_by_status: outcome.by_status,
        request_seconds: outcome.seconds,
        rehydrate_seconds: watched.seconds,
    })
}

impl RequestLatency {
    /// Of a run.
    pub fn of(outcome: &Recording) -> Self {
        Self {
            p50: outcome.latency_us(0.5),
            p99: outcome.latency_us(0.99),
            p999: outcome.latency_us(0.999),
            max: outcome.latency_us(1.0),
        }
    }
}

/// Two STATUS answers of one server.
struct Grown<'a> {
    before: &'a KeyspaceStatus,
    after: &'a KeyspaceStatus,
}

impl Grown<'_> {
    fn by(&self, counter: &str) -> Result<u64> {
        let (before, after) = (self.before.count(counter)?, self.after.count(counter)?);
        after.checked_sub(before).ok_or_else(|| {
            format!("{counter} fell from {before} to {after}: it must only grow").into()
        })
    }
}

fn settings(kind: Kind) -> String {
    let Parameters {
        soft_ttl_ms,
        hard_ttl_ms,
        refresh_window_ms,
        ..
    } = PARAMETERS;
    let max_in_flight = kind.max_in_flight();
    format!(
        "soft_ttl_ms={soft_ttl_ms}\nhard_ttl_ms={hard_ttl_ms}\n\
         refresh_window_ms={refresh_window_ms}\nmax_in_flight={max_in_flight}\n"
    )
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn show(arm: &str, what: &str, duration: Duration, second: &Second) {
    eprintln!(
        "S4 {arm}: {what} {}/{} s, {} answered, {} not OK, p50 {:.0} us, p99 {:.0} us",
        second.at_s + 1,
        duration.as_secs(),
        second.answered,
        second.not_ok,
        second.p50_us,
        second.p99_us
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_lines_that_the_protocol_takes() {
        for kind in [Kind::On, Kind::Off, Kind::Starved] {
            let text = settings(kind);
            let lines = keyway_protocol::Settings::new(&text).unwrap();
            assert_eq!(lines.iter().count(), 4);
        }
        assert!(settings(Kind::Off).contains("max_in_flight=0\n"));
    }

    #[test]
    fn coverage_needs_scans() {
        assert_eq!(ratio(3, 2), Some(1.5));
        assert_eq!(ratio(0, 0), None);
    }
}
