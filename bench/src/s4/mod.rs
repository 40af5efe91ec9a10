//! S4, the refresh flow: Zipf traffic while keys soft-expire, with the prefetcher on, off and
//! starved; then a stampede on one soft-expired key.

mod arm;
mod stampede;
mod verdict;
mod watch;

use serde::Serialize;

use crate::Setup;
use crate::check::{self, Check};
use crate::error::Result;
use crate::machine::Provenance;
use crate::plot::{self, Plot, Series};
use crate::report;
use crate::table::Table;

use arm::{Arm, Kind};
use stampede::Stampede;

/// The whole report, `s4.json`.
#[derive(Serialize)]
struct Report {
    scenario: &'static str,
    verdict: &'static str,
    #[serde(flatten)]
    provenance: Provenance,
    duration_s: u64,
    parameters: arm::Parameters,
    checks: Vec<Check>,
    arms: Arms,
    stampede: Stampede,
}

/// The three arms, each with a server of its own.
#[derive(Serialize)]
struct Arms {
    on: Arm,
    off: Arm,
    starved: Arm,
}

impl Arms {
    fn named(&self) -> [(&'static str, &Arm); 3] {
        [
            ("on", &self.on),
            ("off", &self.off),
            ("starved", &self.starved),
        ]
    }
}

/// Runs the scenario and says whether it passed.
pub fn run(setup: &Setup) -> Result<bool> {
    let provenance = Provenance::collect();
    let arms = Arms {
        on: arm::run(setup, Kind::On)?,
        off: arm::run(setup, Kind::Off)?,
        starved: arm::run(setup, Kind::Starved)?,
    };
    let stampede = stampede::run(setup)?;
    let checks = verdict::checks(&arms, &stampede);
    let verdict = check::verdict(&checks);
    println!("\n{}\n{}", figures(&arms), check::table(&checks));
    draw(setup, &arms)?;
    let report = Report {
        scenario: "s4",
        verdict,
        provenance,
        duration_s: setup.duration.as_secs(),
        parameters: arm::PARAMETERS,
        checks,
        arms,
        stampede,
    };
    report::write(&setup.out.join("s4.json"), &report)?;
    println!("S4: {verdict}");
    Ok(verdict == "pass")
}

type Row = (&'static str, fn(&Arm) -> String);

const ROWS: [Row; 19] = [
    ("rehydrate p50, ms", |arm| {
        format!("{:.3}", arm.rehydrate_latency_ms.p50)
    }),
    ("rehydrate p95, ms", |arm| {
        format!("{:.3}", arm.rehydrate_latency_ms.p95)
    }),
    ("rehydrate p99, ms", |arm| {
        format!("{:.3}", arm.rehydrate_latency_ms.p99)
    }),
    ("rehydrate p99.9, ms", |arm| {
        format!("{:.3}", arm.rehydrate_latency_ms.p999)
    }),
    ("p95 by Prometheus, ms", |arm| {
        arm.prometheus_p95_ms
            .map_or("none".into(), |ms| format!("{ms:.3}"))
    }),
    ("rehydrates", |arm| arm.rehydrate_total.to_string()),
    ("failed rehydrates", |arm| {
        arm.rehydrate_fail_total.to_string()
    }),
    ("requests that waited", |arm| arm.waits.to_string()),
    ("waits past the budget", |arm| {
        arm.singleflight_wait_timeout_total.to_string()
    }),
    ("most waiters at once", |arm| {
        arm.singleflight_waiters_max.to_string()
    }),
    ("prefetch scans", |arm| arm.prefetch_scan_total.to_string()),
    ("prefetch triggers", |arm| {
        arm.prefetch_trigger_total.to_string()
    }),
    ("prefetch skips", |arm| {
        arm.prefetch_skipped_total.to_string()
    }),
    ("coverage, triggers/scan", |arm| {
        arm.coverage
            .map_or("none".into(), |ratio| format!("{ratio:.3}"))
    }),
    ("request p50, us", |arm| {
        format!("{:.0}", arm.request_latency_us.p50)
    }),
    ("request p99, us", |arm| {
        format!("{:.0}", arm.request_latency_us.p99)
    }),
    ("request p99.9, us", |arm| {
        format!("{:.0}", arm.request_latency_us.p999)
    }),
    ("offered, 1/s", |arm| format!("{:.0}", arm.offered_per_s)),
    ("achieved, 1/s", |arm| format!("{:.0}", arm.achieved_per_s)),
];

fn figures(arms: &Arms) -> Table {
    let mut table = Table::new(["S4", "on", "off", "starved"]);
    for (name, show) in ROWS {
        table.row([
            name.to_owned(),
            show(&arms.on),
            show(&arms.off),
            show(&arms.starved),
        ]);
    }
    table
}

fn draw(setup: &Setup, arms: &Arms) -> Result<()> {
    let mut rehydrates = Vec::new();
    let mut requests = Vec::new();
    for (name, arm) in arms.named() {
        let line = |what: &str, points: Vec<(f64, f64)>| Series {
            name: format!("{name}, {what}"),
            points,
        };
        let seen = arm.rehydrate_seconds.iter();
        rehydrates.push(line(
            "p50",
            seen.clone().map(|s| (s.at_s, s.p50_ms)).collect(),
        ));
        rehydrates.push(line("p95", seen.map(|s| (s.at_s, s.p95_ms)).collect()));
        let answered = arm.request_seconds.iter();
        let at = |second: &crate::load::Second| second.at_s as f64;
        requests.push(line(
            "p50",
            answered.clone().map(|s| (at(s), s.p50_us)).collect(),
        ));
        requests.push(line("p99", answered.map(|s| (at(s), s.p99_us)).collect()));
    }
    let first = rehydrates
        .iter()
        .flat_map(|series| &series.points)
        .map(|p| p.0);
    let (from, to) = first.fold((0.0, 1.0), |(a, b): (f64, f64), x| (a.min(x), b.max(x)));
    rehydrates.push(Series {
        name: "target, p95".into(),
        points: vec![(from, verdict::P95_MS_MAX), (to, verdict::P95_MS_MAX)],
    });
    let x_label = "time, s";
    plot::draw(
        &setup.out.join("s4-rehydrate.svg"),
        Plot {
            title: "S4: rehydrate latency, per second",
            x_label,
            y_label: "latency, ms",
        },
        &rehydrates,
    )?;
    plot::draw(
        &setup.out.join("s4-requests.svg"),
        Plot {
            title: "S4: request latency, per second",
            x_label,
            y_label: "latency, µs",
        },
        &requests,
    )?;
    println!("Plots: s4-rehydrate.svg and s4-requests.svg, beside the report");
    Ok(())
}
