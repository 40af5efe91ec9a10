//! Loads: those that fail, those that are waited for, those that are slow.

use super::{KeyspaceWindow, log_line, projected};
use crate::doctor::{Finding, Severity};
use crate::text;

/// Waiters at once: above it a refresh is stuck or a hot key is out of control.
const WAITERS_MAX: u64 = 128;

/// Failed loads in 5 minutes.
const FAILURES_MAX: f64 = 10.0;

/// Waits in a minute that use up their budget.
const TIMEOUTS_MAX: f64 = 50.0;

/// p95 of loads, in ms.
const P95_MAX_MS: f64 = 2.0;

/// Loads that a p95 needs to say something.
const LOADS_MIN: u64 = 20;

/// A hot key has so many requests a second, and this share of its keyspace's.
const HOT_RATE: f64 = 1_000.0;
const HOT_SHARE: f64 = 0.5;

pub fn examine(patient: &KeyspaceWindow<'_>, findings: &mut Vec<Finding>) {
    findings.extend(failures(patient));
    findings.extend(waiters(patient));
    findings.extend(timeouts(patient));
    findings.extend(slow(patient));
    findings.extend(old_keys(patient));
}

fn failures(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let failed = patient.rise(|it| it.rehydrate_fail_total);
    let invalid = patient.rise(|it| it.answered("invalid"));
    let finding = if failed > 0 {
        let severity = match projected(patient.change, failed, 300.0) > FAILURES_MAX {
            true => Severity::Critical,
            false => Severity::Warning,
        };
        let evidence = patient.rose("rehydrate_fail_total", |it| it.rehydrate_fail_total);
        patient.finding(
            "rehydrate-failures",
            severity,
            "keys cannot be loaded",
            evidence,
        )
    } else if invalid > 0 {
        let evidence = patient.rose("requests answered INVALID", |it| it.answered("invalid"));
        let symptom = "callers ask for keys that cannot be opened";
        patient.finding("rehydrate-failures", Severity::Warning, symptom, evidence)
    } else if patient.now.rehydrate_fail_total > 0 {
        let evidence = format!(
            "rehydrate_fail_total is {} and does not increase",
            patient.now.rehydrate_fail_total
        );
        let symptom = "keys could not be loaded since the start, none of them now";
        patient.finding("rehydrate-failures", Severity::Note, symptom, evidence)
    } else {
        return None;
    };
    // Outcomes are counted from the start, as failures are: what was behind those that are over.
    let invalid_ever = patient.now.answered("invalid");
    let finding = match patient.without_dek() {
        Some(why) => finding
            .because(format!("the data key is missing: {why}"))
            .next(patient.unlock())
            .next("keyway kms list"),
        None if invalid_ever > 0 => finding
            .because(format!(
                "the data key is there, but blobs do not open: {} answered INVALID so far; their \
                 blobs are corrupt or belong to another place, or the keys are past their not_after",
                text::count(invalid_ever, "request")
            ))
            .because("the log line 'key cache invalid' names each key and its cause"),
        None => finding.because(
            "the data key is there: the blobs are damaged, the disk cannot be read, or the KMS \
             failed temporarily; the log line 'key cache invalid' shows which",
        ),
    };
    Some(finding.next(log_line("key cache invalid")))
}

fn waiters(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let samples = patient.case.samples.iter().flat_map(|sample| {
        let of_name = sample.keyspaces.iter();
        of_name.filter(|it| it.name == patient.now.name)
    });
    let (mut peak, mut flights_min) = (0, u64::MAX);
    for sample in samples {
        peak = peak.max(sample.singleflight_waiters);
        flights_min = flights_min.min(sample.flights);
    }
    // A burst between two samples is visible if it was the highest ever.
    if patient.now.singleflight_waiters_max > patient.before.singleflight_waiters_max {
        peak = peak.max(patient.now.singleflight_waiters_max);
    }
    let hint = most_waited_for(patient);
    let loads = patient.rise(|it| it.rehydrate_total);
    if peak > WAITERS_MAX {
        let evidence = format!("singleflight_waiters was {peak}, the limit is {WAITERS_MAX}");
        let symptom = "many requests wait for the same refreshes";
        let finding = patient.finding("waiters", Severity::Critical, symptom, evidence);
        return Some(with_next(
            patient,
            finding.because(cause(patient)).because_of(hint),
        ));
    }
    if flights_min > 0 && loads == 0 {
        let evidence = format!(
            "{} in progress in every sample, and none has ended",
            text::count(flights_min, "load")
        );
        let symptom = "a refresh is stuck";
        let finding = patient.finding("waiters", Severity::Warning, symptom, evidence);
        return Some(with_next(
            patient,
            finding.because(cause(patient)).because_of(hint),
        ));
    }
    hot_key(patient).or_else(|| {
        let peak = patient.now.singleflight_waiters_max;
        (peak > WAITERS_MAX).then(|| {
            let evidence =
                format!("the most since the start was {peak}, the limit is {WAITERS_MAX}");
            let symptom = "many requests have waited at once, not now";
            with_next(
                patient,
                patient
                    .finding("waiters", Severity::Note, symptom, evidence)
                    .because_of(hint),
            )
        })
    })
}

/// One key far ahead of all others, at a rate that fills a core.
fn hot_key(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let hot = patient.listed.hot.as_ref()?;
    let key = hot.keys.first()?;
    let sure = key.requests.count.saturating_sub(key.requests.excess_max);
    let share = sure as f64 / hot.totals.requests.max(1) as f64;
    let rate = sure as f64 * 1_000.0 / hot.window_ms.max(1) as f64;
    if share < HOT_SHARE || rate < HOT_RATE {
        return None;
    }
    let waits = key.waiters.count.saturating_sub(key.waiters.excess_max);
    let severity = match waits > WAITERS_MAX {
        true => Severity::Warning,
        false => Severity::Note,
    };
    let name = &patient.now.name;
    let evidence = format!(
        "{name}/{} has {rate:.0} requests a second, {:.0}% of the keyspace's; {waits} of them \
         waited",
        key.key,
        share * 100.0
    );
    Some(
        patient
            .finding("waiters", severity, "one key is hot", evidence)
            .because(format!(
                "all requests for it go to shard {}, which owns it: have its callers slow down or \
                 use several keys",
                key.shard
            ))
            .next(format!("keyway hot {name}"))
            .next(patient.set("on_soft_expiry=serve_stale --for 15m")),
    )
}

fn timeouts(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let timeouts = patient.rise(|it| it.singleflight_wait_timeout_total);
    let total = patient.now.singleflight_wait_timeout_total;
    let series = "singleflight_wait_timeout_total";
    let (severity, symptom, evidence) = match (timeouts, total) {
        (0, 0) => return None,
        (0, _) => (
            Severity::Note,
            "waits have used up their budget since the start, none of them now",
            format!("{series} is {total} and does not increase"),
        ),
        _ => (
            match projected(patient.change, timeouts, 60.0) > TIMEOUTS_MAX {
                true => Severity::Critical,
                false => Severity::Warning,
            },
            "requests use up their wait budget",
            patient.rose(series, |it| it.singleflight_wait_timeout_total),
        ),
    };
    let finding = patient
        .finding("wait-timeouts", severity, symptom, evidence)
        .because(cause(patient))
        .because_of(most_waited_for(patient))
        .because_of(
            patient
                .case
                .last_change(patient.name(), "sign_wait_budget_us"),
        );
    Some(with_next(patient, finding))
}

/// What holds loads up, with the word that the log line `refresh wait timeout` has for it.
fn cause(patient: &KeyspaceWindow<'_>) -> String {
    if let Some(why) = patient.without_dek() {
        return format!("loads have no data key (cause dek_missing): {why}");
    }
    if patient.now.state != "live" && patient.now.dek_lease_left_s <= 0.0 {
        return "loads have no data key (cause dek_missing): no lease is held; is the KMS slow?"
            .into();
    }
    let budget_ms = patient.listed.number("sign_wait_budget_us");
    let budget_ms = budget_ms.map_or(3.0, |us| us as f64 / 1_000.0);
    if budget_ms <= 0.0 {
        return "sign_wait_budget_us is 0: requests do not wait for a load at all".into();
    }
    let change = patient.change;
    let queued = change.shards().any(|(before, now)| {
        let waits = change.spread(&before.load_wait_ms, &now.load_wait_ms);
        now.load_queue_depth > 0 || waits.quantile_ms(0.95).is_some_and(|p95| p95 > budget_ms)
    });
    let (before, now) = (patient.before, patient.now);
    let spread = change.spread(&before.rehydrate_latency_ms, &now.rehydrate_latency_ms);
    let p95 = spread.quantile_ms(0.95);
    let loads = match (p95, now.rehydrate_latency_ms.count) {
        (Some(p95), _) => format!("p95 of loads is at most {p95} ms"),
        (None, 1..) => format!(
            "p95 of loads since the start is {:.3} ms",
            now.rehydrate_latency_ms.p95
        ),
        _ => "no load has ended yet".into(),
    };
    match p95.unwrap_or(now.rehydrate_latency_ms.p95) {
        p95 if p95 > budget_ms => format!(
            "reads are slow (cause read_slow): {loads}, the wait budget is {budget_ms} ms; look at \
             the disk"
        ),
        _ if queued => format!(
            "more loads than read slots at once (cause read_queued): {loads}, but they wait for \
             their turn before; the wait budget is {budget_ms} ms"
        ),
        _ => format!(
            "{loads}, the wait budget is {budget_ms} ms: it is too narrow for the slowest, or the \
             KMS was slow; the log line 'refresh wait timeout' has the cause of each"
        ),
    }
}

fn most_waited_for(patient: &KeyspaceWindow<'_>) -> Option<String> {
    let (key, all) = patient.listed.most_waited_for()?;
    Some(format!(
        "most waits were for {}/{}: {} of {all} in the last minutes",
        patient.name(),
        key.key,
        key.waiters.count
    ))
}

fn with_next(patient: &KeyspaceWindow<'_>, finding: Finding) -> Finding {
    let name = patient.name();
    let finding = match patient.without_dek() {
        Some(_) => finding.next("keyway kms list").next(patient.unlock()),
        None => finding,
    };
    let finding = finding.next(format!("keyway hot {name} --by waiters"));
    let finding = match (finding.id, patient.listed.number("sign_wait_budget_us")) {
        ("wait-timeouts", Some(budget_us)) => {
            // At least the default, at most what the setting may be.
            let wider = budget_us.saturating_mul(2).clamp(3_000, 1_000_000);
            finding.next(patient.set(&format!("sign_wait_budget_us={wider} --for 15m")))
        }
        _ => finding,
    };
    finding.next(log_line("refresh wait timeout"))
}

fn slow(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let (before, now) = (patient.before, patient.now);
    let spread = patient
        .change
        .spread(&before.rehydrate_latency_ms, &now.rehydrate_latency_ms);
    let p95 = spread.quantile_ms(0.95)?;
    if spread.count() < LOADS_MIN || p95 <= P95_MAX_MS {
        return None;
    }
    let evidence = format!(
        "p95 of {} is over {P95_MAX_MS} ms, at most {p95} ms",
        text::count(spread.count(), "load")
    );
    Some(
        patient
            .finding(
                "rehydrate-slow",
                Severity::Warning,
                "loads are slow",
                evidence,
            )
            .because("the disk is slow, or the shard has too little of its core")
            .next(format!("keyway hot {} --by rehydrate-time", now.name))
            .next("keyway status"),
    )
}

fn old_keys(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let soft_ms = patient.listed.number("soft_ttl_ms")?;
    let age_ms = patient.now.oldest_served_age_ms;
    if age_ms <= soft_ms.saturating_mul(3) / 2 {
        return None;
    }
    let age = text::milliseconds(age_ms / 1_000 * 1_000);
    let evidence = format!(
        "a key {age} old was served; soft_ttl_ms is {}",
        text::milliseconds(soft_ms)
    );
    let finding = patient.finding(
        "old-keys-served",
        Severity::Warning,
        "old keys are served",
        evidence,
    );
    let finding = match patient.listed.text("on_soft_expiry") {
        Some("serve_stale") => finding.because(
            "on_soft_expiry is serve_stale, so callers do not wait for refreshes that are late",
        ),
        _ => finding.because("refreshes are late, and waits for them use up their budget"),
    };
    Some(
        finding
            .because_of(patient.case.last_change(patient.name(), "soft_ttl_ms"))
            .next("keyway kms list")
            .next(format!("keyway keyspace list {}", patient.now.name)),
    )
}
