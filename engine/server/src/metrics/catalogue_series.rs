//! The metric families of the file of keyspaces.

use prometheus::proto;

use super::collector::{counter, family, gauge};
use super::snapshot::CatalogueSnapshot;

/// All families.
pub fn families(catalogue: &CatalogueSnapshot) -> [proto::MetricFamily; 2] {
    [
        family(
            "keyway_keyspaces_unwritten_changes",
            "Locks and other withdrawals in force that could not be written: a restart would undo them.",
            proto::MetricType::GAUGE,
            [gauge(&[], catalogue.unwritten_changes as f64)],
        ),
        family(
            "keyway_keyspaces_write_failures_total",
            "Failed writes of keyspaces.json.",
            proto::MetricType::COUNTER,
            [counter(&[], catalogue.write_failures_total as f64)],
        ),
    ]
}
