//! The alerts of a row: promtool evaluates the committed rules, with their ranges and durations, over the values that
//! the server exported before the fault and in it. One run of promtool evaluates all rows of a part.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::common::alerts::{read, test_rules};
use crate::common::{Server, has_program};
use crate::dashboards::alert_rules;

/// The rules' time between two scrapes.
const STEP_S: usize = 30;
/// How long the server has been healthy, and then how long the fault lasts, in steps: 10 minutes each, longer than any of
/// these rules waits.
const STEPS: usize = 20;
/// The groups about leases and KMSes. The others depend on the machine.
const GROUPS: [&str; 2] = ["keyway-unlock", "keyway-kms"];

/// All series of a server at one time.
pub struct Scrape(BTreeMap<String, f64>);

/// Scrapes before a fault, and in it.
pub struct Figures {
    pub before: Scrape,
    pub during: Scrape,
}

impl Scrape {
    pub fn of(server: &Server) -> Scrape {
        Scrape(read(server))
    }
}

impl Figures {
    /// Returns the series as promtool reads them. The fault goes on as it was observed: what was counted in it is counted
    /// in every step, and a gauge keeps its value.
    fn series(&self) -> Vec<serde_json::Value> {
        let names = self.before.0.keys().chain(self.during.0.keys());
        let names: std::collections::BTreeSet<&String> = names.collect();
        let of = |scrape: &Scrape, name: &String| {
            let value = scrape.0.get(name).copied();
            value.filter(|value| value.is_finite())
        };
        let held = |value: Option<f64>| match value {
            Some(value) => format!("{value:.9}+0x{}", STEPS - 1),
            None => format!("_x{STEPS}"),
        };
        let series = names.into_iter().map(|name| {
            let (before, during) = (of(&self.before, name), of(&self.during, name));
            let family = name.split('{').next().unwrap_or(name);
            let is_counter = ["_total", "_count", "_sum"]
                .iter()
                .any(|end| family.ends_with(end));
            let in_trouble = match during {
                Some(during) if is_counter => {
                    let step = (during - before.unwrap_or(0.0)).max(0.0);
                    format!("{during:.9}+{step:.9}x{}", STEPS - 1)
                }
                during => held(during),
            };
            json!({ "series": name, "values": format!("{} {in_trouble}", held(before)) })
        });
        series.collect()
    }
}

/// Returns the alerts of these groups.
fn alerts_of_interest() -> Vec<String> {
    let rules = alert_rules();
    let groups = rules.split("- name: ").skip(1);
    let groups = groups.filter(|group| GROUPS.iter().any(|name| group.starts_with(name)));
    let names = groups.flat_map(|group| {
        let lines = group.lines().map(str::trim_start);
        lines.filter_map(|line| line.strip_prefix("- alert: ").map(str::to_owned))
    });
    names.collect()
}

/// Returns the alerts that fire in each row, in order of their names, or `None` where promtool is not installed.
pub fn firing(rows: &[&Figures]) -> Option<Vec<String>> {
    if !has_program("promtool") {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/alerts/keyway.rules.yml");
    let wanted = alerts_of_interest().join("|");
    // The row's number makes the queries differ in promtool's answer. Each fails, since each expects nothing, unless no
    // alert fires.
    let query = |row: usize| {
        format!(
            "count by (alertname) (ALERTS{{alertstate=\"firing\",alertname=~\"{wanted}\",kms!=\"spare\",row!=\"{row}.\"}})"
        )
    };
    let tests = rows.iter().enumerate().map(|(number, row)| {
        json!({
            "interval": format!("{STEP_S}s"),
            "input_series": row.series(),
            "promql_expr_test": [{
                "expr": query(number),
                "eval_time": format!("{}s", STEP_S * (2 * STEPS - 1)),
                "exp_samples": [],
            }],
        })
    });
    let document = json!({
        "rule_files": [rules],
        "evaluation_interval": format!("{STEP_S}s"),
        "tests": tests.collect::<Vec<_>>(),
    });
    let (_, said) = test_rules(dir.path(), &document);
    let of_row = |number: usize| {
        let answer = said.split(&format!("row!=\\\"{number}.\\\"")).nth(1);
        let answer = answer.or_else(|| said.split(&format!("row!=\"{number}.\"")).nth(1));
        let answer = answer.unwrap_or_else(|| panic!("row {number} fires nothing: {said}"));
        let answer = answer.split("expr:").next().unwrap_or_default();
        let names = answer.split("alertname=\"").skip(1);
        let mut names: Vec<&str> = names.filter_map(|rest| rest.split('"').next()).collect();
        assert!(!names.is_empty(), "row {number}: {said}");
        names.sort_unstable();
        names.join(", ")
    };
    Some((0..rows.len()).map(of_row).collect())
}
