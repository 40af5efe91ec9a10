//! Evaluates the committed alerts over the metrics of a live server, in time that the test controls.
//!
//! A Prometheus that scrapes in real time has as many samples in a rule's window as the machine allowed, so a busy
//! machine would determine which alerts fire. Here each scrape counts as 30 s after the previous one, however long it
//! took, and the real promtool evaluates the committed rules, with all their ranges and durations, over the scrapes so
//! far.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Server, WITHIN, wait_until};

/// Seconds of the rules' time between two scrapes: two samples in their shortest range, 1 minute.
const STEP_S: usize = 30;

/// The rules of docs/alerts, and every scrape of a server so far.
pub struct Alerts {
    dir: PathBuf,
    looks: usize,
    /// By series: a value for each scrape, `_` where it was missing.
    values: BTreeMap<String, Vec<String>>,
    /// Turns of each shard at the last scrape, which distinguish one snapshot from the next.
    turns: BTreeMap<String, f64>,
}

impl Alerts {
    /// Takes the first scrape, so that a counter's first step is visible. Files are in `dir`.
    pub fn watch(dir: &Path, server: &Server) -> Alerts {
        let mut alerts = Alerts {
            dir: dir.to_owned(),
            looks: 0,
            values: BTreeMap::new(),
            turns: BTreeMap::new(),
        };
        alerts.look(server);
        alerts
    }

    /// Scrapes until an alert fires for a keyspace.
    pub fn wait_for(&mut self, server: &Server, alert: &str, keyspace: &str) {
        let firing = format!(
            "ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",keyspace=\"{keyspace}\"}}"
        );
        self.wait_until(server, &firing, true);
    }

    /// Scrapes until an alert of a keyspace neither fires nor is pending.
    pub fn wait_for_end(&mut self, server: &Server, alert: &str, keyspace: &str) {
        let alert = format!("ALERTS{{alertname=\"{alert}\",keyspace=\"{keyspace}\"}}");
        self.wait_until(server, &alert, false);
    }

    /// Scrapes until a query returns a result, or none.
    pub fn wait_until(&mut self, server: &Server, query: &str, finds: bool) {
        let began = Instant::now();
        while {
            self.look(server);
            self.finds(query) != finds
        } {
            let looks = self.looks;
            assert!(
                began.elapsed() < WITHIN,
                "{query}: not {finds} after {looks} looks"
            );
        }
    }

    /// Takes one scrape, once every shard has pushed a snapshot since the last.
    fn look(&mut self, server: &Server) {
        let mut figures = BTreeMap::new();
        wait_until("a snapshot of every shard", WITHIN, || {
            figures = read(server);
            let turns = |(series, _): &(&String, &f64)| {
                series.starts_with("keyway_shard_turn_seconds_count")
            };
            let mut shards = figures.iter().filter(turns).peekable();
            shards.peek().is_some()
                && shards.all(|(shard, now)| self.turns.get(shard).is_none_or(|last| now > last))
        });
        for (series, value) in figures {
            if series.starts_with("keyway_shard_turn_seconds_count") {
                self.turns.insert(series.clone(), value);
            }
            let values = self.values.entry(series).or_default();
            values.resize(self.looks, "_".to_owned());
            let is_there = value.is_finite();
            values.push(if is_there {
                format!("{value}")
            } else {
                "_".into()
            });
        }
        self.looks += 1;
    }

    /// Returns `true` if a query returns a result at the last scrape.
    fn finds(&self, query: &str) -> bool {
        let rules =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/alerts/keyway.rules.yml");
        let series = self.values.iter().map(|(series, values)| {
            let mut values = values.clone();
            values.resize(self.looks, "_".to_owned());
            json!({ "series": series, "values": values.join(" ") })
        });
        let test = json!({
            "interval": format!("{STEP_S}s"),
            "input_series": series.collect::<Vec<_>>(),
            "promql_expr_test": [{
                "expr": format!("sum(count({query}) or vector(0)) > bool 0"),
                "eval_time": format!("{}s", STEP_S * (self.looks - 1)),
                "exp_samples": [{ "labels": "{}", "value": 1 }],
            }],
        });
        let document = json!({
            "rule_files": [rules],
            "evaluation_interval": format!("{STEP_S}s"),
            "tests": [test],
        });
        let (is_so, said) = test_rules(&self.dir, &document);
        let finds_nothing = said.contains("got: {} 0E+00");
        assert!(is_so || finds_nothing, "{query}: {said}");
        is_so
    }
}

/// Has promtool run a file of tests of rules, which it writes to `dir`. Returns whether they passed, and what it said.
pub fn test_rules(dir: &Path, tests: &Value) -> (bool, String) {
    // JSON is YAML.
    let file = dir.join("rules-test.yml");
    std::fs::write(&file, tests.to_string()).unwrap();
    let output = Command::new("promtool")
        .args(["test", "rules"])
        .arg(&file)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Returns the series of /metrics with the labels that a scrape adds. Buckets are left out: no alert of these tests uses
/// one, and they are most of the page.
pub fn read(server: &Server) -> BTreeMap<String, f64> {
    let (_, text) = server.http("/metrics");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    let samples = samples.filter(|(series, _)| !series.contains("_bucket{"));
    let scraped = samples.map(|(series, value)| {
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let series = format!("{name}{{job=\"keyway\",instance=\"test\",{labels}");
        (series, value.parse().expect("a number"))
    });
    let up = ("up{job=\"keyway\",instance=\"test\"}".to_owned(), 1.0);
    scraped.chain([up]).collect()
}
