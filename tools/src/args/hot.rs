//! `hot`.

use clap::Args;
use keyway_client::{HotBy, KeyspaceName};

/// `hot`
#[derive(Debug, Args)]
pub struct Hot {
    /// The keyspace.
    pub keyspace: KeyspaceName,
    /// What they are ordered by: requests, waiters (requests that had to wait for a load) or
    /// rehydrate-time (of all loads together).
    #[arg(long, value_name = "ORDER", default_value = "requests")]
    pub by: HotBy,
    /// How many keys, at most.
    #[arg(long, value_name = "COUNT", default_value_t = 20,
          value_parser = clap::value_parser!(u16).range(1..=128))]
    pub limit: u16,
}
