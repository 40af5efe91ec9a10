//! `doctor`: watches the server, asks what else the rules want to know, and says what they find.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use keyway_client::{HotBy, KeyspaceInfo, KeyspaceName};
use serde_json::json;

use super::figures;
use crate::args::{Cli, Doctor};
use crate::connect::Server;
use crate::doctor::{Evidence, Finding, KeyspaceDetails, Severity, rules};
use crate::failure::{Exit, Failure};
use crate::output::Output;
use crate::printable::Lines;
use crate::text;
use crate::vitals::ServerStatus;

/// How often the status is queried: as often as shards publish their metrics.
const SAMPLE_PERIOD: Duration = Duration::from_secs(1);

/// How many keyspaces are looked at closely, at most.
const CLOSELY_MAX: usize = 32;

/// How many findings of one kind are shown in full, at most: an outage of one KMS is a finding for each of its keyspaces.
const ALIKE_MAX: usize = 4;

/// How many subjects of the others are named, at most.
const NAMED_MAX: usize = 8;

/// How many hot keys of each are asked for.
const HOT_KEYS: u16 = 5;

pub fn run(cli: &Cli, command: &Doctor, output: Output) -> Result<Exit, Failure> {
    let server = Server::reach(cli)?;
    let samples = watch(&server, command)?;
    let mut case = Evidence {
        samples,
        listed: BTreeMap::new(),
    };
    let skipped = ask(&server, &mut case);
    let findings = rules::examine(&case);
    let document = json!({
        "findings": findings.iter().map(Finding::document).collect::<Vec<_>>(),
        "duration_s": case.change().seconds(),
        "samples": case.samples.len(),
        "skipped": skipped,
    });
    output.print_result(&document, &render(&case, &findings, &skipped))?;
    let calm = findings
        .iter()
        .all(|finding| finding.severity == Severity::Note);
    Ok(if calm { Exit::Done } else { Exit::Refused })
}

/// Returns the status documents of the requested time.
fn watch(server: &Server, command: &Doctor) -> Result<Vec<ServerStatus>, Failure> {
    let style = "{spinner} doctor: watching the counters {elapsed} [{bar:20}] {msg}";
    let style = ProgressStyle::with_template(style).expect("the template is well-formed");
    let period_ms = command.duration.as_millis() as u64;
    let progress = ProgressBar::new(period_ms).with_style(style);
    let started = Instant::now();
    let mut samples = vec![sample(server, command)?];
    loop {
        let left = command.duration.saturating_sub(started.elapsed());
        if left.is_zero() {
            progress.finish_and_clear();
            return Ok(samples);
        }
        thread::sleep(left.min(SAMPLE_PERIOD));
        samples.push(sample(server, command)?);
        progress.set_position(period_ms.min(started.elapsed().as_millis() as u64));
        progress.set_message(text::count(samples.len() as u64, "sample"));
    }
}

fn sample(server: &Server, command: &Doctor) -> Result<ServerStatus, Failure> {
    let mut vitals = figures::vitals(server, "doctor")?;
    if let Some(only) = &command.keyspace {
        let keyspaces = &mut vitals.keyspaces;
        keyspaces.retain(|keyspace| keyspace.name == only.as_str());
        if keyspaces.is_empty() {
            return Err(Failure::refused(
                format!("doctor: the server has no metrics of a keyspace {only}"),
                "see `keyway keyspace list`",
            ));
        }
    }
    Ok(vitals)
}

/// Queries settings, hot keys and changes. Returns what was refused, as text: the rules work without it.
fn ask(server: &Server, case: &mut Evidence) -> Vec<String> {
    let mut skipped = Vec::new();
    let infos = server.call("settings", None, |client| client.keyspace_list());
    let mut infos: BTreeMap<String, KeyspaceInfo> = match infos {
        Ok(infos) => infos
            .into_iter()
            .map(|info| (info.name.clone(), info))
            .collect(),
        Err(failure) => {
            skipped.push(failure.to_string());
            BTreeMap::new()
        }
    };
    let closely = case.busiest();
    if closely.len() > CLOSELY_MAX {
        let more = closely.len() - CLOSELY_MAX;
        let words = "hot keys and history of the others; name one to have it looked at closely";
        skipped.push(format!("{}: {words}", text::count(more as u64, "keyspace")));
    }
    for (rank, name) in closely.into_iter().enumerate() {
        let mut listed = KeyspaceDetails {
            info: infos.remove(&name),
            ..KeyspaceDetails::default()
        };
        if let (true, Ok(name)) = (rank < CLOSELY_MAX, name.parse::<KeyspaceName>()) {
            look_closely(server, &name, &mut listed, &mut skipped);
        }
        case.listed.insert(name, listed);
    }
    skipped
}

fn look_closely(
    server: &Server,
    name: &KeyspaceName,
    listed: &mut KeyspaceDetails,
    skipped: &mut Vec<String>,
) {
    let hot = |by| {
        let doing = format!("hot {name} --by {by}");
        let call = server.call(&doing, Some(name.as_str()), |client| {
            client.keyspace_hot(name, by, HOT_KEYS)
        });
        call.map(|answer| answer.value)
    };
    let doing = format!("keyspace history {name}");
    let changes = server.call(&doing, Some(name.as_str()), |client| {
        client.keyspace_history(name)
    });
    let mut note = |failure: Failure| skipped.push(failure.to_string());
    listed.hot = hot(HotBy::Requests).map_err(&mut note).ok();
    listed.waited_for = hot(HotBy::Waiters).map_err(&mut note).ok();
    listed.changes = changes
        .map_err(&mut note)
        .map_or_else(|()| Vec::new(), |it| it.value.changes);
}

fn render(case: &Evidence, findings: &[Finding], skipped: &[String]) -> Lines {
    let mut text = paragraphs(findings);
    for words in skipped {
        text.push(format!("{:<10}{words}", "SKIPPED"));
    }
    if !skipped.is_empty() {
        text.push("");
    }
    let now = case.change().now;
    let scope = format!(
        "watched {} for {:.0} s: {}, {} and {}",
        text::count(case.samples.len() as u64, "status document"),
        case.change().seconds(),
        text::count(now.keyspaces.len() as u64, "keyspace"),
        text::count(now.shards.len() as u64, "shard"),
        match now.kms.len() {
            1 => "1 KMS".into(),
            count => format!("{count} KMSes"),
        },
    );
    let of = |severity| findings.iter().filter(|it| it.severity == severity).count() as u64;
    let counts = [
        (of(Severity::Critical), "critical finding"),
        (of(Severity::Warning), "warning"),
        (of(Severity::Note), "note"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts
        .map(|(count, noun)| text::count(*count, noun))
        .collect();
    let verdict = match counts.is_empty() {
        true => "nothing found".into(),
        false => counts.join(", "),
    };
    text.push(format!("{verdict}; {scope}"));
    text
}

/// The findings, of each kind the first ones in full and the others together.
fn paragraphs(findings: &[Finding]) -> Lines {
    let mut alike: BTreeMap<(&str, Severity), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        alike
            .entry((finding.id, finding.severity))
            .or_default()
            .push(finding);
    }
    let mut text = Lines::default();
    for finding in findings {
        let of_kind = &alike[&(finding.id, finding.severity)];
        let at = of_kind
            .iter()
            .position(|other| std::ptr::eq(*other, finding));
        match at {
            Some(at) if at < ALIKE_MAX => text.append(&paragraph(finding)),
            Some(ALIKE_MAX) => text.append(&together(&of_kind[ALIKE_MAX..])),
            _ => {}
        }
    }
    text
}

/// ```text
/// CRITICAL  196 more: the keyspace needs to be unlocked
///   of        shop-104, shop-105, …
/// ```
fn together(findings: &[&Finding]) -> Lines {
    let heading = findings[0].severity.heading();
    let (count, symptom) = (findings.len(), &findings[0].symptom);
    let named: Vec<String> = findings
        .iter()
        .take(NAMED_MAX)
        .map(|it| it.place())
        .collect();
    let rest = if count > NAMED_MAX { ", …" } else { "" };
    let mut text = Lines::of(format!("{heading:<10}{count} more: {symptom}"));
    text.push(format!("  {:<10}{}{rest}", "of", named.join(", ")));
    text.push(format!("  {:<10}keyway doctor KEYSPACE", "run"));
    text.push("");
    text
}

/// ```text
/// WARNING   prod: keys …
///   evidence  prefetch_skipped_total rose by …
///   cause     max_in_flight is …
///   run       keyway keyspace set …
///   see       docs/RUNBOOK.md#prefetch-starved
/// ```
fn paragraph(finding: &Finding) -> Lines {
    let heading = finding.severity.heading();
    let place = finding.place();
    let mut text = Lines::of(format!("{heading:<10}{place}: {}", finding.symptom));
    let mut lines = |label: &str, lines: &[String]| {
        for (at, line) in lines.iter().enumerate() {
            let label = if at == 0 { label } else { "" };
            text.push(format!("  {label:<10}{line}"));
        }
    };
    lines("evidence", std::slice::from_ref(&finding.evidence));
    lines("cause", &finding.causes);
    lines("run", &finding.next);
    lines("see", &[finding.runbook()]);
    text.push("");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Subject;

    /// An outage of 200 keyspaces was 1,600 lines, with the KMS's own finding at their end.
    #[test]
    fn findings_of_one_kind_are_shown_together_behind_the_first_ones() {
        let of = |index: usize| {
            let subject = Subject::Keyspace(format!("shop-{index}"));
            Finding::new(
                "needs-unlock",
                Severity::Critical,
                subject,
                "it is closed",
                "none",
            )
        };
        let mut findings: Vec<Finding> = (0..200).map(of).collect();
        let kms = Subject::Kms("bao".into());
        findings.push(Finding::new(
            "kms-breaker-open",
            Severity::Warning,
            kms,
            "it fails",
            "none",
        ));
        let text = paragraphs(&findings);
        let text = text.as_str();
        assert!(text.lines().count() < 40, "{text}");
        assert!(
            text.contains("CRITICAL  196 more: it is closed\n"),
            "{text}"
        );
        assert!(text.contains("  of        shop-4, shop-5, "), "{text}");
        assert!(text.contains("KMS bao: it fails"), "{text}");
        let few = paragraphs(&findings[..ALIKE_MAX]);
        let few = few.as_str();
        assert!(!few.contains(" more: "), "{few}");
    }
}
