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
    // The burst, a second's calls, and those that were permitted and still in flight.
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use keyway_protocol::Status;

    use super::super::answers::Counts;
    use super::super::figures::tests::good;
    use super::super::kms::BUDGET;
    use super::super::plan::OTHER;
    use super::super::timeline::Timeline;
    use super::*;

    type Spoil<'a> = &'a dyn Fn(&mut Timeline);

    fn cold() -> Cold {
        Cold {
            keyspaces: 3,
            rate_per_s: 1.0,
            budget: BUDGET,
            kms_calls: 4,
            unwraps_ok: 3,
            kms_rate_max: 158,
            kms_concurrency_max: 8,
            unanswered: 0,
            answers: Counts::default(),
            all_served_after_s: Some(1),
            request_seconds: vec![Counts::default(); 2],
            kms_seconds: Vec::new(),
        }
    }

    fn storm() -> Storm {
        let unwrap = |status| Unwrap {
            at_ms: 1.0,
            took_ms: Some(1.0),
            status: Some(status),
        };
        Storm {
            keys: 2,
            requests: 9,
            connections: 1,
            unwraps: vec![unwrap(400), unwrap(200)],
            unanswered: 0,
            answers: Counts::default(),
            keys_ok_afterwards: 2,
        }
    }

    fn failed(checks: &[Check]) -> Vec<&str> {
        let failed = checks.iter().filter(|check| !check.pass);
        failed.map(|check| check.name.as_str()).collect()
    }

    /// The checks that fail once `spoil` has been at a good time line.
    fn failed_after(spoil: impl Fn(&mut Timeline)) -> Vec<String> {
        let mut timeline = good();
        spoil(&mut timeline);
        let checks = of_timeline(&TimelineFigures::of(&timeline));
        failed(&checks).into_iter().map(str::to_owned).collect()
    }

    /// Answers of a keyspace in these seconds become others.
    fn answered(timeline: &mut Timeline, group: usize, from_s: u64, to_s: u64, status: Status) {
        let start = timeline.start;
        let seconds = Duration::from_secs(from_s)..Duration::from_secs(to_s);
        for seen in &mut timeline.answers {
            if seen.group == group && seconds.contains(&(seen.due - start)) {
                seen.status = status;
            }
        }
    }

    #[test]
    fn what_is_as_it_should_be_passes() {
        let figures = TimelineFigures::of(&good());
        let checks = checks(&figures, &cold(), &storm());
        assert_eq!(failed(&checks), [""; 0]);
    }

    #[test]
    fn each_promise_is_checked() {
        let table: [(&str, Spoil); 9] = [
            ("long, not OK before the denial", &|timeline| {
                answered(timeline, LONG, 50, 51, Status::Unavailable);
            }),
            ("other, not OK at any time", &|timeline| {
                answered(timeline, OTHER, 230, 231, Status::NeedsUnlock);
            }),
            ("short, not OK with a good or a slow KMS", &|timeline| {
                answered(timeline, SHORT, 130, 131, Status::Retry);
            }),
            (
                "short, refused in the outage under its lease",
                &|timeline| {
                    answered(timeline, SHORT, 20, 21, Status::NeedsUnlock);
                },
            ),
            ("results past a lease", &|timeline| {
                answered(timeline, SHORT, 60, 61, Status::Ok);
            }),
            ("short, 95 % goodput again after the outage", &|timeline| {
                answered(timeline, SHORT, 114, 115, Status::Unavailable);
            }),
            ("short, any other answer when denied", &|timeline| {
                answered(timeline, SHORT, 240, 241, Status::Unavailable);
            }),
            ("short, unlocked keys when denied", &|timeline| {
                timeline.resident_when_denied = 1;
            }),
            ("time line, KMS calls in any second", &|timeline| {
                let calls = timeline.calls.iter().cycle().take(14 * 51);
                timeline.calls = calls.cloned().collect();
                timeline.calls.sort_by_key(|call| call.at);
            }),
        ];
        for (name, spoil) in table {
            assert_eq!(failed_after(spoil), [name]);
        }
    }

    #[test]
    fn budgets_and_counts_are_exact() {
        let mut cold = cold();
        cold.unwraps_ok = 4;
        cold.kms_rate_max = 159;
        cold.kms_concurrency_max = 9;
        cold.all_served_after_s = None;
        assert_eq!(failed(&of_cold(&cold)).len(), 4);
        let mut storm = storm();
        storm.unwraps.push(storm.unwraps[1]);
        assert_eq!(failed(&of_storm(&storm)), ["storm, unwraps"]);
        storm.unwraps.truncate(1);
        assert_eq!(failed(&of_storm(&storm)), ["storm, unwraps"]);
    }
}
