//! What S5 has to show.

use super::cold::{Cold, Storm, Unwrap};
use super::figures::{RECOVERED_SHARE, TimelineFigures};
use super::plan::{BASELINE, DENIED, LONG, OUTAGE, SHORT, SLOW, UNLOCKED};
use crate::check::Check;

/// After the end of an outage or a throttling.
const RECOVERED_WITHIN_S: f64 = 40.0;
/// After an unlock, which asks at once.
const UNLOCKED_WITHIN_S: f64 = 5.0;

/// All checks.
pub fn checks(timeline: &TimelineFigures, cold: &Cold, storm: &Storm) -> Vec<Check> {
    let mut checks = of_timeline(timeline);
    checks.extend(of_cold(cold));
    checks.extend(of_storm(storm));
    checks
}

fn of_timeline(timeline: &TimelineFigures) -> Vec<Check> {
    let judged = timeline.phases.iter();
    let before_denial = judged.take_while(|phase| phase.name != DENIED);
    let long_not_ok: u64 = before_denial
        .map(|phase| phase.answers[LONG].not_ok())
        .sum();
    let short_not_ok: u64 = [BASELINE, SLOW]
        .map(|name| timeline.phase(name).answers[SHORT].not_ok())
        .iter()
        .sum();
    let share = (RECOVERED_SHARE * 100.0).round();
    let recovered = |after: &str, seconds: Option<u64>, limit: f64| {
        let name = format!("short, {share} % goodput again after {after}");
        Check::at_most(name, seconds.map_or(f64::NAN, |s| s as f64), limit, "s")
    };
    let fullest = timeline.phases.iter().map(|phase| phase.kms_rate_max).max();
    let denied = &timeline.denied;
    vec![
        Check::exactly("long, not OK before the denial", long_not_ok, 0),
        Check::exactly("other, not OK at any time", timeline.other_not_ok(), 0),
        Check::exactly("short, not OK with a good or a slow KMS", short_not_ok, 0),
        Check::exactly(
            "short, refused in the outage under its lease",
            timeline.refused_under_lease,
            0,
        ),
        Check::at_least(
            "short, refused in the outage",
            timeline.phase(OUTAGE).answers[SHORT].not_ok() as f64,
            1.0,
        ),
        Check::exactly("results past a lease", timeline.past_lease, 0),
        recovered(
            "the outage",
            timeline.recovered_after_outage_s,
            RECOVERED_WITHIN_S,
        ),
        recovered(
            "throttling",
            timeline.recovered_after_throttling_s,
            RECOVERED_WITHIN_S,
        ),
        recovered(
            "the unlock",
            timeline.recovered_after_unlock_s,
            UNLOCKED_WITHIN_S,
        ),
        Check::at_least(
            "short, NEEDS_UNLOCK when denied",
            denied.needs_unlock as f64,
            1.0,
        ),
        Check::exactly(
            "short, any other answer when denied",
            denied.all() - denied.needs_unlock,
            0,
        ),
        Check::exactly(
            "short, unlocked keys when denied",
            timeline.resident_when_denied,
            0,
        ),
        Check::at_most(
            "time line, KMS calls in any second",
            fullest.map_or(f64::NAN, |calls| calls as f64),
            f64::from(timeline.budget.rate_per_s),
            "",
        ),
        Check::exactly("time line, unanswered", timeline.unanswered, 0),
        Check::at_least(
            "short, served at the end",
            timeline.phase(UNLOCKED).answers[SHORT].ok as f64,
            1.0,
        ),
    ]
}

fn of_cold(cold: &Cold) -> Vec<Check> {
    let budget = cold.budget;
    // The burst, a second's calls, and those that had leave to go and were still on their way.
    let rate_max = budget.rate_per_s + budget.burst + budget.concurrency_max;
    vec![
        Check::at_most(
            "cold, KMS calls in any second",
            cold.kms_rate_max as f64,
            f64::from(rate_max),
            "",
        ),
        Check::at_most(
            "cold, KMS calls at once",
            cold.kms_concurrency_max as f64,
            f64::from(budget.concurrency_max),
            "",
        ),
        Check::exactly("cold, unwraps", cold.unwraps_ok, cold.keyspaces as u64),
        Check::below(
            "cold, all served from",
            cold.all_served_after_s.map(|s| s as f64),
            cold.request_seconds.len() as f64,
            "s",
        ),
        Check::exactly("cold, unanswered", cold.unanswered, 0),
    ]
}

fn of_storm(storm: &Storm) -> Vec<Check> {
    let gave = |unwrap: &&Unwrap| unwrap.status == Some(200);
    let given = storm.unwraps.iter().filter(gave).count();
    // Once after its start the provider asks for a DEK without its context, and wants a refusal.
    let refused = storm.unwraps.len() - given;
    vec![
        Check::exactly("storm, unwraps", given as u64, 1),
        Check::at_most(
            "storm, questions for the DEK without its context",
            refused as f64,
            1.0,
            "",
        ),
        Check::exactly("storm, unanswered", storm.unanswered, 0),
        Check::exactly(
            "storm, keys served afterwards",
            storm.keys_ok_afterwards,
            storm.keys as u64,
        ),
    ]
}
