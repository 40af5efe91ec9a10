//! The dashboards, the alerts and the runbook's queries, evaluated by a real Prometheus that scrapes a live server.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::prometheus::Prometheus;
use crate::common::{Setup, has_program, prod};
use crate::figures::{SHORT_LIVED, generate, work_until};

/// The runbook's queries, byte for byte.
const RUNBOOK_QUERIES: [&str; 4] = [
    "max_over_time(singleflight_waiters{keyspace=\"prod\"}[1m])",
    "rate(singleflight_wait_timeout_total{keyspace=\"prod\"}[5m])",
    "rate(prefetch_trigger_total{keyspace=\"prod\"}[15m]) / rate(prefetch_scan_total[15m])",
    "histogram_quantile(0.95, sum(rate(rehydrate_latency_ms_bucket{keyspace=\"prod\"}[5m])) by (le))",
];

/// Prefixes of the server's series.
const OURS: [&str; 4] = ["keyway_", "rehydrate_", "singleflight_", "prefetch_"];

/// Alerts that never fire on a healthy server, however busy the machine is. Some of them may be pending briefly: two
/// scrapes within a second see the same values, as if a shard made no progress.
const NOT_NOW: &str = "ALERTS{alertstate=\"firing\",alertname=~\"KeywayRehydrateFailures|KeywayKeyspaceDenied|KeywayStorePoisoned|KeywayPanic|\
                       KeywayDown|KeywayAbsent|KeywayShardUnresponsive|KeywayKmsLocked|KeywayKmsBreakerOpen|KeywayKmsTrouble|\
                       KeywayNeedsUnlock\"}";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

pub(crate) fn alert_rules() -> String {
    std::fs::read_to_string(docs().join("alerts/keyway.rules.yml")).unwrap()
}

/// Returns every query of every dashboard, with Grafana's variables filled in: `prod`, and all instances.
fn dashboard_queries() -> Vec<String> {
    let files = std::fs::read_dir(docs().join("dashboards")).unwrap();
    let paths = files.map(|entry| entry.unwrap().path());
    let mut queries = Vec::new();
    for path in paths.filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let targets = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap());
        queries.extend(targets.map(|target| {
            let query = target["expr"].as_str().unwrap();
            query
                .replace("$keyspace", "prod")
                .replace("$instance", ".*")
        }));
    }
    queries
}

/// Returns the names of the server's series in a query.
fn series_in(query: &str) -> Vec<&str> {
    query
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| OURS.iter().any(|start| word.starts_with(start)))
        .collect()
}

/// Returns `true` if an answer has values, and numbers only.
fn is_figure(answer: &[f64]) -> bool {
    !answer.is_empty() && answer.iter().all(|figure| figure.is_finite())
}

#[test]
fn a_real_prometheus_answers_the_runbooks_queries() {
    if !has_program("prometheus") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(&dir.path().join("data")).shards(2).start();
    let client = server.client();
    client
        .keyspace_create(&"staging".parse().unwrap(), &[])
        .unwrap();
    client.keyspace_set(&prod(), &SHORT_LIVED).unwrap();
    let keys = generate(&client, 20);
    let target = server.endpoints["metrics"].as_str().unwrap();
    let prometheus = Prometheus::start(dir.path(), target, "");
    let mut figures = Vec::new();
    work_until(&client, &keys, || {
        std::thread::sleep(Duration::from_millis(20));
        figures = RUNBOOK_QUERIES
            .map(|query| prometheus.query(query))
            .to_vec();
        figures
            .iter()
            .all(|series| matches!(series[..], [figure] if figure.is_finite()))
            && figures[2][0] > 0.0
    });
    // One series for the keyspace, however many shards there are.
    assert_eq!(
        prometheus.query("rehydrate_total").len(),
        2,
        "prod and staging"
    );
    let [p95] = figures[3][..] else {
        unreachable!("checked above")
    };
    assert!(p95 > 0.0, "{figures:?}");
}

#[test]
fn every_panel_and_every_rule_finds_its_figures_on_a_live_server() {
    if !has_program("prometheus") {
        return;
    }
    let queries = dashboard_queries();
    for query in RUNBOOK_QUERIES {
        assert!(
            queries.iter().any(|have| have == query),
            "no panel asks {query}"
        );
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Setup::new(&dir.path().join("data")).shards(2).start();
    let client = server.client();
    client.keyspace_set(&prod(), &SHORT_LIVED).unwrap();
    let keys = generate(&client, 20);
    let target = server.endpoints["metrics"].as_str().unwrap();
    let prometheus = Prometheus::start(dir.path(), target, &alert_rules());

    // Under load every query of every panel has a result, also if there is no problem: 0, not nothing.
    let mut left = queries;
    work_until(&client, &keys, || {
        let before = left.len();
        left.retain(|query| !is_figure(&prometheus.query(query)));
        if left.len() != before {
            eprintln!("still without a figure: {left:?}");
        }
        left.is_empty()
    });

    // Prometheus has evaluated every rule of the file, without an error.
    let rules_in_file = alert_rules()
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with("- alert: ") || line.starts_with("- record: "))
        .count();
    let mut rules = Vec::new();
    work_until(&client, &keys, || {
        rules = prometheus.rules();
        rules.len() == rules_in_file && rules.iter().all(|rule| rule["health"] != "unknown")
    });
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        for series in series_in(rule["query"].as_str().unwrap()) {
            assert!(is_figure(&prometheus.query(series)), "{series} of {rule}");
        }
    }
    assert_eq!(prometheus.query(NOT_NOW), Vec::<f64>::new());
}
