//! S5, a KMS with faults: a real OpenBao goes away, is slow, throttles, denies and comes back under
//! load; then a thousand cold keyspaces, and a storm on one.
//!
//! ```text
//!  timeline ─┬─▶ plan      what the KMS does when
//!            ├─▶ kms       OpenBao, and the proxy that makes it fail
//!            ├─▶ answers   what callers saw
//!            └─▶ calls     what the KMS saw
//!  cold ─────┘
//!  `figures` ─▶ verdict, picture
//! ```

mod answers;
mod calls;
mod cold;
mod figures;
mod kms;
mod picture;
mod plan;
mod timeline;
mod verdict;

use serde::Serialize;

use crate::Setup;
use crate::check::{self, Check};
use crate::error::Result;
use crate::machine::Provenance;
use crate::report;
use crate::table::Table;

use cold::{Cold, Storm};
use figures::TimelineFigures;
use kms::Kms;

/// The whole report, `s5.json`.
#[derive(Serialize)]
struct Report {
    scenario: &'static str,
    verdict: &'static str,
    #[serde(flatten)]
    provenance: Provenance,
    duration_s: u64,
    checks: Vec<Check>,
    timeline: TimelineFigures,
    cold: Cold,
    storm: Storm,
}

/// Runs the scenario and says whether it passed.
pub fn run(setup: &Setup) -> Result<bool> {
    let provenance = Provenance::collect();
    let mut kms = Kms::start()?;
    let timeline = TimelineFigures::of(&timeline::run(setup, &mut kms)?);
    let cold = cold::run_cold(setup, &kms)?;
    let storm = cold::run_storm(setup, &kms)?;
    let checks = verdict::checks(&timeline, &cold, &storm);
    let verdict = check::verdict(&checks);
    println!("\n{}\n{}", phases(&timeline), check::table(&checks));
    picture::draw(setup, &timeline, &cold)?;
    let report = Report {
        scenario: "s5",
        verdict,
        provenance,
        duration_s: setup.duration.as_secs(),
        checks,
        timeline,
        cold,
        storm,
    };
    report::write(&setup.out.join("s5.json"), &report)?;
    println!("S5: {verdict}");
    Ok(verdict == "pass")
}

fn phases(timeline: &TimelineFigures) -> Table {
    let mut table = Table::new([
        "S5",
        "s",
        "long, OK",
        "short, OK",
        "other, OK",
        "short, NEEDS_UNLOCK",
        "short, UNAVAILABLE",
        "KMS calls",
        "in a second",
    ]);
    for phase in &timeline.phases {
        let share = |group: usize| {
            let counts = phase.answers[group];
            format!("{:.2} %", counts.ok_share() * 100.0)
        };
        let short = phase.answers[plan::SHORT];
        table.row([
            phase.name.to_owned(),
            format!("{:.0} to {:.0}", phase.from_s, phase.to_s),
            share(plan::LONG),
            share(plan::SHORT),
            share(plan::OTHER),
            short.needs_unlock.to_string(),
            short.unavailable.to_string(),
            phase.kms_calls.to_string(),
            phase.kms_rate_max.to_string(),
        ]);
    }
    table
}
