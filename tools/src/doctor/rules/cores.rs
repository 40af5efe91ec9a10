//! The shards and what they stand on.

use super::{log_line, watched};
use crate::doctor::{Evidence, Finding, Severity, Subject};
use crate::text;
use crate::vitals::{Change, Shard};

/// The share of its time that a shard may spend in turns.
const BUSY_MAX: f64 = 0.8;

/// The utilisation at which a shard that is far busier than the others is reported.
const UNEQUAL_MIN: f64 = 0.5;

/// p99 of turns, in ms.
const TURN_P99_MAX_MS: f64 = 10.0;

/// A quarter of what fits.
const SLOW_QUEUE_MAX: u64 = 1_024;
const PARKED_MAX: u64 = 16_384;

/// The share of its locked memory that a shard may use.
const ARENA_MAX: f64 = 0.95;

pub fn examine(case: &Evidence, findings: &mut Vec<Finding>) {
    let change = case.change();
    let busy: Vec<(u16, f64)> = change
        .shards()
        .map(|(before, now)| (now.shard, busy(change, &before, now)))
        .collect();
    for (before, now) in change.shards() {
        findings.extend(saturated(case, &before, now, &busy));
        findings.extend(stale(change, &before, now));
        findings.extend(poisoned(now));
        findings.extend(panics(change, &before, now));
        findings.extend(arena(now));
        findings.extend(starting(&before, now));
    }
    findings.extend(overloaded(change));
    findings.extend(evictions(change));
}

fn finding(
    shard: &Shard,
    id: &'static str,
    severity: Severity,
    symptom: &str,
    evidence: String,
) -> Finding {
    Finding::new(id, severity, Subject::Shard(shard.shard), symptom, evidence)
}

/// The share of its time that a shard spent in turns.
fn busy(change: Change<'_>, before: &Shard, now: &Shard) -> f64 {
    let ms = change.spread(&before.turn_ms, &now.turn_ms).sum_ms;
    (ms / 1_000.0 / change.seconds()).min(1.0)
}

fn saturated(case: &Evidence, before: &Shard, now: &Shard, all: &[(u16, f64)]) -> Option<Finding> {
    let change = case.change();
    let mine = all.iter().find(|(shard, _)| *shard == now.shard);
    let mine = mine.map_or(0.0, |(_, busy)| *busy);
    let others: Vec<f64> = all
        .iter()
        .filter(|(shard, _)| *shard != now.shard)
        .map(|(_, busy)| *busy)
        .collect();
    let mean = others.iter().sum::<f64>() / others.len().max(1) as f64;
    let unequal = !others.is_empty() && mine > UNEQUAL_MIN && mine > 2.0 * mean;
    let turns = change.spread(&before.turn_ms, &now.turn_ms);
    let p99 = turns.quantile_ms(0.99).filter(|p99| *p99 > TURN_P99_MAX_MS);
    let refused = now
        .forwards_refused_total
        .saturating_sub(before.forwards_refused_total);
    let mut evidence = Vec::new();
    if mine > BUSY_MAX || unequal {
        let rest = match others.is_empty() {
            true => String::new(),
            false => format!(" (the others: {:.0}%)", mean * 100.0),
        };
        evidence.push(format!("{:.0}% of its time in turns{rest}", mine * 100.0));
    }
    if let Some(p99) = p99 {
        evidence.push(format!(
            "p99 of its turns is at most {p99} ms, the limit is 10 ms"
        ));
    }
    if now.slow_queue_depth > SLOW_QUEUE_MAX {
        evidence.push(format!(
            "{} operations in the slow lane",
            now.slow_queue_depth
        ));
    }
    if now.parked_requests > PARKED_MAX {
        evidence.push(format!("{} parked requests", now.parked_requests));
    }
    if refused > 0 {
        evidence.push(format!("{refused} forwards refused in {}", watched(change)));
    }
    if evidence.is_empty() {
        return None;
    }
    let symptom = match unequal {
        true => "the shard does far more than the others",
        false => "the shard is saturated",
    };
    let finding = finding(
        now,
        "shard-saturated",
        Severity::Warning,
        symptom,
        evidence.join("; "),
    );
    let finding = match hottest_on(case, now.shard) {
        Some((keyspace, words)) => finding
            .because(words)
            .next(format!("keyway hot {keyspace}")),
        None if now.slow_queue_depth > SLOW_QUEUE_MAX => {
            finding.because("RSA operations arrive faster than they can be processed")
        }
        None => finding.because("more requests than a core can do: add shards or machines"),
    };
    let forwarded = now
        .forwards_in_total
        .saturating_sub(before.forwards_in_total);
    let finding = match forwarded {
        0 => finding,
        _ => finding.because(format!(
            "{forwarded} requests came over other shards; clients that know the shards spare that"
        )),
    };
    Some(finding.next("keyway top"))
}

/// The key with the most requests of those that the shard owns.
fn hottest_on(case: &Evidence, shard: u16) -> Option<(&str, String)> {
    let keys = case.listed.iter().flat_map(|(name, listed)| {
        let keys = listed.hot.iter().flat_map(|hot| &hot.keys);
        keys.map(move |key| (name.as_str(), key))
    });
    let of_shard = keys.filter(|(_, key)| key.shard == shard);
    let (name, key) = of_shard.max_by_key(|(_, key)| key.requests.count)?;
    let words = format!(
        "its hottest key is {name}/{} with {} requests in the last minutes",
        key.key, key.requests.count
    );
    Some((name, words))
}

fn stale(change: Change<'_>, before: &Shard, now: &Shard) -> Option<Finding> {
    if now.turn_ms.count == 0 || now.turn_ms.count != before.turn_ms.count {
        return None;
    }
    let evidence = format!(
        "no turn in {}; even an idle shard takes hundreds a second",
        watched(change)
    );
    Some(
        finding(
            now,
            "shard-unresponsive",
            Severity::Critical,
            "the shard is silent",
            evidence,
        )
        .because("it hangs, or its core is taken: its keys are not served")
        .next("curl -s http://127.0.0.1:9420/healthz")
        .next(log_line("shard")),
    )
}

fn poisoned(now: &Shard) -> Option<Finding> {
    now.store_poisoned.then(|| {
        let symptom = "its blob log takes no more writes; reads go on";
        finding(
            now,
            "store-poisoned",
            Severity::Critical,
            symptom,
            "store_poisoned is true".into(),
        )
        .because("a write or a sync failed: the disk is full or broken")
        .next("df -h /var/lib/keyway")
        .next(log_line("store"))
    })
}

fn panics(change: Change<'_>, before: &Shard, now: &Shard) -> Option<Finding> {
    let rise = now.panics_total.saturating_sub(before.panics_total);
    let severity = match (rise, now.panics_total) {
        (_, 0) => return None,
        (0, _) => Severity::Note,
        _ => Severity::Warning,
    };
    let evidence = format!(
        "{} since the start, {rise} in {}",
        now.panics_total,
        watched(change)
    );
    Some(
        finding(now, "panics", severity, "a handler has panicked", evidence)
            .because("a bug: one request was lost each time, the shard goes on; please report it")
            .next(log_line("panic")),
    )
}

fn arena(now: &Shard) -> Option<Finding> {
    let share = now.arena_used_bytes as f64 / now.arena_capacity_bytes.max(1) as f64;
    if share <= ARENA_MAX {
        return None;
    }
    let evidence = format!(
        "{} of {} in use",
        text::bytes(now.arena_used_bytes),
        text::bytes(now.arena_capacity_bytes)
    );
    Some(
        finding(
            now,
            "arena-full",
            Severity::Note,
            "its locked memory is nearly full",
            evidence,
        )
        .because("more keys are used than fit; keys will be dropped and loaded again")
        .next("keyway status"),
    )
}

fn evictions(change: Change<'_>) -> Vec<Finding> {
    let keyspaces = change.keyspaces().filter_map(|(before, now)| {
        let rise = now.evicted_total.saturating_sub(before.evicted_total);
        (rise > 0).then(|| {
            let evidence = format!("keyway_evicted_total rose by {rise} in {}", watched(change));
            let symptom =
                "keys are evicted because the arena is full, and reloaded when they are used";
            let subject = Subject::Keyspace(now.name.clone());
            Finding::new("arena-full", Severity::Warning, subject, symptom, evidence)
                .because("more keys are used than --arena-mib has room for")
                .next("keyway status")
                .next(format!("keyway hot {} --by rehydrate-time", now.name))
        })
    });
    keyspaces.collect()
}

fn starting(before: &Shard, now: &Shard) -> Option<Finding> {
    if !now.serving {
        let symptom = "the shard does not serve yet: it reads its blob log";
        let finding = finding(
            now,
            "warm-start",
            Severity::Warning,
            symptom,
            "serving is false".into(),
        );
        return Some(finding.next("curl -s http://127.0.0.1:9420/readyz"));
    }
    if now.warm_start_settled || now.warm_start_keys_left == 0 {
        return None;
    }
    let stuck = now.warm_start_keys_left == before.warm_start_keys_left;
    let (severity, symptom) = match stuck {
        true => (Severity::Warning, "the warm start does not go on"),
        false => (Severity::Note, "the warm start goes on"),
    };
    let evidence = format!(
        "{} keys that were hot are yet to be loaded",
        now.warm_start_keys_left
    );
    let finding = finding(now, "warm-start", severity, symptom, evidence);
    Some(match stuck {
        true => finding
            .because("their keyspaces are locked or without data key, or there is no room")
            .next("keyway status"),
        false => finding,
    })
}

fn overloaded(change: Change<'_>) -> Vec<Finding> {
    let keyspaces = change.keyspaces().filter_map(|(before, now)| {
        let rise = now
            .answered("overloaded")
            .saturating_sub(before.answered("overloaded"));
        (rise > 0).then(|| {
            let evidence = format!("{rise} requests in {}", watched(change));
            let symptom = "callers are answered OVERLOADED";
            let subject = Subject::Keyspace(now.name.clone());
            Finding::new(
                "shard-saturated",
                Severity::Warning,
                subject,
                symptom,
                evidence,
            )
            .because("a queue is full: the slow lane, the parked requests, or the mesh")
            .next("keyway top")
            .next(format!("keyway hot {}", now.name))
        })
    });
    keyspaces.collect()
}
