//! The plots of S5.

use super::answers::Counts;
use super::calls::KmsSecond;
use super::cold::Cold;
use super::figures::TimelineFigures;
use super::plan::{GROUPS, LONG, OTHER, SHORT};
use crate::Setup;
use crate::error::Result;
use crate::plot::{self, Mark, Plot, Series};

const X_LABEL: &str = "time, s";

/// Draws them beside the report.
pub fn draw(setup: &Setup, timeline: &TimelineFigures, cold: &Cold) -> Result<()> {
    let marks: Vec<Mark> = timeline
        .phases
        .iter()
        .map(|phase| Mark {
            x: phase.from_s,
            name: phase.name.to_owned(),
        })
        .collect();
    let of_group = |name: &str, group: usize, figure: fn(&Counts) -> u64| {
        let seconds = timeline.request_seconds.iter();
        line(name, seconds.map(|groups| figure(&groups[group]) as f64))
    };
    let of_all = |name: &str, figure: fn(&Counts) -> u64| {
        let seconds = timeline.request_seconds.iter();
        let sum = |groups: &[Counts; GROUPS]| groups.iter().map(figure).sum::<u64>();
        line(name, seconds.map(|groups| sum(groups) as f64))
    };
    plot::draw_linear(
        &setup.out.join("s5-requests.svg"),
        Plot {
            title: "S5: what callers see while the KMS fails",
            x_label: X_LABEL,
            y_label: "answers a second",
        },
        &marks,
        &[
            of_group("long lease, OK", LONG, |counts| counts.ok),
            of_group("short lease, OK", SHORT, |counts| counts.ok),
            of_group("another KMS, OK", OTHER, |counts| counts.ok),
            of_all("stale", |counts| counts.stale),
            of_all("NEEDS_UNLOCK", |counts| counts.needs_unlock),
            of_all("UNAVAILABLE", |counts| counts.unavailable),
        ],
    )?;
    plot::draw_linear(
        &setup.out.join("s5-kms.svg"),
        Plot {
            title: "S5: calls that the failing KMS gets",
            x_label: X_LABEL,
            y_label: "calls",
        },
        &marks,
        &[
            of_kms("calls a second", &timeline.kms_seconds, |second| {
                second.calls
            }),
            of_kms("answered with 200", &timeline.kms_seconds, |second| {
                second.calls_ok
            }),
            of_kms("at once", &timeline.kms_seconds, |second| {
                second.concurrency_max as u64
            }),
        ],
    )?;
    draw_cold(setup, cold)?;
    println!("Plots: s5-requests.svg, s5-kms.svg and s5-cold.svg, beside the report");
    Ok(())
}

fn draw_cold(setup: &Setup, cold: &Cold) -> Result<()> {
    let level =
        |name: &str, value: u32| line(name, cold.kms_seconds.iter().map(|_| f64::from(value)));
    plot::draw_linear(
        &setup.out.join("s5-cold.svg"),
        Plot {
            title: "S5: 1,000 cold keyspaces at once",
            x_label: X_LABEL,
            y_label: "calls; percent",
        },
        &[],
        &[
            of_kms("KMS calls a second", &cold.kms_seconds, |second| {
                second.calls
            }),
            level("budget: rate", cold.budget.rate_per_s),
            of_kms("KMS calls at once", &cold.kms_seconds, |second| {
                second.concurrency_max as u64
            }),
            level("budget: concurrency", cold.budget.concurrency_max),
            line(
                "requests served, %",
                cold.request_seconds
                    .iter()
                    .map(|counts| counts.ok_share() * 100.0),
            ),
        ],
    )
}

fn of_kms(name: &str, seconds: &[KmsSecond], figure: fn(&KmsSecond) -> u64) -> Series {
    line(name, seconds.iter().map(|second| figure(second) as f64))
}

/// A point a second.
fn line(name: &str, values: impl Iterator<Item = f64>) -> Series {
    Series {
        name: name.to_owned(),
        points: (0..).map(f64::from).zip(values).collect(),
    }
}
