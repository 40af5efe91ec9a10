//! `keyway doctor` and `keyway top` against a server with scripted metrics: what they print and how
//! they end. The doctor's rules and the drawing have their own tests.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::process::Output;

use serde_json::{Value, json};

use support::Server;

/// The metrics of a healthy server after that many seconds.
fn healthy(seconds: u64) -> Value {
    let turns = |number: u64| {
        json!({
            "shard": number, "serving": true, "warm_start_settled": true, "connections": 3,
            "forwards_in_total": 10 * number * seconds, "parked_requests": number,
            "turn_ms": {"count": 1_000 * seconds, "sum": 100 * seconds, "p95": 0.1,
                        "buckets": [900 * seconds, 100 * seconds, 0, 0]},
            "arena_used_bytes": 524_288, "arena_capacity_bytes": 1_048_576,
        })
    };
    json!({
        "version": "0.1.0", "pid": 7, "unix_ms": 1_795_653_420_000_u64 + 1_000 * seconds,
        "shard_count": 2, "latency_bounds_ms": [0.1, 1.0, 2.0],
        "kms": [{
            "name": "local", "provider": "local", "state": "unlocked", "breaker": "closed",
            "calls_in_flight": 0, "rate_tokens": 10, "calls_per_hour_forecast": 2.0, "calls": [],
        }],
        "keyspaces": [
            {
                "name": "prod", "state": "live", "dek_lease_left_s": 3_000 - seconds,
                "resident_keys": 3, "hits": 990 * seconds, "misses": 10 * seconds,
                "flights": 1, "singleflight_waiters": 2, "rehydrate_total": 10 * seconds,
                "rehydrate_latency_ms": {"count": 10 * seconds, "p95": 0.2,
                                         "buckets": [0, 10 * seconds, 0, 0]},
                "prefetch_scan_total": 100 * seconds, "prefetch_trigger_total": 9 * seconds,
                "requests": [{"operation": "sign", "outcome": "ok", "count": 1_000 * seconds}],
            },
            {
                "name": "staging", "state": "idle", "requests": [],
                "rehydrate_latency_ms": {"count": 0, "buckets": []},
            },
        ],
        "shards": [turns(0), turns(1)],
    })
}

/// Prefetcher starved.
fn starved(seconds: u64) -> Value {
    let mut status = healthy(seconds);
    status["keyspaces"][0]["prefetch_skipped_total"] = json!(500 * seconds);
    status
}

fn sequence(status: impl Fn(u64) -> Value) -> Vec<String> {
    (1..=6).map(|seconds| status(seconds).to_string()).collect()
}

fn server(statuses: Vec<String>) -> Server {
    let server = Server::start();
    server.state.lock().unwrap().statuses = statuses;
    server
}

fn text(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

#[test]
fn a_finding_is_told_with_its_figures_its_cause_and_the_next_command() {
    let output = server(sequence(starved)).keyway("doctor prod --duration 2s");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let (finding, summary) = text.rsplit_once("\n\n").unwrap();
    let lines: Vec<&str> = finding.lines().collect();
    assert_eq!(
        lines[0],
        "WARNING   prod: the prefetcher is starved: it passes over keys that are due"
    );
    assert!(
        lines[1].starts_with("  evidence  prefetch_skipped_total rose by "),
        "{text}"
    );
    assert_eq!(
        lines[2..],
        [
            "  cause     max_in_flight is 64, and that many refreshes are in progress; each pass counts \
             what it leaves",
            "            max_in_flight reverted to 64 automatically 2 minutes ago (before: 256)",
            "  run       keyway keyspace set prod max_in_flight=256 --for 15m",
            "            keyway keyspace list prod",
            "  see       docs/RUNBOOK.md#prefetch-starved",
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
    let output = server(sequence(starved)).keyway("doctor --duration 2s --json");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"", "no progress bar without a terminal");
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
    let words = finding["text"].as_str().unwrap();
    assert!(
        words.starts_with("prod: the prefetcher is starved"),
        "{words}"
    );
    assert!(document["samples"].as_u64() >= Some(2), "{document}");
    assert_eq!(document["skipped"], Value::Array(Vec::new()));
}

#[test]
fn nothing_found_ends_with_0() {
    let output = server(sequence(healthy)).keyway("doctor --duration 2s");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.starts_with("nothing found; watched "), "{text}");
}

#[test]
fn what_may_not_be_asked_is_named_and_done_without() {
    let server = server(sequence(starved));
    server.state.lock().unwrap().reticent = true;
    let output = server.keyway("doctor prod --duration 2s");
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("max_in_flight is 64"), "{text}");
    assert!(
        text.contains("SKIPPED   keyspace history prod: not allowed"),
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
        let output = server.keyway(&format!("doctor --duration {time}"));
        assert_eq!(output.status.code(), Some(2), "{time}");
    }
}

#[test]
fn one_frame_is_text_with_the_figures_of_the_time_between() {
    let output = server(sequence(healthy)).keyway("top --once --interval 10ms");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output),
        "\
keywayd 0.1.0, pid 7, 2 keyspaces, 2 shards, ordered by requests
KMS local (local): unlocked, breaker closed, 0 calls in flight, 10 more at once, 2 an hour needed

KEYSPACE  STATE   LEASE LEFT  REQ/S    HITS  WAITERS  TIMEOUTS/S  FLIGHTS  LOADS/S  LOAD P95 MS  SKIPPED/S
prod      live   49 min 58 s   1000  99.00%        2           0        1       10          <=1          0
staging   idle             -      0       -        0           0        0        0            -          0

SHARD  TURNS/S  BUSY  TURN P99 MS  CONNECTIONS  FORWARDS/S  PARKED  LOADS QUEUED  SLOW QUEUE
    0     1000   10%          <=1            3           0       0             0           0
    1     1000   10%          <=1            3          10       1             0           0

prod:
HOT KEY    SHARD  REQ/S  WAITERS  SHARE
alice          1     53        9  80.0%
tenants/7      0    3.6        2   5.3%
"
    );
}

#[test]
fn one_frame_is_a_document_of_a_chosen_keyspace_and_says_what_it_may_not_show() {
    let server = server(sequence(healthy));
    server.state.lock().unwrap().reticent = true;
    let output = server.keyway("top staging --once --interval 10ms --json");
    assert_eq!(output.status.code(), Some(0));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["hot_of"], "staging");
    assert_eq!(document["hot"], Value::Null);
    assert_eq!(document["keyspaces"][0]["req_s"], "1000");
    assert_eq!(document["shards"][1]["forwards_s"], "10");
    let output = server.keyway("top --once --interval 10ms");
    assert!(
        text(&output).contains("prod: hot prod: not allowed"),
        "{output:?}"
    );
}

#[test]
fn a_live_view_needs_a_terminal() {
    for args in ["top", "top --json"] {
        let output = server(sequence(healthy)).keyway(args);
        assert_eq!(output.status.code(), Some(2), "{args}");
        assert!(output.stdout.is_empty(), "{args}");
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("--once"), "{message}");
    }
    let output = server(sequence(healthy)).keyway("top nowhere --once");
    assert_eq!(output.status.code(), Some(1));
}
