//! The KMSes' metric families, and what their leases will cost.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto;

use super::collector::{counter, family, gauge};
use super::snapshot::{KeyspaceSnapshot, KmsSnapshot};

/// Name, help and value of a gauge with the label `kms`.
type Series = (&'static str, &'static str, fn(&KmsSnapshot) -> f64);

const SERIES: [Series; 6] = [
    (
        "keyway_kms_calls_in_flight",
        "Calls at the KMS now.",
        |kms| kms.calls_in_flight.into(),
    ),
    (
        "keyway_kms_unwraps_waiting",
        "DEKs being unwrapped or waiting for it.",
        |kms| kms.unwraps.into(),
    ),
    (
        "keyway_kms_rate_headroom_calls",
        "Calls that the budget's rate would let go at once.",
        |kms| kms.rate_tokens.into(),
    ),
    (
        "keyway_kms_retry_headroom_calls",
        "Retries that the budget would let go at once.",
        |kms| kms.retry_tokens.into(),
    ),
    (
        "keyway_kms_breaker_open",
        "1 while nobody, or one probe, asks the KMS since it has failed several times in a row.",
        |kms| f64::from(u8::from(kms.breaker != "closed")),
    ),
    (
        "keyway_kms_unlocked",
        "1 while the KMS can reach its key.",
        |kms| f64::from(u8::from(kms.state == "unlocked")),
    ),
];

/// Calls an hour that the leases of the keyspaces in use, which have one, and our logins, will cost at this KMS.
pub fn forecast_calls_per_hour(kms: &KmsSnapshot, live: &BTreeSet<u32>) -> f64 {
    let of_it = kms.lease_calls_per_hour.iter();
    // The logins are made whatever is in use.
    of_it
        .filter(|(keyspace, _)| live.contains(keyspace))
        .fold(kms.own_calls_per_hour, |sum, (_, calls)| sum + calls)
}

/// All families.
pub fn families(
    kms: &[KmsSnapshot],
    keyspaces: &[KeyspaceSnapshot],
    live: &BTreeSet<u32>,
) -> Vec<proto::MetricFamily> {
    let names: BTreeMap<u32, &str> = keyspaces
        .iter()
        .map(|keyspace| (keyspace.id, keyspace.name.as_str()))
        .collect();
    let mut families: Vec<_> = SERIES
        .iter()
        .map(|(name, help, value)| {
            let metrics = kms
                .iter()
                .map(|kms| gauge(&[("kms", &kms.name)], value(kms)));
            family(name, help, proto::MetricType::GAUGE, metrics)
        })
        .collect();
    families.push(family(
        "keyway_kms_forecast_calls_per_hour",
        "Calls an hour that the leases of the keyspaces in use cost, and the logins at the KMS.",
        proto::MetricType::GAUGE,
        kms.iter().map(|kms| {
            let forecast = forecast_calls_per_hour(kms, live);
            gauge(&[("kms", &kms.name)], forecast)
        }),
    ));
    families.push(family(
        "keyway_kms_trouble_keyspaces",
        "Keyspaces whose last call to the KMS failed, by the cause that the provider gave.",
        proto::MetricType::GAUGE,
        kms.iter().flat_map(|kms| {
            let causes = kms.trouble.iter().flat_map(|it| it.of_keyspaces.values());
            let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
            causes.for_each(|cause| *counts.entry(cause).or_default() += 1);
            if counts.is_empty() {
                counts.insert("none", 0);
            }
            counts.into_iter().map(|(cause, count)| {
                gauge(
                    &[("kms", kms.name.as_str()), ("cause", cause)],
                    count.into(),
                )
            })
        }),
    ));
    families.push(family(
        "keyway_kms_keyspaces_behind",
        "Keyspaces with a DEK that an older version of the KMS's key wrapped than the newest that was seen.",
        proto::MetricType::GAUGE,
        kms.iter().filter_map(|kms| {
            let behind = kms.key_versions?.keyspaces_behind;
            Some(gauge(&[("kms", &kms.name)], behind as f64))
        }),
    ));
    families.push(family(
        "keyway_kms_calls_total",
        "Calls to the KMS by keyspace, operation and outcome.",
        proto::MetricType::COUNTER,
        kms.iter().flat_map(|kms| {
            // A keyspace that no shard knows yet has a series as soon as it has a name.
            let named = kms.calls.iter().filter_map(|calls| {
                let name = match calls.keyspace {
                    0 => "",
                    id => names.get(&id).copied()?,
                };
                Some((calls, name))
            });
            named.map(|(calls, name)| {
                let labels = [
                    ("kms", kms.name.as_str()),
                    ("keyspace", name),
                    ("operation", calls.operation),
                    ("outcome", calls.outcome),
                ];
                counter(&labels, calls.count as f64)
            })
        }),
    ));
    families
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
