//! `doctor`.

use std::time::Duration;

use clap::Args;
use keyway_client::KeyspaceName;

use crate::text;

/// Shards publish metrics once a second, so a shorter window would show no change.
const WATCH_MIN: Duration = Duration::from_secs(2);
const WATCH_MAX: Duration = Duration::from_secs(600);

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Only this keyspace, and the shards and KMSes.
    pub keyspace: Option<KeyspaceName>,
    /// How long to watch the counters: 2s to 10m.
    // The alias is its name until 0.1, which scripts use.
    #[arg(
        long,
        alias = "watch-for",
        value_name = "TIME",
        default_value = "5s",
        value_parser = duration
    )]
    pub duration: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = text::duration(text)?;
    match (WATCH_MIN..=WATCH_MAX).contains(&time) {
        true => Ok(time),
        false => Err("it must be from 2s to 10m".into()),
    }
}
