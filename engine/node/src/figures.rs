//! Measurements that control reports to the exporter: plain data.

use std::collections::BTreeMap;

use keyway_protocol::HotBy;

/// Why a KMS does not unwrap.
#[derive(Clone, Debug, Default)]
pub struct KmsTrouble {
    /// What the latest failure means to callers, in a word.
    pub class: &'static str,
    /// What it comes from, in a word.
    pub cause: &'static str,
    /// What happened, in the provider's words.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
    /// Since when no time passed without a keyspace whose last call had failed, ms since 1970.
    pub since_unix_ms: u64,
    /// Whether it is over: no keyspace's last call has failed any more.
    pub is_over: bool,
    /// Keyspaces whose last call failed, each with the cause.
    pub of_keyspaces: BTreeMap<u32, &'static str>,
}

/// How the file of keyspaces is being written.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatalogueFigures {
    /// Changes that are in force and could not be written: a restart would undo them.
    pub unwritten_changes: u64,
    /// Writes that failed.
    pub write_failures_total: u64,
}

/// When a temporary override of a setting expires.
#[derive(Clone, Debug)]
pub struct Until {
    /// When it reverts, ms since 1970.
    pub unix_ms: u64,
    /// The value that holds then.
    pub then: String,
}

/// One setting in force.
#[derive(Clone, Debug)]
pub struct SettingSnapshot {
    /// Its name.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// When it reverts automatically, if it does.
    pub until: Option<Until>,
}

/// The settings of one keyspace.
#[derive(Clone, Debug)]
pub struct SettingsSnapshot {
    /// Keyspace id.
    pub keyspace: u32,
    /// Name of the KMS that wraps its DEKs.
    pub kms: String,
    /// Generation of its newest DEK.
    pub generation: u32,
    /// All of them.
    pub settings: Vec<SettingSnapshot>,
}

/// Hot keys of one keyspace, of all shards.
#[derive(Clone, Debug)]
pub struct HotSnapshot {
    /// Keyspace id.
    pub keyspace: u32,
    /// What they are ordered by.
    pub by: HotBy,
    /// As KEYSPACE_HOT answers; without key ids, unless the page may show them.
    pub document: serde_json::Value,
}
