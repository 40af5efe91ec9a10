//! What lists and reports hold.

use std::collections::BTreeMap;

use keyway_protocol::{Algorithm, KeyId, KeyState, KeyVersions};
use serde::{Deserialize, Serialize};

/// A key in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    /// The key.
    pub key_id: KeyId,
    /// Its newest version.
    pub key_version: u32,
    /// Its algorithm; `None` where nothing tells it any more, as of a revoked key.
    pub algorithm: Option<Algorithm>,
    /// Whether it can be used.
    pub state: KeyState,
    /// The versions that it has, and which of them are revoked; `None` where nothing tells them: the key is revoked or
    /// damaged, or has not been written since an older server wrote it.
    pub versions: Option<KeyVersions>,
}

/// Some of the keys of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPage {
    /// The keys.
    pub keys: Vec<ListedKey>,
    /// Where the next page starts; empty if this is the last.
    pub cursor: Vec<u8>,
}

/// A keyspace in a list. Members that this client does not know are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceInfo {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether it is locked, if the server says.
    #[serde(default)]
    pub locked: Option<bool>,
    /// Whether something that was taken away, by a lock or otherwise, is in force and not written: a restart would
    /// undo it.
    #[serde(default)]
    pub unwritten: bool,
    /// The KMS that wraps its DEKs, if the server says.
    #[serde(default)]
    pub kms: Option<String>,
    /// The generation of its current DEK, from 1, if the server says.
    #[serde(default)]
    pub generation: Option<u32>,
    /// What a rotation still has to do in the background; `None` if nothing.
    #[serde(default)]
    pub reseal: Option<Reseal>,
    /// DEKs that rotations have retired and that are still stored, if there are any.
    #[serde(default)]
    pub retired_deks: Option<RetiredDeks>,
    /// Its settings, as text.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// What is granted to whom: the names of the grants, with commas, by principal.
    #[serde(default)]
    pub allow: BTreeMap<String, String>,
    /// Temporary overrides, by the name of the setting or `allow:PRINCIPAL`.
    #[serde(default)]
    pub overrides: BTreeMap<String, Override>,
}

/// The expiry of a temporary override.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// When it reverts, in ms since 1970, by the server's clock.
    pub until_unix_ms: u64,
    /// The value that holds then; `none` for no grant.
    pub then: String,
}

/// What was changed of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceHistory {
    /// The last changes, newest first.
    pub changes: Vec<KeyspaceChange>,
}

/// One change of a keyspace. Members that this client does not know are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceChange {
    /// When, in ms since 1970, by the server's clock.
    pub unix_ms: u64,
    /// The author: a principal as in grants, `expired` for an override that expired, or `server`.
    pub who: String,
    /// What: a setting, `allow:PRINCIPAL`, `locked`, `kms`, `generation` (of the DEK) or `created`.
    pub what: String,
    /// Its value before, if there was one.
    #[serde(default)]
    pub from: Option<String>,
    /// Its value since, if there is one.
    #[serde(default)]
    pub to: Option<String>,
    /// When it was to revert, for a temporary override; ms since 1970.
    #[serde(default)]
    pub until_unix_ms: Option<u64>,
}

/// How far the keys of a keyspace have been sealed again under its current DEK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reseal {
    /// Keys that have been.
    pub resealed: u64,
    /// Keys that have not.
    pub left: u64,
}

/// DEKs of a keyspace that no key of it needs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredDeks {
    /// How many.
    pub count: u64,
    /// When the first of them was retired, in ms since 1970, by the server's clock.
    pub oldest_unix_ms: u64,
}

/// The hot keys of a keyspace, of all shards. Counts are of the last one to two minutes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKeys {
    /// The name of what they are ordered by: that of a [`HotBy`](crate::HotBy).
    pub by: String,
    /// How long that is, in ms.
    pub window_ms: u64,
    /// 1 if every request was counted. If it is N, one request in N was chosen at random and counted as N, and the counts
    /// of requests may in addition be off by about four times their square root.
    pub requests_counted_one_in: u32,
    /// The most that any key which is not listed can have, of what the list is ordered by.
    pub unlisted_max: u64,
    /// Of all keys of the keyspace.
    pub totals: HotTotals,
    /// The keys, hottest first.
    pub keys: Vec<HotKey>,
}

/// What all keys of a keyspace have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotTotals {
    /// Operations that asked for a key.
    pub requests: u64,
    /// Of these, those that had to wait for a load.
    pub waiters: u64,
    /// Time that loads took, in µs.
    pub rehydrate_us: u64,
}

/// A hot key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotKey {
    /// Its id.
    pub key: String,
    /// The shard that owns it.
    pub shard: u16,
    /// Operations that asked for it.
    pub requests: HotFigure,
    /// Of these, those that had to wait for a load.
    pub waiters: HotFigure,
    /// Time that its loads took, in µs.
    pub rehydrate_us: HotFigure,
}

/// A figure of a hot key. The true one is at least `count - excess_max`, and at most `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotFigure {
    /// The figure, never too low.
    pub count: u64,
    /// How much too high it can be.
    pub excess_max: u64,
}

/// Some of the keyspaces, by rising id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspacePage {
    /// The keyspaces.
    pub keyspaces: Vec<KeyspaceInfo>,
    /// Whether there are others, with greater ids.
    #[serde(default)]
    pub more: bool,
}

/// How an unlock is going.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnlockStatus {
    /// Where it stands.
    pub state: UnlockState,
    /// In words; may be empty.
    #[serde(default)]
    pub message: String,
    /// How many keys have been loaded again so far.
    #[serde(default)]
    pub keys_reloaded: u64,
    /// The shares given so far, while more are awaited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<SharesGiven>,
    /// How often a watching unlock has tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// What to run, while only an operator can open the keyspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Shares of a secret that have been given so far, and how many open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharesGiven {
    /// Different shares given so far.
    pub given: u8,
    /// How many open it.
    pub threshold: u8,
}

/// Where an unlock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnlockState {
    /// In progress.
    Pending,
    /// The keyspace is unlocked.
    Done,
    /// It failed; the message says why.
    Failed,
    /// The server does not know the ticket: it was not handed out for this keyspace since the server started, or ended
    /// too long ago.
    Unknown,
}

/// The status of a KMS after an unlock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KmsOpening {
    /// Its name.
    pub kms: String,
    /// Where it stands. `Locked` means that the share was right and more are needed.
    pub state: KmsState,
    /// The shares given so far, while more are awaited.
    #[serde(flatten)]
    pub shares: Option<SharesGiven>,
}

/// Whether a KMS can reach its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KmsState {
    /// It can wrap and unwrap.
    Unlocked,
    /// It is to be unlocked first.
    Locked,
    /// Its key is to be made first.
    Uninitialised,
}
