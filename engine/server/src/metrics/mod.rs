//! Metrics for operators and Prometheus. Shards push [`snapshot`]s, the exporter's thread serves them; it never reaches
//! into a shard.

pub mod collector;
pub mod declare;
pub mod exporter;
pub mod families;
pub mod http;
mod keyspaces;
pub mod kms_series;
pub mod latency;
pub mod live;
pub mod page;
pub mod requests;
pub mod snapshot;
pub mod status;
mod status_page;
