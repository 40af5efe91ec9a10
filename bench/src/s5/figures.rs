//! The time line as numbers: what is reported, judged and drawn.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::answers::{self, Counts, Seen};
use super::calls::{self, KmsSecond, began_within};
use super::kms::{BUDGET, Budget};
use super::plan::{
    AFTER_OUTAGE, AFTER_THROTTLING, DENIED, GROUPS, Group, LONG, OTHER, OUTAGE, Phase, SHORT,
    UNLOCKED,
};
use super::timeline::{PARAMETERS, Parameters, Timeline};

/// Goodput that counts as recovered.
pub const RECOVERED_SHARE: f64 = 0.95;
/// Before the end of a lease by its latest possible beginning, when nothing may be refused yet: the
/// call's way from the server to the proxy, on a machine that is busy.
const GRANT_WAY: Duration = Duration::from_millis(100);

/// The measurements of the time line.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineFigures {
    pub parameters: Parameters,
    pub budget: Budget,
    pub groups: [Group; GROUPS],
    pub phases: Vec<PhaseFigures>,
    /// When the lease of `short` ended in the outage, from the start of the load: no later than this.
    pub lease_end_s: Option<f64>,
    /// Requests of `short` refused in the outage although they were due before that.
    pub refused_under_lease: u64,
    /// Results of `long` and `short` after the end of the last lease that was granted.
    pub past_lease: u64,
    /// Whole seconds until the goodput of `short` had recovered permanently, by phase.
    pub recovered_after_outage_s: Option<u64>,
    pub recovered_after_throttling_s: Option<u64>,
    pub recovered_after_unlock_s: Option<u64>,
    /// Answers of `short` in the second half of the denial.
    pub denied: Counts,
    /// Unlocked keys of `short` at the end of the denial.
    pub resident_when_denied: u64,
    pub unanswered: u64,
    pub request_seconds: Vec<[Counts; GROUPS]>,
    pub kms_seconds: Vec<KmsSecond>,
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
pub struct PhaseFigures {
    pub name: &'static str,
    pub from_s: f64,
    pub to_s: f64,
    /// Of the groups in their order.
    pub answers: [Counts; GROUPS],
    /// Attempts at the KMS, connections that were closed at once included.
    pub kms_calls: u64,
    /// Of these within any second, at most.
    pub kms_rate_max: u64,
}

impl TimelineFigures {
    /// Of what was seen.
    pub fn of(timeline: &Timeline) -> Self {
        let Timeline {
            plan,
            start,
            answers,
            calls,
            ..
        } = timeline;
        let seconds = plan.length().as_secs();
        let request_seconds = answers::by_second::<GROUPS>(answers, *start, seconds);
        let recovered = |name: &str| recovered(&request_seconds, plan.phase(name));
        let grants = calls::grants(calls);
        let outage = plan.phase(OUTAGE);
        let short_lease = plan.groups[SHORT].lease();
        let last_grant = calls::last_by(&grants, *start + outage.start);
        let lease_end = last_grant.map(|grant| grant + short_lease);
        let in_outage = within(answers, *start, outage.start, outage.end);
        let refused_under_lease = in_outage
            .filter(|seen| is_not_ok_of(seen, SHORT))
            .filter(|seen| lease_end.is_some_and(|end| seen.due + GRANT_WAY < end))
            .count() as u64;
        let past = |group: usize| {
            let of_group = answers.iter().filter(|seen| seen.group == group);
            answers::past_lease(of_group, plan.groups[group].lease(), |at| {
                calls::last_by(&grants, at)
            })
        };
        let denied = plan.phase(DENIED);
        let denied_half = (denied.start + denied.end) / 2;
        let denied = within(answers, *start, denied_half, denied.end);
        Self {
            parameters: PARAMETERS,
            budget: BUDGET,
            groups: plan.groups,
            phases: plan
                .phases
                .iter()
                .map(|phase| PhaseFigures::of(timeline, phase))
                .collect(),
            lease_end_s: lease_end.map(|end| (end - *start).as_secs_f64()),
            refused_under_lease,
            past_lease: past(LONG) + past(SHORT),
            recovered_after_outage_s: recovered(AFTER_OUTAGE),
            recovered_after_throttling_s: recovered(AFTER_THROTTLING),
            recovered_after_unlock_s: recovered(UNLOCKED),
            denied: Counts::of(denied.filter(|seen| seen.group == SHORT)),
            resident_when_denied: timeline.resident_when_denied,
            unanswered: timeline.unanswered,
            kms_seconds: calls::by_second(calls, *start, seconds),
            request_seconds,
        }
    }

    /// The phase of this name.
    pub fn phase(&self, name: &str) -> &PhaseFigures {
        let found = self.phases.iter().find(|phase| phase.name == name);
        found.expect("the names are those of the plan")
    }

    /// Requests of `other` that were not answered OK.
    pub fn other_not_ok(&self) -> u64 {
        self.phases
            .iter()
            .map(|phase| phase.answers[OTHER].not_ok())
            .sum()
    }
}

impl PhaseFigures {
    fn of(timeline: &Timeline, phase: &Phase) -> Self {
        let start = timeline.start;
        let (from, to) = (start + phase.start, start + phase.end);
        let of = |group: usize| {
            let answers = within(&timeline.answers, start, phase.start, phase.end);
            Counts::of(answers.filter(|seen| seen.group == group))
        };
        let began = began_within(&timeline.calls, from, to);
        Self {
            name: phase.name,
            from_s: phase.start.as_secs_f64(),
            to_s: phase.end.as_secs_f64(),
            answers: std::array::from_fn(of),
            kms_calls: began.clone().count() as u64,
            kms_rate_max: calls::rate_max(began),
        }
    }
}

/// Answers to requests that were due from `from` on and before `to`.
fn within(
    answers: &[Seen],
    start: Instant,
    from: Duration,
    to: Duration,
) -> impl Iterator<Item = &Seen> {
    let (from, to) = (start + from, start + to);
    answers
        .iter()
        .filter(move |seen| from <= seen.due && seen.due < to)
}

fn is_not_ok_of(seen: &Seen, group: usize) -> bool {
    seen.group == group && seen.status != keyway_protocol::Status::Ok
}

/// Whole seconds from the start of the phase until the goodput of `short` is back until its end.
fn recovered(seconds: &[[Counts; GROUPS]], phase: &Phase) -> Option<u64> {
    // The whole seconds within the phase.
    let from = (phase.start.as_secs_f64().ceil() as usize).min(seconds.len());
    let to = (phase.end.as_secs() as usize).clamp(from, seconds.len());
    let short: Vec<Counts> = seconds[from..to]
        .iter()
        .map(|groups| groups[SHORT])
        .collect();
    answers::recovered_after(&short, RECOVERED_SHARE)
}

#[cfg(test)]
pub(super) mod tests {
    use keyway_protocol::Status;
    use keyway_testkit::fault_proxy::{Call, Fault};

    use super::super::plan::Plan;
    use super::*;

    const UNIT: Duration = Duration::from_secs(30);
    const STEP_MS: u64 = 100;
    /// Seconds in which a DEK was granted. The lease of `short` lasts 20 s.
    const GRANTS_S: [u64; 14] = [
        0, 8, 77, 87, 97, 107, 117, 127, 137, 178, 188, 198, 208, 245,
    ];

    /// What a server does that is as it should be. Each keyspace has an answer every 100 ms.
    pub fn good() -> Timeline {
        let plan = Plan::new(UNIT);
        let start = Instant::now();
        let calls = GRANTS_S.map(|at_s| Call {
            at: start + Duration::from_secs(at_s),
            ended: Some(start + Duration::from_secs(at_s)),
            path: "/v1/transit/decrypt/k".into(),
            fault: Fault::Pass,
            status: Some(200),
        });
        let denied = plan.phase(DENIED);
        let mut answers = Vec::new();
        for ms in (1..=plan.length().as_millis() as u64 - STEP_MS).step_by(STEP_MS as usize) {
            let since = Duration::from_millis(ms);
            let is_granted = GRANTS_S
                .iter()
                .any(|&at_s| (at_s..at_s + 20).contains(&since.as_secs()));
            let is_denied = since >= denied.start && since < denied.end;
            for group in 0..GROUPS {
                let refused = group == SHORT && (!is_granted || is_denied);
                answers.push(Seen {
                    group,
                    due: start + since,
                    at: start + since,
                    status: if refused {
                        Status::NeedsUnlock
                    } else {
                        Status::Ok
                    },
                    is_stale: false,
                });
            }
        }
        Timeline {
            plan,
            start,
            answers,
            unanswered: 0,
            calls: calls.into(),
            resident_when_denied: 0,
        }
    }

    #[test]
    fn a_good_time_line_has_these_figures() {
        let figures = TimelineFigures::of(&good());
        assert_eq!(figures.lease_end_s, Some(28.0), "8 s and a lease of 20 s");
        assert_eq!((figures.refused_under_lease, figures.past_lease), (0, 0));
        assert_eq!(figures.recovered_after_outage_s, Some(2));
        assert_eq!(figures.recovered_after_throttling_s, Some(3));
        assert_eq!(figures.recovered_after_unlock_s, Some(0));
        assert_eq!((figures.denied.needs_unlock, figures.denied.ok), (150, 0));
        assert_eq!(figures.phase(OUTAGE).answers[LONG].ok, 600);
        assert_eq!(figures.phase(OUTAGE).answers[SHORT].ok, 130);
        assert_eq!(figures.phase(AFTER_OUTAGE).kms_calls, 4);
        assert_eq!(figures.request_seconds.len(), 260);
    }

    #[test]
    fn results_past_a_lease_and_refusals_under_it_are_counted() {
        let mut timeline = good();
        let set = |timeline: &mut Timeline, at_s: u64, status: Status| {
            let due = timeline.start + Duration::from_secs(at_s);
            let mut answers = timeline.answers.iter_mut();
            let found = answers.find(|seen| seen.group == SHORT && seen.due > due);
            found.unwrap().status = status;
        };
        set(&mut timeline, 28, Status::Ok);
        set(&mut timeline, 70, Status::Ok);
        set(&mut timeline, 20, Status::Unavailable);
        let figures = TimelineFigures::of(&timeline);
        assert_eq!((figures.refused_under_lease, figures.past_lease), (1, 2));
    }
}
