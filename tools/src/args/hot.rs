//! `hot`.

use clap::Args;
use keyway_client::{HotBy, KeyspaceName};

/// `hot`
#[derive(Debug, Args)]
pub struct Hot {
    /// The keyspace.
    pub keyspace: KeyspaceName,
    /// The order: requests, waiters (requests that had to wait for a load) or rehydrate-time (the
    /// total time of all loads).
    #[arg(long, value_name = "ORDER", default_value = "requests")]
    pub by: HotBy,
    /// The most keys to list.
    #[arg(long, value_name = "COUNT", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(1..=128))]
    pub limit: u16,
}
