//! The keyspaces of the node, stored in one file that is replaced atomically.
//!
//! `keyspaces.json` in the data directory holds settings, policies, lock flags, wrapped DEKs and the latest changes, so a
//! change and its entry in the history are saved atomically. It contains no secret in plaintext.

mod deks;
mod edit;
mod history;
mod overrides;
mod sealed;
mod settings_change;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyway_core::{Settings, SettingsError};
use keyway_protocol::{KeyspaceName, Status};
use serde::{Deserialize, Serialize};

use crate::policy::{NO_GRANT, Policy};
use crate::time::Moment;

pub use deks::{RETIRED_DEKS_MAX, RETIRED_KEPT_MS, RetiredDek, WrappedDek};
pub use edit::Edit;
pub use history::{Change, ChangeAuthor, HISTORY_MAX, History};
use shared::Shared;

pub use overrides::{Override, OverrideDuration};
pub use settings_change::SettingsChange;

/// Name of the file in the data directory.
pub const FILE: &str = "keyspaces.json";

/// Version of the file's format. Older versions are read also: format 1 has no KMS but the local one, format 2 no history
/// and no overrides, format 3 no retired DEKs.
const FORMAT: u32 = 4;

/// Oldest format that is read.
const FORMAT_MIN: u32 = 1;

/// The KMS of format 1's keyspaces.
const KMS_OF_FORMAT_1: &str = "local";

/// Generation of a keyspace's first DEK.
pub const FIRST_GENERATION: u32 = 1;

/// Prefix of a name in settings that denotes a principal's grants.
const ALLOW: &str = "allow:";

/// Most keyspaces of a node.
pub const KEYSPACES_MAX: usize = 16_384;

const _: () = assert!(KEYSPACES_MAX <= keyway_core::KEYSPACES_MAX);

/// Most principals with grants in a keyspace, now or after an override expires. A row of KEYSPACE_LIST with all of them
/// fits into one response.
pub const PRINCIPALS_MAX: usize = 256;

/// All keyspaces. A copy shares every keyspace that neither side changes afterwards, so copying is cheap.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    format: u32,
    /// The id of the next keyspace. Ids are never reused.
    next_id: u32,
    keyspaces: Shared,
}

/// The state of some keyspaces before a change.
pub struct Before {
    next_id: u32,
    keyspaces: BTreeMap<u32, Option<Arc<Keyspace>>>,
}

impl Before {
    /// Returns a keyspace as it was, if it existed.
    pub fn keyspace(&self, id: u32) -> Option<&Keyspace> {
        self.keyspaces.get(&id)?.as_deref()
    }
}

/// The stored state of a keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyspace {
    /// Its name, unique on the node.
    pub name: String,
    /// Settings that an operator has set. All others have their defaults.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// The grants of each principal.
    #[serde(default)]
    pub policy: Policy,
    /// Locked by an operator: no DEK is unwrapped until an unlock.
    #[serde(default)]
    pub locked: bool,
    /// Name of the KMS that wrapped the DEKs.
    #[serde(default = "kms_of_format_1")]
    pub kms: String,
    /// Wrapped DEKs by generation, base64. The highest is current; lower ones are kept until no blob needs them.
    deks: BTreeMap<u32, String>,
    /// DEKs that no stored blob needs, kept for blobs restored from backups.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    retired: BTreeMap<u32, RetiredDek>,
    /// Temporary overrides, by the name of what they change: a setting, or `allow:PRINCIPAL`.
    #[serde(
        rename = "limited",
        default,
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    overrides: BTreeMap<String, Override>,
    /// The latest changes.
    #[serde(default)]
    pub history: History,
}

/// A keyspace to create.
#[derive(Clone, Copy, Debug)]
pub struct NewKeyspace<'a> {
    /// The keyspace name.
    pub name: &'a str,
    /// The settings and grants.
    pub change: &'a SettingsChange,
    /// The KMS that wrapped the first DEK (generation 1).
    pub kms: &'a str,
    /// The wrapped first DEK.
    pub record: &'a [u8],
}

fn kms_of_format_1() -> String {
    KMS_OF_FORMAT_1.to_owned()
}

/// Why a catalogue or a change is refused: what, the value, the remedy.
#[derive(Debug, PartialEq, Eq)]
pub enum CatalogueError {
    /// The request is invalid.
    Bad(String),
    /// A keyspace of that name exists.
    Exists(String),
    /// A concurrent or unfinished operation conflicts with it.
    Conflict(String),
    /// Too many operations are in progress.
    Busy(String),
    /// No keyspace has that id.
    Missing(u32),
}

impl std::fmt::Display for CatalogueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CatalogueError::Bad(text)
            | CatalogueError::Conflict(text)
            | CatalogueError::Busy(text) => f.write_str(text),
            CatalogueError::Exists(name) => {
                write!(
                    f,
                    "keyspace `{name}` exists; use `keyway keyspace set {name} …`"
                )
            }
            CatalogueError::Missing(id) => write!(f, "there is no keyspace with id {id}"),
        }
    }
}

impl std::error::Error for CatalogueError {}

impl From<CatalogueError> for (Status, String) {
    fn from(error: CatalogueError) -> Self {
        let status = match error {
            CatalogueError::Bad(_) => Status::BadRequest,
            CatalogueError::Exists(_) | CatalogueError::Conflict(_) => Status::Conflict,
            CatalogueError::Busy(_) => Status::Overloaded,
            CatalogueError::Missing(_) => Status::NoKeyspace,
        };
        (status, error.to_string())
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        Catalogue {
            format: FORMAT,
            next_id: 1,
            keyspaces: Shared::default(),
        }
    }
}

impl Catalogue {
    /// Parses the text of the file, without seals.
    pub fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        let document = serde_json::from_str(text).map_err(|error| not_valid(&error))?;
        Catalogue::from_document(document)
    }

    /// Parses the file's document, without seals.
    pub fn from_document(document: serde_json::Value) -> Result<Catalogue, CatalogueError> {
        let mut catalogue: Catalogue =
            serde_json::from_value(document).map_err(|error| not_valid(&error))?;
        if !(FORMAT_MIN..=FORMAT).contains(&catalogue.format) {
            return Err(CatalogueError::Bad(format!(
                "{FILE} has format {}, this server reads {FORMAT_MIN} to {FORMAT}; use a matching server",
                catalogue.format
            )));
        }
        catalogue.format = FORMAT;
        for (_, keyspace) in catalogue.keyspaces.iter() {
            keyspace.check_stored()?;
            keyspace.deks()?;
        }
        Ok(catalogue)
    }

    /// Returns the text of the file.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("maps of strings always encode");
        text.push('\n');
        text
    }

    /// Returns the keyspaces by id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Keyspace)> {
        let keyspaces = self.keyspaces.iter();
        keyspaces.map(|(id, keyspace)| (id, &**keyspace))
    }

    /// Returns a catalogue with everything except the keyspaces.
    #[must_use]
    pub fn without_keyspaces(&self) -> Catalogue {
        Catalogue {
            keyspaces: Shared::default(),
            ..*self
        }
    }

    /// Returns shared handles of the keyspaces by id. A keyspace whose `Arc` is the same as before has not changed.
    pub fn shared(&self) -> impl Iterator<Item = (u32, &Arc<Keyspace>)> {
        self.keyspaces.iter()
    }

    /// Returns the keyspace with that id.
    pub fn keyspace(&self, id: u32) -> Result<&Keyspace, CatalogueError> {
        let found = self.keyspaces.get(id).map(|keyspace| &**keyspace);
        found.ok_or(CatalogueError::Missing(id))
    }

    /// Returns the id of the next keyspace, so that a DEK can be bound to it before [`Catalogue::create`].
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Checks that a keyspace of that name can be created: the name is valid and not in use.
    pub fn check_new(&self, name: &str) -> Result<(), CatalogueError> {
        KeyspaceName::new(name).map_err(|error| CatalogueError::Bad(error.to_string()))?;
        if self
            .keyspaces
            .iter()
            .any(|(_, keyspace)| keyspace.name == name)
        {
            return Err(CatalogueError::Exists(name.to_owned()));
        }
        if self.keyspaces.len() >= KEYSPACES_MAX {
            return Err(CatalogueError::Bad(format!(
                "the node already has {KEYSPACES_MAX} keyspaces, which is the maximum"
            )));
        }
        Ok(())
    }

    /// Adds a keyspace. Returns its id.
    pub fn create(
        &mut self,
        new: NewKeyspace<'_>,
        by: &ChangeAuthor,
    ) -> Result<u32, CatalogueError> {
        let id = self.next_id;
        self.create_as(id, new, by)?;
        Ok(id)
    }

    /// Adds a keyspace under an id reserved for it. The id was never in use, and was at least [`Catalogue::next_id`] when
    /// it was reserved.
    pub fn create_as(
        &mut self,
        id: u32,
        new: NewKeyspace<'_>,
        by: &ChangeAuthor,
    ) -> Result<(), CatalogueError> {
        self.check_new(new.name)?;
        let mut keyspace = Keyspace {
            name: new.name.to_owned(),
            settings: BTreeMap::new(),
            policy: Policy::default(),
            locked: false,
            kms: new.kms.to_owned(),
            deks: BTreeMap::from([(FIRST_GENERATION, BASE64.encode(new.record))]),
            retired: BTreeMap::new(),
            overrides: BTreeMap::new(),
            history: History::default(),
        };
        keyspace.history.note(Change::new(by, "created"));
        keyspace.apply(new.change, by)?;
        self.next_id = self.next_id.max(id.saturating_add(1));
        self.keyspaces.insert(id, keyspace);
        Ok(())
    }

    /// Changes settings and grants of a keyspace atomically.
    ///
    /// A permanent change cancels an override of the same setting. An override replaces another: the new expiry applies,
    /// and the setting still reverts to its value from before the first override.
    pub fn set(
        &mut self,
        id: u32,
        change: &SettingsChange,
        by: &ChangeAuthor,
    ) -> Result<(), CatalogueError> {
        let changed = self.changed(id, change, by)?;
        self.keyspaces.insert(id, changed);
        Ok(())
    }

    /// Returns the keyspace as [`Catalogue::set`] would leave it.
    pub fn changed(
        &self,
        id: u32,
        change: &SettingsChange,
        by: &ChangeAuthor,
    ) -> Result<Keyspace, CatalogueError> {
        let mut changed = self.keyspace(id)?.clone();
        changed.apply(change, by)?;
        Ok(changed)
    }

    /// Restarts the timers of the overrides. Must be called once after [`Catalogue::parse`]; without it every override
    /// has expired.
    pub fn resume(&mut self, now: Moment) {
        for id in self.ids_where(|_| true) {
            if let Some(keyspace) = self.keyspaces.get_mut(id) {
                keyspace.resume(now);
            }
        }
    }

    /// Returns `true` if [`Catalogue::revert_expired`] would change anything.
    pub fn is_due(&self, now: Moment) -> bool {
        self.iter().any(|(_, keyspace)| keyspace.is_due(now))
    }

    /// Reverts expired overrides. Returns the changes, by keyspace.
    pub fn revert_expired(&mut self, now: Moment) -> Vec<(u32, Change)> {
        let mut ended = Vec::new();
        for id in self.ids_where(|keyspace| keyspace.is_due(now)) {
            let changes = self
                .keyspaces
                .get_mut(id)
                .map(|due| due.revert_expired(now));
            ended.extend(changes.into_iter().flatten().map(|change| (id, change)));
        }
        ended
    }

    fn ids_where(&self, is_meant: impl Fn(&Keyspace) -> bool) -> Vec<u32> {
        let meant = self.iter().filter(|(_, keyspace)| is_meant(keyspace));
        meant.map(|(id, _)| id).collect()
    }

    /// Sets or clears the lock flag of a keyspace.
    pub fn set_locked(
        &mut self,
        id: u32,
        locked: bool,
        by: &ChangeAuthor,
    ) -> Result<(), CatalogueError> {
        if self.keyspace(id)?.locked != locked {
            let keyspace = self.keyspace_mut(id)?;
            let change = Change::new(by, "locked").between(keyspace.locked, locked);
            keyspace.history.note(change);
            keyspace.locked = locked;
        }
        Ok(())
    }

    /// Copies these keyspaces, so that a change that fails can be undone.
    pub fn clone_of(&self, ids: &[u32]) -> Before {
        let keyspaces = ids.iter().map(|id| (*id, self.keyspaces.get(*id).cloned()));
        Before {
            next_id: self.next_id,
            keyspaces: keyspaces.collect(),
        }
    }

    /// Undoes a change.
    pub fn put_back(&mut self, before: Before) {
        self.next_id = before.next_id;
        for (id, keyspace) in before.keyspaces {
            match keyspace {
                Some(keyspace) => self.keyspaces.put(id, keyspace),
                None => drop(self.keyspaces.remove(id)),
            }
        }
    }

    fn keyspace_mut(&mut self, id: u32) -> Result<&mut Keyspace, CatalogueError> {
        let found = self.keyspaces.get_mut(id);
        found.ok_or(CatalogueError::Missing(id))
    }
}

impl Keyspace {
    /// Returns the settings in effect.
    pub fn settings(&self) -> Result<Settings, CatalogueError> {
        settings_of(&self.settings).map_err(|error| CatalogueError::Bad(error.to_string()))
    }

    fn apply(&mut self, change: &SettingsChange, by: &ChangeAuthor) -> Result<(), CatalogueError> {
        for one in change.iter() {
            self.change(&one.name, &one.value, change.lasts(), by);
        }
        self.check_principals()?;
        self.check(by.at)
    }

    /// Refuses more principals than a keyspace may have. A file of an earlier server that has more is read, and
    /// principals can be removed.
    fn check_principals(&self) -> Result<(), CatalogueError> {
        let ends = self
            .overrides
            .keys()
            .filter_map(|name| name.strip_prefix(ALLOW));
        let granted = self.policy.iter().map(|(principal, _)| principal);
        let principals: BTreeSet<&str> = granted.chain(ends).collect();
        if principals.len() > PRINCIPALS_MAX {
            return Err(CatalogueError::Bad(format!(
                "keyspace `{}` would grant rights to {} principals, and {PRINCIPALS_MAX} is the maximum; \
                 withdraw unused grants with allow:PRINCIPAL=none",
                self.name,
                principals.len()
            )));
        }
        Ok(())
    }

    /// Sets a canonical name to a canonical value.
    fn change(
        &mut self,
        name: &str,
        value: &str,
        lasts: Option<OverrideDuration>,
        by: &ChangeAuthor,
    ) {
        let (stored, from) = (self.stored(name), self.text(name));
        self.put(name, Some(value));
        let earlier = self.overrides.remove(name);
        let (had_end, mut until) = (earlier.is_some(), None);
        if let Some(lasts) = lasts {
            let previous = earlier.map_or(stored, Override::into_previous);
            let temporary = Override::new(lasts, previous, by.at);
            until = Some(temporary.until_unix_ms);
            self.overrides.insert(name.to_owned(), temporary);
        }
        let to = self.text(name);
        if from != to || had_end || until.is_some() {
            let change = Change::new(by, name).between(from, to).until(until);
            self.history.note(change);
        }
    }

    /// Returns the stored value of a canonical name. Returns `None` for a default, and if there is no grant.
    fn stored(&self, name: &str) -> Option<String> {
        match name.strip_prefix(ALLOW) {
            Some(principal) => self.policy.of(principal).map(str::to_owned),
            None => self.settings.get(name).cloned(),
        }
    }

    /// Returns the value in effect of a canonical name, as text.
    fn text(&self, name: &str) -> String {
        self.stored(name).unwrap_or_else(|| self.default_text(name))
    }

    /// Returns the value that applies if none is stored.
    fn default_text(&self, name: &str) -> String {
        let default = Settings::default();
        let mut defaults = default.iter_stored();
        defaults
            .find(|(known, _)| *known == name)
            .map_or_else(|| NO_GRANT.to_owned(), |(_, value)| value)
    }

    /// Stores a canonical value under a canonical name, or removes it.
    fn put(&mut self, name: &str, value: Option<&str>) {
        match (name.strip_prefix(ALLOW), value) {
            (Some(principal), value) => self.policy.put(principal, value.unwrap_or(NO_GRANT)),
            (None, Some(value)) => {
                self.settings.insert(name.to_owned(), value.to_owned());
            }
            (None, None) => {
                self.settings.remove(name);
            }
        }
    }
}

fn not_valid(error: &serde_json::Error) -> CatalogueError {
    CatalogueError::Bad(format!("{FILE} is not valid: {error}"))
}

/// Returns the settings with these values; all others have their defaults.
fn settings_of(values: &BTreeMap<String, String>) -> Result<Settings, SettingsError> {
    let mut settings = Settings::default();
    for (name, value) in values {
        settings.set(name, value)?;
    }
    settings.validate()?;
    Ok(settings)
}

#[cfg(test)]
mod dek_tests;
#[cfg(test)]
mod random;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
