//! `keyspace …`.

use std::time::Duration;

use clap::Subcommand;
use keyway_client::{KeyspaceName, KmsName};

use super::{Setting, setting};
use crate::text;

/// `keyspace …`
#[derive(Debug, Subcommand)]
pub enum Keyspace {
    /// Make a keyspace.
    Create {
        /// Its name: 1 to 64 of a-z, 0-9, `.`, `_`, `-`.
        keyspace: KeyspaceName,
        /// The KMS that wraps its DEKs; the server's first if not given.
        #[arg(long, value_name = "NAME")]
        kms: Option<KmsName>,
        /// Settings that differ from the defaults, as in soft_ttl_ms=60000.
        #[arg(value_name = "NAME=VALUE", value_parser = setting)]
        settings: Vec<Setting>,
    },
    /// Change settings, or grant operations: allow:uid:1000=sign,verify.
    Set {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Settings, all or none of which are made.
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = setting)]
        settings: Vec<Setting>,
        /// Only for so long, then they go back by themselves: 1s to 720h, as in 15m.
        #[arg(long = "for", value_name = "TIME", value_parser = text::duration)]
        lasts: Option<Duration>,
    },
    /// Show who changed what of a keyspace, and when: the last 100 changes, newest first.
    History {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Only the newest so many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// List the keyspaces; with a name, that one's settings and grants.
    List {
        /// Only this one, in full.
        keyspace: Option<KeyspaceName>,
    },
    /// Give a keyspace a new DEK; its keys are sealed again in the background.
    Rotate {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Follow it until all keys are sealed again; for 10 minutes if no time is given.
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
    /// Destroy the DEKs that rotations have retired, which are kept for 30 days otherwise: no backup from before the
    /// last rotation can be read any more.
    DestroyDeks {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Have another KMS wrap a keyspace's DEKs. A rotation should follow.
    Rewrap {
        /// The keyspace.
        keyspace: KeyspaceName,
        /// The other KMS.
        #[arg(long, value_name = "NAME")]
        kms: KmsName,
    },
}
