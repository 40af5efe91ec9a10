//! Turns the latest snapshots into Prometheus metric families.
//!
//! The runbook's series carry the keyspace alone and are combined over shards; what belongs to one shard has a name of its
//! own and a `shard` label.

use std::collections::BTreeMap;
use std::time::Instant;

use prometheus::proto;

use super::declare::{Family, Kind, Sample, Subject};
use super::families;
use super::kms_series::{KMS_METRICS, Keyspaces};
use super::latency::{BOUNDS_US, Latency};
use super::snapshot::{
    CatalogueSnapshot, HotSnapshot, KmsSnapshot, SettingsSnapshot, ShardSnapshot, Snapshot,
};

/// The latest snapshots.
#[derive(Debug, Default)]
pub struct LatestSnapshots {
    pub(super) shards: BTreeMap<u16, ShardSnapshot>,
    kms: Vec<KmsSnapshot>,
    catalogue: CatalogueSnapshot,
    settings: Vec<SettingsSnapshot>,
    hot: BTreeMap<(u32, &'static str), (Instant, HotSnapshot)>,
}

impl LatestSnapshots {
    /// Replaces the sender's last snapshot.
    pub fn take(&mut self, snapshot: Snapshot) {
        match snapshot {
            Snapshot::Shard(shard) => {
                self.shards.insert(shard.shard, *shard);
            }
            Snapshot::Kms(kms) => self.kms = kms,
            Snapshot::Catalogue(catalogue) => self.catalogue = catalogue,
            Snapshot::Settings(settings) => self.settings = settings,
            Snapshot::Hot(hot) => {
                let place = (hot.keyspace, hot.by.name());
                self.hot.insert(place, (Instant::now(), hot));
            }
        }
    }

    /// Shards in order.
    pub fn shards(&self) -> impl Iterator<Item = &ShardSnapshot> {
        self.shards.values()
    }

    /// KMSes by name.
    pub fn kms(&self) -> &[KmsSnapshot] {
        &self.kms
    }

    /// The settings of a keyspace, if anybody has looked at the live page.
    pub fn settings_of(&self, keyspace: u32) -> Option<&SettingsSnapshot> {
        let mut all = self.settings.iter();
        all.find(|settings| settings.keyspace == keyspace)
    }

    /// Returns the hot keys of a keyspace, in each order that was reported, with the time of the report.
    pub fn hot_of(&self, keyspace: u32) -> impl Iterator<Item = &(Instant, HotSnapshot)> {
        let of_it = self.hot.range((keyspace, "")..);
        of_it
            .take_while(move |((id, _), _)| *id == keyspace)
            .map(|(_, hot)| hot)
    }

    /// All metric families, sorted by name.
    pub fn families(&self) -> Vec<proto::MetricFamily> {
        let keyspaces = self.keyspaces();
        let shards: Vec<&ShardSnapshot> = self.shards.values().collect();
        let mut families = of_subjects(&keyspaces.iter().collect::<Vec<_>>());
        families.extend(of_subjects(&shards));
        families.extend(of_subjects(&[&self.catalogue]));
        let about = Keyspaces {
            names: keyspaces
                .iter()
                .map(|keyspace| (keyspace.id, keyspace.name.as_str()))
                .collect(),
            live: self.live_keyspaces(),
        };
        for metric in &KMS_METRICS {
            let family = metric.family();
            let mut encoded = Vec::new();
            for kms in &self.kms {
                metric.export(kms, &about, &mut |labels, sample| {
                    let values = [&[kms.name.as_str()], labels].concat();
                    encoded.push(encode(&family, &values, 1.0, sample));
                });
            }
            families.push(proto_family(&family, encoded));
        }
        let build = families::build_info();
        let version = [env!("CARGO_PKG_VERSION")];
        let metric = encode(&build, &version, 1.0, Sample::Number(1.0));
        families.push(proto_family(&build, vec![metric]));
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }
}

/// Returns the families of the snapshots of one kind.
fn of_subjects<S: Subject>(subjects: &[&S]) -> Vec<proto::MetricFamily> {
    S::families()
        .map(|(family, metric)| {
            let mut encoded = Vec::new();
            for subject in subjects {
                let own = S::LABEL.map(|_| subject.label());
                (metric.export)(subject, &mut |labels, sample| {
                    let values: Vec<&str> = own
                        .as_deref()
                        .into_iter()
                        .chain(labels.iter().copied())
                        .collect();
                    encoded.push(encode(&family, &values, metric.divisor, sample));
                });
            }
            proto_family(&family, encoded)
        })
        .collect()
}

fn proto_family(family: &Family, metrics: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut encoded = proto::MetricFamily::default();
    encoded.set_name(family.name.to_owned());
    encoded.set_help(family.help.to_owned());
    encoded.set_field_type(match family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    encoded.set_metric(metrics);
    encoded
}

/// One value of a family, with the values of its labels.
fn encode(family: &Family, labels: &[&str], divisor: f64, sample: Sample<'_>) -> proto::Metric {
    let pairs = family.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = proto::Metric::from_label(pairs.collect());
    match sample {
        Sample::Observations(latency) => {
            metric.set_histogram(histogram(latency, unit_us(family.name)))
        }
        Sample::Number(value) if family.kind == Kind::Counter => {
            let mut counter = proto::Counter::default();
            counter.set_value(value / divisor);
            metric.set_counter(counter);
        }
        Sample::Number(value) => {
            let mut gauge = proto::Gauge::default();
            gauge.set_value(value / divisor);
            metric.set_gauge(gauge);
        }
    }
    metric
}

/// Microseconds in the unit of a histogram, which its name ends in. The runbook's is in milliseconds.
fn unit_us(name: &str) -> f64 {
    if name.ends_with("_ms") { 1e3 } else { 1e6 }
}

fn histogram(latency: &Latency, unit_us: f64) -> proto::Histogram {
    let mut cumulative = 0;
    let buckets = BOUNDS_US
        .iter()
        .zip(latency.buckets)
        .map(|(bound_us, count)| {
            cumulative += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound_us as f64 / unit_us);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(latency.count());
    histogram.set_sample_sum(latency.sum_ns as f64 / 1e3 / unit_us);
    histogram
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use keyway_protocol::Status;

    use super::*;
    use crate::metrics::requests::{CountedOperation, CountedOutcome};
    use crate::metrics::snapshot::{KeyspaceSnapshot, KmsCalls};

    fn text(latest: &LatestSnapshots) -> String {
        let mut out = Vec::new();
        TextEncoder::new()
            .encode(&latest.families(), &mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    fn shard(index: u16, rehydrates: u64, lease_left_s: f64) -> Snapshot {
        let mut keyspace = KeyspaceSnapshot {
            id: 1,
            name: "prod".to_owned(),
            rehydrate_total: rehydrates,
            dek_lease_left_s: lease_left_s,
            ..KeyspaceSnapshot::default()
        };
        (0..rehydrates).for_each(|_| keyspace.rehydrate_latency.record_ns(60_000));
        let ok = CountedOutcome::Status(Status::Ok);
        keyspace
            .requests
            .add(CountedOperation::Sign, ok, rehydrates);
        Snapshot::Shard(Box::new(ShardSnapshot {
            shard: index,
            keyspaces: vec![keyspace],
            ..ShardSnapshot::default()
        }))
    }

    #[test]
    fn the_runbooks_series_are_summed_over_shards_and_carry_the_keyspace_alone() {
        let mut latest = LatestSnapshots::default();
        latest.take(shard(0, 3, 50.0));
        latest.take(shard(1, 4, 40.0));
        let text = text(&latest);
        for line in [
            "rehydrate_total{keyspace=\"prod\"} 7",
            "rehydrate_latency_ms_bucket{keyspace=\"prod\",le=\"0.05\"} 0",
            "rehydrate_latency_ms_bucket{keyspace=\"prod\",le=\"0.075\"} 7",
            "rehydrate_latency_ms_count{keyspace=\"prod\"} 7",
            "singleflight_waiters{keyspace=\"prod\"} 0",
            "keyway_dek_lease_left_seconds{keyspace=\"prod\"} 40",
            "keyway_requests_total{keyspace=\"prod\",operation=\"sign\",outcome=\"ok\"} 7",
            "keyway_shard_connections{shard=\"1\"} 0",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "no `{line}` in\n{text}"
            );
        }
    }

    /// The series of the calls that belong to no keyspace was that of a keyspace without a name, and vanished when it got
    /// one.
    #[test]
    fn a_counter_series_that_was_shown_stays_when_a_keyspace_gets_its_name() {
        let calls = |keyspace, count| KmsCalls {
            keyspace,
            operation: "unwrap",
            outcome: "ok",
            count,
        };
        let mut latest = LatestSnapshots::default();
        latest.take(Snapshot::Kms(vec![KmsSnapshot {
            name: "bao".to_owned(),
            calls: vec![calls(0, 3), calls(7, 5)],
            ..KmsSnapshot::default()
        }]));
        let series = |latest: &LatestSnapshots| -> Vec<String> {
            let text = text(latest);
            let lines = text.lines();
            let of_calls = lines.filter(|line| line.starts_with("keyway_kms_calls_total{"));
            of_calls.map(str::to_owned).collect()
        };
        let series_of = |keyspace, count| {
            format!(
                "keyway_kms_calls_total{{kms=\"bao\",keyspace=\"{keyspace}\",operation=\"unwrap\",outcome=\"ok\"}} {count}"
            )
        };
        assert_eq!(series(&latest), [series_of("", 3)]);
        latest.take(Snapshot::Shard(Box::new(ShardSnapshot {
            keyspaces: vec![KeyspaceSnapshot {
                id: 7,
                name: "shop".to_owned(),
                ..KeyspaceSnapshot::default()
            }],
            ..ShardSnapshot::default()
        })));
        let mut both = series(&latest);
        both.sort();
        assert_eq!(both, [series_of("", 3), series_of("shop", 5)]);
    }

    #[test]
    fn a_newer_snapshot_replaces_the_older_one() {
        let mut latest = LatestSnapshots::default();
        latest.take(shard(0, 3, 1.0));
        latest.take(shard(0, 5, 1.0));
        assert!(text(&latest).contains("rehydrate_total{keyspace=\"prod\"} 5"));
    }
}
