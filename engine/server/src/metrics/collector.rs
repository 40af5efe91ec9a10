//! Turns the latest snapshots into Prometheus metric families.
//!
//! The runbook's series carry the keyspace alone and are summed over shards here; what belongs to
//! one shard has a name of its own and a `shard` label.

use std::collections::BTreeMap;
use std::time::Instant;

use prometheus::proto;

use super::latency::{BOUNDS_US, Latency};
use super::shard_series::SHARD_SERIES;
use super::snapshot::{
    CatalogueSnapshot, HotSnapshot, KeyspaceSnapshot, KmsSnapshot, LockState, OPERATIONS, OUTCOMES,
    SettingsSnapshot, ShardSnapshot, Snapshot,
};
use super::{catalogue_series, kms_series};

/// The latest snapshot of everyone.
#[derive(Debug, Default)]
pub struct Latest {
    pub(super) shards: BTreeMap<u16, ShardSnapshot>,
    kms: Vec<KmsSnapshot>,
    catalogue: CatalogueSnapshot,
    settings: Vec<SettingsSnapshot>,
    hot: BTreeMap<(u32, &'static str), (Instant, HotSnapshot)>,
}

impl Latest {
    /// Takes a snapshot in place of the sender's last one.
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

    /// The hot keys of a keyspace, in each order that was told: since when that is known, and what.
    pub fn hot_of(&self, keyspace: u32) -> impl Iterator<Item = &(Instant, HotSnapshot)> {
        let of_it = self.hot.range((keyspace, "")..);
        of_it
            .take_while(move |((id, _), _)| *id == keyspace)
            .map(|(_, hot)| hot)
    }

    /// All metric families, sorted by name.
    pub fn families(&self) -> Vec<proto::MetricFamily> {
        let mut families = self.keyspace_families();
        families.extend(self.shard_families());
        families.extend(kms_series::families(
            &self.kms,
            &self.keyspaces(),
            &self.live_keyspaces(),
        ));
        families.extend(catalogue_series::families(&self.catalogue));
        families.push(family(
            "keyway_build_info",
            "Version of the running server; always 1.",
            proto::MetricType::GAUGE,
            [gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0)],
        ));
        families.retain(|family| !family.get_metric().is_empty());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        families
    }

    fn keyspace_families(&self) -> Vec<proto::MetricFamily> {
        let keyspaces = self.keyspaces();
        let mut families: Vec<_> = KEYSPACE_SERIES
            .iter()
            .map(|(name, help, kind, value)| {
                let metrics = keyspaces.iter().map(|keyspace| {
                    metric(*kind, &[("keyspace", &keyspace.name)], value(keyspace))
                });
                family(name, help, *kind, metrics)
            })
            .collect();
        families.push(family(
            "rehydrate_latency_ms",
            "Time to read a key's blob and open it, in milliseconds.",
            proto::MetricType::HISTOGRAM,
            keyspaces.iter().map(|keyspace| {
                histogram(
                    &[("keyspace", &keyspace.name)],
                    &keyspace.rehydrate_latency,
                    MS,
                )
            }),
        ));
        families.push(family(
            "keyway_keyspace_state",
            "Where a keyspace stands with its DEK: 1 for the state that it is in.",
            proto::MetricType::GAUGE,
            keyspaces.iter().flat_map(|keyspace| {
                LockState::ALL.map(|state| {
                    let labels = [
                        ("keyspace", keyspace.name.as_str()),
                        ("state", state.name()),
                    ];
                    gauge(&labels, f64::from(u8::from(keyspace.state == state)))
                })
            }),
        ));
        families.push(family(
            "keyway_requests_total",
            "Requests answered, by keyspace, operation and outcome.",
            proto::MetricType::COUNTER,
            keyspaces.iter().flat_map(|keyspace| {
                OPERATIONS
                    .iter()
                    .zip(keyspace.requests.0)
                    .flat_map(|(operation, outcomes)| {
                        OUTCOMES
                            .iter()
                            .zip(outcomes)
                            .filter(|(_, count)| *count > 0)
                            .map(|(outcome, count)| {
                                let labels = [
                                    ("keyspace", keyspace.name.as_str()),
                                    ("operation", *operation),
                                    ("outcome", *outcome),
                                ];
                                counter(&labels, count as f64)
                            })
                            .collect::<Vec<_>>()
                    })
            }),
        ));
        families
    }

    fn shard_families(&self) -> Vec<proto::MetricFamily> {
        let mut families: Vec<_> = SHARD_SERIES
            .iter()
            .map(|(name, help, kind, value)| {
                let metrics = self.shards.values().map(|shard| {
                    metric(*kind, &[("shard", &shard.shard.to_string())], value(shard))
                });
                family(name, help, *kind, metrics)
            })
            .collect();
        let histograms: [ShardHistogram; 2] = [
            (
                "keyway_shard_turn_seconds",
                "Length of a shard's turns.",
                |s| &s.turn,
            ),
            (
                "keyway_shard_load_wait_seconds",
                "Time a load waited for a read slot.",
                |s| &s.load_wait,
            ),
        ];
        for (name, help, latency) in histograms {
            let metrics = self.shards.values().map(|shard| {
                histogram(
                    &[("shard", &shard.shard.to_string())],
                    latency(shard),
                    SECOND,
                )
            });
            families.push(family(name, help, proto::MetricType::HISTOGRAM, metrics));
        }
        families
    }
}

pub(super) type Series<T> = (&'static str, &'static str, proto::MetricType, fn(&T) -> f64);

/// Name, help, and where the figures are.
type ShardHistogram = (&'static str, &'static str, fn(&ShardSnapshot) -> &Latency);

pub(super) const COUNTER: proto::MetricType = proto::MetricType::COUNTER;
pub(super) const GAUGE: proto::MetricType = proto::MetricType::GAUGE;

const KEYSPACE_SERIES: &[Series<KeyspaceSnapshot>] = &[
    (
        "rehydrate_total",
        "Local rehydrations, all of them.",
        COUNTER,
        |k| k.rehydrate_total as f64,
    ),
    (
        "rehydrate_fail_total",
        "Rehydrations that failed.",
        COUNTER,
        |k| k.rehydrate_fail_total as f64,
    ),
    (
        "singleflight_waiters",
        "Requests waiting now for a refresh.",
        GAUGE,
        |k| k.singleflight_waiters as f64,
    ),
    (
        "singleflight_wait_timeout_total",
        "Waits that used up their budget.",
        COUNTER,
        |k| k.singleflight_wait_timeout_total as f64,
    ),
    (
        "prefetch_scan_total",
        "Passes of the prefetcher over the keyspace.",
        COUNTER,
        |k| k.prefetch_scan_total as f64,
    ),
    (
        "prefetch_trigger_total",
        "Refreshes that the prefetcher started.",
        COUNTER,
        |k| k.prefetch_trigger_total as f64,
    ),
    (
        "prefetch_skipped_total",
        "Keys that were due and passed over because max_in_flight was reached.",
        COUNTER,
        |k| k.prefetch_skipped_total as f64,
    ),
    (
        "keyway_prefetch_warm_total",
        "Loads of keys that were hot when the server last ran.",
        COUNTER,
        |k| k.prefetch_warm_total as f64,
    ),
    (
        "keyway_hits_total",
        "Requests served from an unlocked key at once.",
        COUNTER,
        |k| k.hits as f64,
    ),
    (
        "keyway_misses_total",
        "Requests that waited or were refused.",
        COUNTER,
        |k| k.misses as f64,
    ),
    (
        "keyway_evicted_total",
        "Keys dropped before their time, for room.",
        COUNTER,
        |k| k.evicted_total as f64,
    ),
    ("keyway_resident_keys", "Unlocked keys held.", GAUGE, |k| {
        k.resident_keys as f64
    }),
    (
        "keyway_resident_key_bytes",
        "Locked memory of unlocked keys.",
        GAUGE,
        |k| k.resident_key_bytes as f64,
    ),
    ("keyway_flights", "Refreshes under way.", GAUGE, |k| {
        k.flights as f64
    }),
    (
        "keyway_oldest_served_age_seconds",
        "Age of the oldest key served within the last second.",
        GAUGE,
        |k| k.oldest_served_age_us as f64 / 1e6,
    ),
    (
        "keyway_aead_uses_ratio",
        "Share of its 2^32 encryptions that the most used AEAD key has done since the start.",
        GAUGE,
        |k| k.aead_uses_ratio,
    ),
    (
        "keyway_dek_lease_left_seconds",
        "Time left of the DEK lease; 0 without one.",
        GAUGE,
        |k| k.dek_lease_left_s,
    ),
    (
        "keyway_keyspace_locked",
        "1 when an operator has locked the keyspace.",
        GAUGE,
        |k| f64::from(u8::from(k.locked)),
    ),
];

pub(super) fn family(
    name: &str,
    help: &str,
    kind: proto::MetricType,
    metrics: impl IntoIterator<Item = proto::Metric>,
) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics.into_iter().collect());
    family
}

fn labelled(labels: &[(&str, &str)]) -> proto::Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    proto::Metric::from_label(pairs.collect())
}

pub(super) fn metric(
    kind: proto::MetricType,
    labels: &[(&str, &str)],
    value: f64,
) -> proto::Metric {
    if kind == COUNTER {
        counter(labels, value)
    } else {
        gauge(labels, value)
    }
}

pub(super) fn counter(labels: &[(&str, &str)], value: f64) -> proto::Metric {
    let mut metric = labelled(labels);
    let mut counter = proto::Counter::default();
    counter.set_value(value);
    metric.set_counter(counter);
    metric
}

pub(super) fn gauge(labels: &[(&str, &str)], value: f64) -> proto::Metric {
    let mut metric = labelled(labels);
    let mut gauge = proto::Gauge::default();
    gauge.set_value(value);
    metric.set_gauge(gauge);
    metric
}

/// Microseconds in the unit of `rehydrate_latency_ms`, whose name is the runbook's.
const MS: f64 = 1e3;

/// Microseconds in Prometheus' own unit.
const SECOND: f64 = 1e6;

fn histogram(labels: &[(&str, &str)], latency: &Latency, unit_us: f64) -> proto::Metric {
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
    let mut metric = labelled(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn text(latest: &Latest) -> String {
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
        keyspace.requests.0[0][0] = rehydrates;
        Snapshot::Shard(Box::new(ShardSnapshot {
            shard: index,
            keyspaces: vec![keyspace],
            ..ShardSnapshot::default()
        }))
    }

    #[test]
    fn the_runbooks_series_are_summed_over_shards_and_carry_the_keyspace_alone() {
        let mut latest = Latest::default();
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

    #[test]
    fn a_newer_snapshot_replaces_the_older_one() {
        let mut latest = Latest::default();
        latest.take(shard(0, 3, 1.0));
        latest.take(shard(0, 5, 1.0));
        assert!(text(&latest).contains("rehydrate_total{keyspace=\"prod\"} 5"));
    }
}
