//! The KMSes.

use super::{log_line, watched};
use crate::doctor::{Evidence, Finding, Severity, Subject};
use crate::text;
use crate::unlocking;
use crate::vitals::Kms;

/// Ends of calls that say that no more may be made.
const OUT_OF_BUDGET: [&str; 2] = ["over_budget", "throttled"];

pub fn examine(case: &Evidence, findings: &mut Vec<Finding>) {
    let change = case.change();
    for now in &change.now.kms {
        let mut earlier = change.before.kms.iter();
        let before = earlier.find(|before| before.name == now.name);
        findings.extend(trouble(case, now));
        findings.extend(locked(case, now));
        findings.extend(headroom(case, before, now));
    }
}

fn finding(
    kms: &Kms,
    id: &'static str,
    severity: Severity,
    symptom: &str,
    evidence: String,
) -> Finding {
    let subject = Subject::Kms(kms.name.clone());
    Finding::new(id, severity, subject, symptom, evidence)
}

/// What the provider says is wrong; without its words, what the breaker shows.
fn trouble(case: &Evidence, kms: &Kms) -> Option<Finding> {
    let Some(trouble) = &kms.trouble else {
        return breaker(case, kms);
    };
    if trouble.over {
        let evidence = format!("{}, until less than 15 min ago", trouble.cause);
        let symptom = "the KMS did not unwrap data keys, and does again";
        let past = finding(kms, "kms-breaker-open", Severity::Note, symptom, evidence);
        return Some(
            past.because(trouble.what.clone())
                .next(log_line("unwrap failed")),
        );
    }
    let evidence = format!(
        "{} of {}; its breaker is {}",
        trouble.cause,
        text::count(trouble.keyspaces, "keyspace"),
        kms.breaker
    );
    Some(
        finding(
            kms,
            "kms-breaker-open",
            Severity::Warning,
            "the KMS does not unwrap data keys",
            evidence,
        )
        .because(trouble.what.clone())
        .because(trouble.remedy.clone())
        .because_of(first_to_end(case, kms))
        .next("keyway kms list")
        .next(log_line("unwrap failed")),
    )
}

fn breaker(case: &Evidence, kms: &Kms) -> Option<Finding> {
    if !matches!(kms.breaker.as_str(), "open" | "half-open") {
        return None;
    }
    let evidence = format!("its breaker is {}", kms.breaker);
    Some(
        finding(
            kms,
            "kms-breaker-open",
            Severity::Warning,
            "the KMS fails, and is asked by one probe at a time",
            evidence,
        )
        .because("it cannot be reached, or answers with errors")
        .because_of(first_to_end(case, kms))
        .next("keyway kms list")
        .next(log_line("KMS")),
    )
}

/// Which of its keyspaces loses its lease first.
fn first_to_end(case: &Evidence, kms: &Kms) -> Option<String> {
    let keyspaces = case.change().now.keyspaces.iter();
    let of_kms = keyspaces.filter(|keyspace| {
        let info = case.of(&keyspace.name).info.as_ref();
        info.is_some_and(|info| info.kms.as_deref() == Some(&kms.name))
    });
    let held = of_kms.filter(|keyspace| keyspace.dek_lease_left_s > 0.0);
    let first = held.min_by(|one, two| one.dek_lease_left_s.total_cmp(&two.dek_lease_left_s))?;
    Some(format!(
        "keys are served until the leases end: the first is that of {}, in {}",
        first.name,
        text::seconds(first.dek_lease_left_s as u64)
    ))
}

fn locked(case: &Evidence, kms: &Kms) -> Option<Finding> {
    let symptom = match (kms.state.as_str(), kms.need.as_str()) {
        ("locked", "passphrase") => "the KMS waits for a passphrase",
        ("locked", "pin") => "the KMS waits for a PIN",
        ("locked", "shares") => "the KMS waits for shares: each holder of one gives it",
        ("locked", _) => "the KMS is locked, and waits for an operator",
        ("uninitialised", _) => "the KMS has no key yet",
        _ => return None,
    };
    let command = unlocking::of_kms(&kms.name, &kms.need);
    let evidence = format!("its state is {}", kms.state);
    Some(
        finding(kms, "kms-locked", Severity::Warning, symptom, evidence)
            .because("it has not been opened since the server started, or an operator locked it")
            .because_of(first_to_end(case, kms))
            .next(command)
            .next("keyway kms list"),
    )
}

fn headroom(case: &Evidence, before: Option<&Kms>, now: &Kms) -> Option<Finding> {
    let refused = |kms: &Kms| -> u64 {
        let calls = kms.calls.iter();
        let refused = calls.filter(|calls| OUT_OF_BUDGET.contains(&calls.outcome.as_str()));
        text::sum(refused.map(|calls| calls.count))
    };
    let rise = refused(now).saturating_sub(before.map_or(0, refused));
    let empty = case.samples.iter().all(|sample| {
        let mut kmses = sample.kms.iter();
        kmses.any(|kms| kms.name == now.name && kms.rate_tokens < 1.0)
    });
    if rise == 0 && !empty {
        return None;
    }
    let evidence = format!(
        "{} refused by the budget or throttled in {}; {:.1} calls could be made at once, {:.0} an \
         hour are needed",
        text::count(rise, "call"),
        watched(case.change()),
        now.rate_tokens,
        now.calls_per_hour_forecast
    );
    Some(
        finding(
            now,
            "kms-headroom",
            Severity::Warning,
            "the budget of calls is used up",
            evidence,
        )
        .because("leases are short, keyspaces many, or the KMS allows less than rate_per_s says")
        .next("keyway status")
        .next("keyway keyspace list"),
    )
}
