//! The prefetcher: starved, or stopped.

use super::{KeyspaceWindow, watched};
use crate::doctor::{Finding, Severity};

/// The most that `max_in_flight` may be.
const IN_FLIGHT_MAX: u64 = 65_536;

pub fn examine(patient: &KeyspaceWindow<'_>, findings: &mut Vec<Finding>) {
    findings.extend(starved(patient));
    findings.extend(stopped(patient));
}

fn starved(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    let skipped = patient.rise(|it| it.prefetch_skipped_total);
    let total = patient.now.prefetch_skipped_total;
    let (severity, symptom, evidence) = match (skipped, total) {
        (0, 0) => return None,
        (0, _) => (
            Severity::Note,
            "the prefetcher has passed keys over since the start, none of them now",
            format!("prefetch_skipped_total is {total} and does not increase"),
        ),
        _ => (
            Severity::Warning,
            "the prefetcher is starved: it passes over keys that are due",
            patient.rose("prefetch_skipped_total", |it| it.prefetch_skipped_total),
        ),
    };
    let finding = patient.finding("prefetch-starved", severity, symptom, evidence);
    let finding = match patient.listed.number("max_in_flight") {
        // At 0 nothing is skipped: that is the other rule's matter.
        Some(limit) if skipped > 0 && limit > 0 => {
            let more = limit.saturating_mul(4).clamp(256, IN_FLIGHT_MAX);
            finding
                .because(format!(
                    "max_in_flight is {limit}, and that many refreshes are in progress; each pass \
                     counts what it leaves"
                ))
                .next(patient.set(&format!("max_in_flight={more} --for 15m")))
        }
        _ => finding,
    };
    let finding = match patient.without_dek() {
        Some(why) if skipped > 0 => finding.because(format!("refreshes do not end: {why}")),
        _ => finding,
    };
    let name = patient.name();
    Some(
        finding
            .because_of(patient.case.last_change(name, "max_in_flight"))
            .next(format!("keyway keyspace list {name}")),
    )
}

fn stopped(patient: &KeyspaceWindow<'_>) -> Option<Finding> {
    // Where the keyspace is closed there is nothing to refresh, and another rule says so.
    if matches!(patient.now.state.as_str(), "locked" | "denied") {
        return None;
    }
    let id = "prefetch-stopped";
    let severity = match patient.is_used() {
        true => Severity::Warning,
        false => Severity::Note,
    };
    if patient.listed.number("max_in_flight") == Some(0) {
        let because = patient.case.last_change(patient.name(), "max_in_flight");
        let finding = patient
            .finding(
                id,
                severity,
                "the prefetcher is switched off",
                "max_in_flight is 0",
            )
            .because_of(because)
            .because("keys soft-expire together now, and requests wait for their refreshes");
        let temporary = patient.listed.info.as_ref();
        let temporary = temporary.and_then(|info| info.overrides.get("max_in_flight"));
        return Some(
            match temporary {
                Some(temporary) => finding.because(format!(
                    "it reverts to {} automatically at {}",
                    temporary.then,
                    crate::text::moment(temporary.until_unix_ms)
                )),
                None => finding.next(patient.set("max_in_flight=64")),
            }
            .next(patient.history()),
        );
    }
    if !patient.is_used() {
        return None;
    }
    if patient.rise(|it| it.prefetch_scan_total) == 0 {
        let evidence = format!(
            "prefetch_scan_total has not increased for {}",
            watched(patient.change)
        );
        // Requests that need no key, as for one that does not exist, do not get a lease.
        let severity = match patient.now.state.as_str() {
            "idle" => Severity::Note,
            _ => severity,
        };
        let finding = patient.finding(id, severity, "the prefetcher does not run", evidence);
        return Some(
            match patient.now.dek_lease_left_s > 0.0 {
                true => finding.because("its shards are too busy to come to it, or hang"),
                false => finding.because("no lease is held, so there is nothing to refresh with"),
            }
            .next("keyway kms list")
            .next("keyway status"),
        );
    }
    // Stale keys are served, and none was refreshed ahead.
    let stale = patient.rise(|it| it.answered("ok_stale"));
    if stale == 0 || patient.rise(|it| it.prefetch_trigger_total) > 0 {
        return None;
    }
    let evidence = format!(
        "{stale} answers with stale keys in {}, and prefetch_trigger_total does not increase",
        watched(patient.change)
    );
    let of = |setting: &str| patient.listed.text(setting).unwrap_or("unknown").to_owned();
    let changed = ["refresh_window_ms", "low_water_pct", "soft_ttl_ms"];
    let changed = changed.map(|setting| patient.case.last_change(patient.name(), setting));
    let symptom = "keys soft-expire, and the prefetcher starts nothing";
    Some(
        patient
            .finding(id, severity, symptom, evidence)
            .because(format!(
                "it refreshes ahead what expires within refresh_window_ms, which is {} \
                 (soft_ttl_ms {}, low_water_pct {}): too short for the rate at which keys are used?",
                of("refresh_window_ms"),
                of("soft_ttl_ms"),
                of("low_water_pct")
            ))
            .because_of(changed.into_iter().flatten())
            .next(patient.set("refresh_window_ms=auto low_water_pct=5"))
            .next(patient.history()),
    )
}
