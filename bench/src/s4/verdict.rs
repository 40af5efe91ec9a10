//! What S4 has to show.

use super::Arms;
use super::arm::Arm;
use super::stampede::{self, Stampede};
use crate::check::Check;

/// p95 of `rehydrate_latency_ms`, in every arm.
pub const P95_MS_MAX: f64 = 2.0;
/// The same with the prefetcher on.
const P95_MS_MAX_ON: f64 = 0.2;
/// Fewer rehydrations than this say nothing about a p95.
const REHYDRATES_MIN: f64 = 100.0;
/// The share of the requests that must be answered OK; the rest may be RETRY, which a client
/// repeats.
const OK_SHARE_MIN: f64 = 0.999;
/// With the prefetcher on, the share of the requests that wait, as a part of that without it. Not
/// zero: a key that was not used within its soft TTL is left to expire, and its next use waits.
const WAITS_SHARE_MAX: f64 = 0.1;
/// With the prefetcher on, the share of the requests whose wait uses up its budget.
const TIMEOUTS_SHARE_MAX: f64 = 0.000_1;

/// The checks, in the order of the report.
pub fn checks(arms: &Arms, stampede: &Stampede) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, arm) in arms.named() {
        let of = |what: &str| format!("{name}: {what}");
        let (measured, scraped) = (Some(arm.rehydrate_latency_ms.p95), arm.prometheus_p95_ms);
        let rehydrates = arm.rehydrate_total as f64;
        checks.push(Check::below(
            of("rehydrate p95"),
            measured,
            P95_MS_MAX,
            "ms",
        ));
        checks.push(Check::below(
            of("rehydrate p95 by Prometheus"),
            scraped,
            P95_MS_MAX,
            "ms",
        ));
        checks.push(Check::at_least(
            of("rehydrates"),
            rehydrates,
            REHYDRATES_MIN,
        ));
        checks.push(Check::exactly(
            of("failed rehydrates"),
            arm.rehydrate_fail_total,
            0,
        ));
        checks.push(Check::exactly(
            of("failed requests"),
            arm.requests_failed,
            0,
        ));
        checks.push(Check::at_least(
            of("share of OK"),
            ok_share(arm),
            OK_SHARE_MIN,
        ));
    }
    let (on, off) = (&arms.on, &arms.off);
    let (measured, scraped) = (Some(on.rehydrate_latency_ms.p95), on.prometheus_p95_ms);
    checks.push(Check::below(
        "on: rehydrate p95, tight",
        measured,
        P95_MS_MAX_ON,
        "ms",
    ));
    let name = "on: rehydrate p95 by Prometheus, tight";
    checks.push(Check::below(name, scraped, P95_MS_MAX_ON, "ms"));
    let waits = on.waits as f64 / (off.waits as f64).max(1.0);
    checks.push(Check::at_most(
        "on: waits, as a part of off's",
        waits,
        WAITS_SHARE_MAX,
        "",
    ));
    let timeouts = on.singleflight_wait_timeout_total as f64 / (on.requests as f64).max(1.0);
    let name = "on: share of waits past the budget";
    checks.push(Check::at_most(name, timeouts, TIMEOUTS_SHARE_MAX, ""));
    checks.push(Check::exactly(
        "stampede: rehydrates",
        stampede.rehydrates,
        1,
    ));
    checks.push(Check::exactly(
        "stampede: OK answers",
        stampede.requests_ok,
        stampede::REQUESTS,
    ));
    checks
}

fn ok_share(arm: &Arm) -> f64 {
    arm.requests_ok as f64 / (arm.requests as f64).max(1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::arm::{RehydrateLatency, RequestLatency};
    use super::*;
    use crate::check::verdict;

    const REQUEST_LATENCY: RequestLatency = RequestLatency {
        p50: 40.0,
        p99: 200.0,
        p999: 900.0,
        max: 4000.0,
    };

    fn arm(waits: u64) -> Arm {
        Arm {
            max_in_flight: 64,
            rehydrate_latency_ms: RehydrateLatency {
                p50: 0.05,
                p95: 0.15,
                p99: 0.3,
                p999: 0.9,
                max: 3.0,
                count: 12_000.0,
            },
            prometheus_p95_ms: Some(0.16),
            rehydrate_total: 12_000,
            rehydrate_fail_total: 0,
            singleflight_wait_timeout_total: 3,
            singleflight_waiters_max: 4,
            prefetch_scan_total: 3_000,
            prefetch_trigger_total: 11_000,
            prefetch_skipped_total: 0,
            coverage: Some(3.7),
            prefetched_share: Some(0.92),
            waits,
            request_latency_us: REQUEST_LATENCY,
            requests: 360_000,
            requests_ok: 359_990,
            requests_retry: 10,
            requests_failed: 0,
            requests_unanswered: 0,
            requests_stale: 3,
            requests_by_status: BTreeMap::new(),
            offered_per_s: 12_000.0,
            achieved_per_s: 11_999.0,
            request_seconds: Vec::new(),
            rehydrate_seconds: Vec::new(),
        }
    }

    fn good() -> (Arms, Stampede) {
        let arms = Arms {
            on: arm(100),
            off: arm(12_000),
            starved: arm(9_000),
        };
        let stampede = Stampede {
            requests: stampede::REQUESTS,
            connections: 16,
            rehydrates: 1,
            requests_ok: stampede::REQUESTS,
            requests_stale: 0,
            wait_timeouts: 0,
            request_latency_us: REQUEST_LATENCY,
        };
        (arms, stampede)
    }

    #[test]
    fn good_figures_pass() {
        let (arms, stampede) = good();
        assert_eq!(verdict(&checks(&arms, &stampede)), "pass");
    }

    #[test]
    fn each_bad_figure_fails() {
        type Spoil = fn(&mut Arms, &mut Stampede);
        let spoils: [(&str, Spoil); 12] = [
            ("p95 on, tight", |arms, _| {
                arms.on.rehydrate_latency_ms.p95 = 0.2
            }),
            ("scraped p95 on, tight", |arms, _| {
                arms.on.prometheus_p95_ms = Some(0.25)
            }),
            ("p95 off", |arms, _| arms.off.rehydrate_latency_ms.p95 = 2.0),
            ("scraped p95 starved", |arms, _| {
                arms.starved.prometheus_p95_ms = Some(2.5)
            }),
            ("no p95", |arms, _| arms.off.prometheus_p95_ms = None),
            ("no rehydrates", |arms, _| arms.off.rehydrate_total = 0),
            ("failures", |arms, _| arms.starved.rehydrate_fail_total = 1),
            ("failed requests", |arms, _| arms.on.requests_failed = 1),
            ("too many RETRY", |arms, _| arms.on.requests_ok -= 1_000),
            ("waits", |arms, _| arms.on.waits = 6_000),
            ("second rehydrate", |_, stampede| stampede.rehydrates = 2),
            ("lost answers", |_, stampede| stampede.requests_ok -= 1),
        ];
        for (name, spoil) in spoils {
            let (mut arms, mut stampede) = good();
            spoil(&mut arms, &mut stampede);
            assert_eq!(verdict(&checks(&arms, &stampede)), "fail", "{name}");
        }
    }

    #[test]
    fn p95_of_a_slower_arm_may_pass_the_tight_limit_of_the_first() {
        let (mut arms, stampede) = good();
        arms.starved.rehydrate_latency_ms.p95 = 1.9;
        arms.off.prometheus_p95_ms = Some(1.9);
        assert_eq!(verdict(&checks(&arms, &stampede)), "pass");
    }
}
