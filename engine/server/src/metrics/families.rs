//! All metrics of `/metrics`, and their table in docs/METRICS.md.

use std::fmt::Write;

use super::declare::{Family, Kind, Subject};
use super::kms_series::{KMS_METRICS, KmsMetric};
use super::snapshot::{CatalogueSnapshot, KeyspaceSnapshot, ShardSnapshot};

/// The metric that shows which version runs.
pub fn build_info() -> Family {
    Family {
        name: "keyway_build_info",
        kind: Kind::Gauge,
        labels: vec!["version"],
        help: "The version of the server, as a label; the value is always 1.",
    }
}

/// Returns all metrics, in sections with a heading.
pub fn sections() -> [(&'static str, Vec<Family>); 4] {
    let server = of::<CatalogueSnapshot>();
    [
        ("Keyspaces", of::<KeyspaceSnapshot>()),
        ("KMSes", KMS_METRICS.iter().map(KmsMetric::family).collect()),
        ("Shards", of::<ShardSnapshot>()),
        ("Server", server.into_iter().chain([build_info()]).collect()),
    ]
}

fn of<S: Subject>() -> Vec<Family> {
    S::families().map(|(family, _)| family).collect()
}

/// Returns the tables of docs/METRICS.md.
pub fn markdown() -> String {
    let mut text = String::new();
    for (heading, families) in sections() {
        let _ = writeln!(
            text,
            "\n## {heading}\n\n| metric | type | labels | meaning |\n|---|---|---|---|"
        );
        for family in families {
            let labels = family.labels.join(", ");
            let (name, kind, help) = (family.name, family.kind.name(), family.help);
            let _ = writeln!(text, "| `{name}` | {kind} | {labels} | {help} |");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::metrics::collector::LatestSnapshots;
    use crate::metrics::requests::{CountedOperation, CountedOutcome};
    use crate::metrics::snapshot::{KeyVersions, KmsCalls, KmsSnapshot, Snapshot};

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/METRICS.md");

    /// After this line the page is written from the tables in the code.
    const MARK: &str = "<!-- The tables below are written by `make metrics-page`. -->\n";

    #[test]
    fn the_page_of_metrics_is_what_the_code_declares() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let (head, tables) = page.split_once(MARK).unwrap();
        if std::env::var_os("KEYWAY_WRITE_METRICS_PAGE").is_some() {
            return std::fs::write(PAGE, format!("{head}{MARK}{}", markdown())).unwrap();
        }
        assert_eq!(tables, markdown(), "run `make metrics-page`");
    }

    #[test]
    fn names_are_unique_and_follow_prometheus_rules() {
        let mut names = BTreeSet::new();
        for family in sections().into_iter().flat_map(|(_, families)| families) {
            assert!(names.insert(family.name), "{} is there twice", family.name);
            let is_total = family.name.ends_with("_total");
            assert_eq!(is_total, family.kind == Kind::Counter, "{}", family.name);
            assert!(
                family.help.ends_with('.') && !family.help.contains('|'),
                "{}",
                family.name
            );
        }
    }

    #[test]
    fn every_declared_metric_is_exported_and_nothing_else() {
        let mut keyspace = KeyspaceSnapshot {
            id: 1,
            name: "prod".to_owned(),
            ..KeyspaceSnapshot::default()
        };
        keyspace
            .requests
            .count(CountedOperation::Sign, CountedOutcome::OkStale);
        let kms = KmsSnapshot {
            name: "local".to_owned(),
            calls: vec![KmsCalls {
                keyspace: 1,
                operation: "unwrap",
                outcome: "ok",
                count: 1,
            }],
            key_versions: Some(KeyVersions::default()),
            ..KmsSnapshot::default()
        };
        let mut latest = LatestSnapshots::default();
        latest.take(Snapshot::Shard(Box::new(ShardSnapshot {
            keyspaces: vec![keyspace],
            ..ShardSnapshot::default()
        })));
        latest.take(Snapshot::Kms(vec![kms]));
        let declared: BTreeSet<_> = sections()
            .into_iter()
            .flat_map(|(_, families)| families)
            .map(|family| {
                let labels = family.labels.iter().map(|label| (*label).to_owned());
                (
                    family.name.to_owned(),
                    family.help.to_owned(),
                    labels.collect::<BTreeSet<_>>(),
                )
            })
            .collect();
        let exported: BTreeSet<_> = latest
            .families()
            .iter()
            .map(|family| {
                let labels = family.get_metric()[0].get_label();
                let labels = labels.iter().map(|label| label.name().to_owned());
                (
                    family.name().to_owned(),
                    family.help().to_owned(),
                    labels.collect(),
                )
            })
            .collect();
        assert_eq!(declared, exported);
    }

    #[test]
    fn shards_are_combined_as_the_table_says() {
        let one = KeyspaceSnapshot {
            rehydrate_total: 3,
            oldest_served_age_us: 5_000_000,
            dek_lease_left_s: 50.0,
            ..KeyspaceSnapshot::default()
        };
        let mut all = KeyspaceSnapshot {
            rehydrate_total: 4,
            oldest_served_age_us: 2_000_000,
            dek_lease_left_s: 40.0,
            locked: true,
            ..KeyspaceSnapshot::default()
        };
        all.combine(&one);
        assert_eq!(
            (all.rehydrate_total, all.oldest_served_age_us),
            (7, 5_000_000)
        );
        assert_eq!((all.dek_lease_left_s, all.locked), (40.0, true));
    }
}
