//! The data key: locked, denied, asked for, about to end.

use super::{KeyspaceWindow, log_line};
use crate::doctor::{Finding, Severity};
use crate::text;
use crate::vitals::Keyspace;

/// The share of requests that may be answered NEEDS_UNLOCK.
const NEEDS_UNLOCK_MAX: f64 = 0.005;

pub fn examine(patient: &KeyspaceWindow<'_>, findings: &mut Vec<Finding>) {
    findings.extend(needs_unlock(patient));
    findings.extend(denied(patient));
    findings.extend(lease(patient));
}

fn needs_unlock(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let refused = patient.rise(|it| it.answered("needs_unlock"));
    let all = patient.rise(Keyspace::answered_in_all);
    let state = patient.now.state.as_str();
    let closed = state == "locked" || patient.stays("acquiring");
    if refused == 0 && !closed {
        return None;
    }
    let share = refused as f64 / all.max(1) as f64;
    let severity = match (share > NEEDS_UNLOCK_MAX, closed) {
        (true, _) => Severity::Critical,
        (false, true) => Severity::Warning,
        (false, false) => Severity::Note,
    };
    let (symptom, evidence) = match refused {
        0 => ("the keyspace is closed", format!("its state is {state}")),
        _ => (
            "callers are answered NEEDS_UNLOCK",
            format!(
                "{refused} of {} ({:.1}%), the limit is 0.5%; its state is {state}",
                text::count(all, "request"),
                share * 100.0
            ),
        ),
    };
    let why = patient.without_dek();
    let cause = why.unwrap_or_else(|| {
        "it has just been opened, or its lease ended while it was not in use".into()
    });
    let mut changed = None;
    if state == "locked" {
        changed = patient.case.last_change(patient.name(), "locked");
    }
    let finding = patient
        .finding("needs-unlock", severity, symptom, evidence)
        .because(cause)
        .because_of(changed);
    let finding = match state {
        "acquiring" => finding.next("keyway kms list").next(patient.unlock()),
        _ => finding.next(patient.unlock()),
    };
    Some(finding.next(patient.history()))
}

fn denied(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    if patient.now.state != "denied" {
        return None;
    }
    let kms = patient
        .listed
        .info
        .as_ref()
        .and_then(|info| info.kms.as_deref())
        .unwrap_or("of the keyspace");
    let symptom = "the KMS denies the keyspace its data key, and its keys are wiped";
    Some(
        patient
            .finding(
                "keyspace-denied",
                Severity::Critical,
                symptom,
                "its state is denied",
            )
            .because(match patient.trouble() {
                Some(trouble) => format!("KMS {}: {}; {}", kms, trouble.what, trouble.remedy),
                None => format!(
                    "KMS {kms}: its policy refuses this server, or the key there is disabled or deleted"
                ),
            })
            .because_of(patient.case.last_change(patient.name(), "kms"))
            .next("keyway kms list")
            .next(log_line("denied"))
            .next(patient.unlock()),
    )
}

/// A lease is renewed at half of its time: one that is asked for and does not come is in danger.
fn lease(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let left_s = patient.now.dek_lease_left_s;
    let lease_s = patient.listed.number("dek_lease_ms")? as f64 / 1_000.0;
    let came = left_s > patient.before.dek_lease_left_s;
    if left_s <= 0.0 || came || !patient.stays("renewing") || left_s >= lease_s / 2.0 {
        return None;
    }
    let severity = match left_s < lease_s / 4.0 {
        true => Severity::Critical,
        false => Severity::Warning,
    };
    let trouble = patient.trouble();
    let evidence = format!(
        "{} left of {}, and the KMS {}",
        text::seconds(left_s as u64),
        text::seconds(lease_s as u64),
        match trouble {
            Some(trouble) => format!("does not renew it: {}", trouble.cause),
            None => "has not answered".to_owned(),
        }
    );
    Some(
        patient
            .finding(
                "lease-not-renewed",
                severity,
                "the lease is not renewed",
                evidence,
            )
            .because(match trouble {
                Some(trouble) => format!("{}; {}", trouble.what, trouble.remedy),
                None => "the KMS is unreachable, slow, or out of budget".to_owned(),
            })
            .because("when the lease ends, the keys are wiped and callers get NEEDS_UNLOCK")
            .next("keyway kms list")
            .next(format!("keyway unlock {} --retry", patient.name())),
    )
}
