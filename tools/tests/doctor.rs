//! `keyway doctor` against a server with scripted figures: what it says and how it ends. Its rules
//! have their own tests.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

#[allow(dead_code, reason = "each test file uses its part")]
mod support;

use serde_json::Value;

use support::status::{healthy, sequence, starved};
use support::{Server, State};

fn server(statuses: Vec<String>) -> Server {
    Server::with(State {
        statuses,
        ..State::default()
    })
}

#[test]
fn a_finding_is_told_with_its_figures_its_cause_and_the_next_command() {
    let output = server(sequence(starved)).keyway("doctor prod --watch-for 2s");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let (finding, summary) = text.rsplit_once("\n\n").unwrap();
    let lines: Vec<&str> = finding.lines().collect();
    assert_eq!(
        lines[0],
        "WARNING   prod: the prefetcher is starved: it passes over keys that are due"
    );
    assert!(
        lines[1].starts_with("  seen    prefetch_skipped_total rose by "),
        "{text}"
    );
    assert_eq!(
        lines[2..],
        [
            "  likely  max_in_flight is 64, and so many refreshes are under way; each pass counts \
             what it leaves",
            "          max_in_flight went back to 64 by itself 2 minutes ago (before: 256)",
            "  next    keyway keyspace set prod max_in_flight=256 --for 15m",
            "          keyway keyspace list prod",
            "  more    docs/RUNBOOK.md#prefetch-starved",
        ]
    );
    assert!(summary.starts_with("1 warning; watched "), "{text}");
    assert!(
        summary.ends_with(": 1 keyspace, 2 shards and 1 KMS\n"),
        "{text}"
    );
}

#[test]
fn scripts_get_the_findings_as_one_document() {
    let output = server(sequence(starved)).keyway("doctor --watch-for 2s --json");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"", "no progress where nobody sees it");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = document["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{document}");
    let finding = &findings[0];
    assert_eq!(finding["id"], "prefetch-starved");
    assert_eq!(finding["severity"], "warning");
    assert_eq!(finding["keyspace"], "prod");
    assert_eq!(finding["shard"], Value::Null);
    assert_eq!(finding["runbook"], "docs/RUNBOOK.md#prefetch-starved");
    let next = "keyway keyspace set prod max_in_flight=256 --for 15m";
    assert_eq!(finding["next"][0], next);
    let says = finding["says"].as_str().unwrap();
    assert!(
        says.starts_with("prod: the prefetcher is starved"),
        "{says}"
    );
    assert!(document["samples"].as_u64() >= Some(3), "{document}");
    assert_eq!(document["not_asked"], Value::Array(Vec::new()));
}

#[test]
fn nothing_found_ends_with_0() {
    let output = server(sequence(healthy)).keyway("doctor --watch-for 2s");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("nothing found; watched "), "{text}");
}

#[test]
fn what_may_not_be_asked_is_named_and_done_without() {
    let server = Server::with(State {
        statuses: sequence(starved),
        reticent: true,
        ..State::default()
    });
    let output = server.keyway("doctor prod --watch-for 2s");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("max_in_flight is 64"), "{text}");
    assert!(
        text.contains("NOT ASKED keyspace history prod: not allowed"),
        "{text}"
    );
}

#[test]
fn a_keyspace_that_is_not_there_and_a_glance_that_is_too_short_are_refused() {
    let server = server(sequence(healthy));
    let output = server.keyway("doctor nowhere");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    for time in ["1s", "11m"] {
        let output = server.keyway(&format!("doctor --watch-for {time}"));
        assert_eq!(output.status.code(), Some(2), "{time}");
    }
}
