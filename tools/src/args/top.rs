//! `top`.

use std::time::Duration;

use clap::Args;
use keyway_client::KeyspaceName;

use crate::text;

/// `top`
#[derive(Debug, Args)]
pub struct Top {
    /// The keyspace whose hot keys are shown first; the busiest if not given.
    pub keyspace: Option<KeyspaceName>,
    /// How often it is updated.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = text::duration)]
    pub interval: Duration,
    /// Write one frame as text, covering one --interval, and exit.
    #[arg(long)]
    pub once: bool,
}
