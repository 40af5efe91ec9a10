//! The metrics of KMSes. Some need to know of keyspaces, so they have a table of their own kind.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::declare::{Emit, Family, Kind, Sample};
use super::snapshot::KmsSnapshot;

/// What the metrics of a KMS need to know of keyspaces.
pub struct Keyspaces<'a> {
    /// Names by id.
    pub names: BTreeMap<u32, &'a str>,
    /// The keyspaces that have a lease.
    pub live: BTreeSet<u32>,
}

/// A metric of a KMS.
pub struct KmsMetric {
    name: &'static str,
    kind: Kind,
    /// Labels beside `kms`.
    labels: &'static [&'static str],
    help: &'static str,
    export: fn(&KmsSnapshot, &Keyspaces<'_>, &mut Emit<'_>),
    status: Option<&'static str>,
}

impl KmsMetric {
    /// Returns the metric without its values.
    pub fn family(&self) -> Family {
        Family {
            name: self.name,
            kind: self.kind,
            labels: [&["kms"], self.labels].concat(),
            help: self.help,
        }
    }

    /// Emits the values for one KMS.
    pub fn export(&self, kms: &KmsSnapshot, keyspaces: &Keyspaces<'_>, emit: &mut Emit<'_>) {
        (self.export)(kms, keyspaces, emit);
    }
}

/// All metrics of KMSes.
pub const KMS_METRICS: [KmsMetric; 10] = [
    KmsMetric {
        name: "keyway_kms_calls_in_flight",
        kind: Kind::Gauge,
        labels: &[],
        help: "Calls to the KMS in progress.",
        export: |kms, _, emit| emit(&[], Sample::Number(kms.budget.calls_in_flight.into())),
        status: Some("calls_in_flight"),
    },
    KmsMetric {
        name: "keyway_kms_unwraps_waiting",
        kind: Kind::Gauge,
        labels: &[],
        help: "Data keys that are being unwrapped or wait for it.",
        export: |kms, _, emit| emit(&[], Sample::Number(kms.budget.unwraps.into())),
        status: Some("unwraps_waiting"),
    },
    KmsMetric {
        name: "keyway_kms_rate_headroom_calls",
        kind: Kind::Gauge,
        labels: &[],
        help: "Calls that the budget's rate would allow immediately.",
        export: |kms, _, emit| emit(&[], Sample::Number(kms.budget.rate_tokens.into())),
        status: Some("rate_tokens"),
    },
    KmsMetric {
        name: "keyway_kms_retry_headroom_calls",
        kind: Kind::Gauge,
        labels: &[],
        help: "Retries that the budget would allow immediately.",
        export: |kms, _, emit| emit(&[], Sample::Number(kms.budget.retry_tokens.into())),
        status: Some("retry_tokens"),
    },
    KmsMetric {
        name: "keyway_kms_breaker_open",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the circuit breaker is open or half-open.",
        export: |kms, _, emit| emit_flag(kms.budget.breaker != "closed", emit),
        status: None,
    },
    KmsMetric {
        name: "keyway_kms_unlocked",
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the KMS can use its key.",
        export: |kms, _, emit| emit_flag(kms.state == "unlocked", emit),
        status: None,
    },
    KmsMetric {
        name: "keyway_kms_forecast_calls_per_hour",
        kind: Kind::Gauge,
        labels: &[],
        help: "Calls per hour that the leases of the keyspaces in use need, and logins with their renewals or fetches of credentials.",
        export: |kms, keyspaces, emit| {
            let forecast = forecast_calls_per_hour(kms, &keyspaces.live);
            emit(&[], Sample::Number(forecast));
        },
        status: None,
    },
    KmsMetric {
        name: "keyway_kms_trouble_keyspaces",
        kind: Kind::Gauge,
        labels: &["cause"],
        help: "Keyspaces whose last call failed, by the cause that the provider gave; cause none and 0 while there is no trouble.",
        export: |kms, _, emit| {
            let causes = kms.trouble.iter().flat_map(|it| it.of_keyspaces.values());
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            causes.for_each(|cause| *counts.entry(cause).or_default() += 1);
            if counts.is_empty() {
                counts.insert("none", 0);
            }
            for (cause, count) in counts {
                emit(&[cause], Sample::Number(count.into()));
            }
        },
        status: None,
    },
    KmsMetric {
        name: "keyway_kms_keyspaces_behind",
        kind: Kind::Gauge,
        labels: &[],
        help: "Keyspaces with a data key that an older version of the KMS's key wrapped. 0 where keys have no versions.",
        export: |kms, _, emit| {
            let behind = kms.key_versions.map_or(0, |it| it.keyspaces_behind);
            emit(&[], Sample::Number(behind as f64));
        },
        status: None,
    },
    KmsMetric {
        name: "keyway_kms_calls_total",
        kind: Kind::Counter,
        labels: &["keyspace", "operation", "outcome"],
        help: "Calls to the KMS, and those that the budget refused. The keyspace is empty for calls that belong to none.",
        export: |kms, keyspaces, emit| {
            for calls in &kms.calls {
                let name = match calls.keyspace {
                    0 => Some(""),
                    // A keyspace that no shard has loaded yet has a series as soon as it has a name.
                    id => keyspaces.names.get(&id).copied(),
                };
                if let Some(name) = name {
                    let labels = [name, calls.operation, calls.outcome];
                    emit(&labels, Sample::Number(calls.count as f64));
                }
            }
        },
        status: None,
    },
];

fn emit_flag(is_set: bool, emit: &mut Emit<'_>) {
    emit(&[], Sample::Number(f64::from(u8::from(is_set))));
}

/// Returns the calls per hour that the leases of the keyspaces in use and the logins will need at this KMS.
pub fn forecast_calls_per_hour(kms: &KmsSnapshot, live: &BTreeSet<u32>) -> f64 {
    let of_it = kms.lease_calls_per_hour.iter();
    // The logins are made whatever is in use.
    of_it
        .filter(|(keyspace, _)| live.contains(keyspace))
        .fold(kms.own_calls_per_hour, |sum, (_, calls)| sum + calls)
}

/// Returns a KMS's row of STATUS without its calls.
pub fn row(kms: &KmsSnapshot, live: &BTreeSet<u32>) -> serde_json::Map<String, Value> {
    let mut row = serde_json::Map::new();
    let mut add = |name: &str, value: Value| row.insert(name.to_owned(), value);
    add("name", kms.name.as_str().into());
    add("provider", kms.provider.into());
    add("state", kms.state.into());
    add("need", kms.need.into());
    add("breaker", kms.budget.breaker.into());
    let nothing = Keyspaces {
        names: BTreeMap::new(),
        live: BTreeSet::new(),
    };
    for metric in &KMS_METRICS {
        if let Some(name) = metric.status {
            metric.export(kms, &nothing, &mut |_, sample| {
                if let Sample::Number(value) = sample {
                    add(name, (value as u64).into());
                }
            });
        }
    }
    add(
        "calls_per_hour_forecast",
        forecast_calls_per_hour(kms, live).into(),
    );
    let trouble = kms.trouble.as_ref().map(|trouble| {
        json!({
            "class": trouble.class,
            "cause": trouble.cause,
            "what": trouble.what,
            "remedy": trouble.remedy,
            "since_unix_ms": trouble.since_unix_ms,
            "over": trouble.is_over,
            "keyspaces": trouble.of_keyspaces.len(),
        })
    });
    add("trouble", trouble.into());
    let versions = kms.key_versions.map(|versions| {
        json!({ "newest": versions.newest, "keyspaces_behind": versions.keyspaces_behind })
    });
    add("key_versions", versions.into());
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forecast_is_of_keyspaces_in_use_at_this_kms() {
        let kms = KmsSnapshot {
            lease_calls_per_hour: BTreeMap::from([(1, 2.0), (2, 4.0)]),
            ..KmsSnapshot::default()
        };
        let live = BTreeSet::from([1, 3]);
        assert_eq!(forecast_calls_per_hour(&kms, &live), 2.0);
        let with_logins = KmsSnapshot {
            own_calls_per_hour: 8.0,
            ..kms.clone()
        };
        assert_eq!(forecast_calls_per_hour(&with_logins, &live), 10.0);
        let of_nothing = forecast_calls_per_hour(&kms, &BTreeSet::new());
        assert!(of_nothing == 0.0 && of_nothing.is_sign_positive());
    }
}
