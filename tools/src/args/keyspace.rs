//! `keyspace …`.

use std::time::Duration;

use clap::Subcommand;
use keyway_client::{KeyspaceName, KmsName};

use super::{Setting, setting};
use crate::text;

/// `keyspace …`
#[derive(Debug, Subcommand)]
pub enum Keyspace {
    /// Create a keyspace.
    Create {
        /// Its name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`.
        keyspace: KeyspaceName,
        /// The KMS that wraps its DEKs; the server's default if not given.
        #[arg(long, value_name = "NAME")]
        kms: Option<KmsName>,
        /// Settings that differ from the defaults, e.g. soft_ttl_ms=60000.
        #[arg(value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<Setting>,
    },
    /// Change settings, or grant operations: allow:uid:1000=sign,verify.
    Set {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Settings, which are applied atomically.
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = setting)]
        settings: Vec<Setting>,
        /// Revert the change automatically after TIME (1s to 720h, e.g. 15m).
        #[arg(long = "for", value_name = "TIME", value_parser = text::duration)]
        lasts: Option<Duration>,
    },
    /// Show the last 100 changes of a keyspace and their authors, newest first.
    History {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Only the latest N.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// List the keyspaces, or the settings and grants of one.
    List {
        /// Only this one, with all settings and grants.
        keyspace: Option<KeyspaceName>,
    },
    /// Rotate a keyspace's DEK. Its keys are resealed in the background.
    Rotate {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Wait until all keys are resealed; for 10 minutes if no time is given.
        #[arg(
            long,
            value_name = "TIME",
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "10m",
            value_parser = text::duration
        )]
        wait: Option<Duration>,
    },
    /// Destroy the DEKs that rotations have retired, which are otherwise kept for 30 days. Backups from before the last
    /// rotation become unreadable.
    DestroyDeks {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Do not prompt for confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Rewrap a keyspace's DEKs with another KMS. Rotate the DEK afterwards.
    Rewrap {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// The other KMS.
        #[arg(long, value_name = "NAME")]
        kms: KmsName,
    },
}
