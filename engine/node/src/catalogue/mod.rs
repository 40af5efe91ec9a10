//! The keyspaces of the node, kept in one file that is replaced as a whole.
//!
//! `keyspaces.json` in the data directory: settings, policies, lock marks, wrapped DEKs, and the last changes, so that
//! a change and its line in the history are written at once or not at all. No secret stands in it in the clear.

mod deks;
mod edit;
mod history;
mod limited;
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
pub use history::{By, Change, HISTORY_MAX, History};
use shared::Shared;

pub use limited::{Lasts, Limited};
pub use settings_change::SettingsChange;

/// Name of the file in the data directory.
pub const FILE: &str = "keyspaces.json";

/// Version of the file's format. Older ones are read, too: format 1 knew no KMS but the local one, format 2 no history
/// and no change for a while, format 3 no retired DEKs.
const FORMAT: u32 = 4;

/// Oldest format that is read.
const FORMAT_MIN: u32 = 1;

/// The KMS of format 1's keyspaces.
const KMS_OF_FORMAT_1: &str = "local";

/// Generation of a keyspace's first DEK.
pub const FIRST_GENERATION: u32 = 1;

/// How a name in settings begins that stands for a principal's grants.
const ALLOW: &str = "allow:";

/// Most keyspaces of a node.
pub const KEYSPACES_MAX: usize = 16_384;

const _: () = assert!(KEYSPACES_MAX <= keyway_core::KEYSPACES_MAX);

/// Most principals that a keyspace grants something to, now or when a change for a while ends. A row of KEYSPACE_LIST
/// with all of them fits into an answer.
pub const PRINCIPALS_MAX: usize = 256;

/// All keyspaces. A copy shares every keyspace that neither side changes afterwards, so that copying is cheap.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    format: u32,
    /// The id that the next keyspace gets; ids are never used twice.
    next_id: u32,
    keyspaces: Shared,
}

/// Some keyspaces before a change.
pub struct Before {
    next_id: u32,
    keyspaces: BTreeMap<u32, Option<Arc<Keyspace>>>,
}

impl Before {
    /// A keyspace as it was, if there was one.
    pub fn keyspace(&self, id: u32) -> Option<&Keyspace> {
        self.keyspaces.get(&id)?.as_deref()
    }
}

/// One keyspace at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keyspace {
    /// Its name, unique on the node.
    pub name: String,
    /// Settings that were set by hand; the rest are defaults.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    /// Who may do what.
    #[serde(default)]
    pub policy: Policy,
    /// Locked by an operator: no DEK is unwrapped until an unlock.
    #[serde(default)]
    pub locked: bool,
    /// Name of the KMS that has wrapped the DEKs.
    #[serde(default = "kms_of_format_1")]
    pub kms: String,
    /// Records of the wrapped DEKs by generation, base64. The highest is current; lower ones are there until no blob
    /// needs them.
    deks: BTreeMap<u32, String>,
    /// DEKs that no blob needs any more, kept for a while for what comes out of a backup.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    retired: BTreeMap<u32, RetiredDek>,
    /// Changes that go back by themselves, by the name of what they changed: a setting's, or `allow:PRINCIPAL`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limited: BTreeMap<String, Limited>,
    /// What was changed last.
    #[serde(default)]
    pub history: History,
}

/// A keyspace that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewKeyspace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its settings and grants.
    pub change: &'a SettingsChange,
    /// The KMS that has wrapped its first DEK, of generation 1.
    pub kms: &'a str,
    /// The record of that DEK.
    pub record: &'a [u8],
}

fn kms_of_format_1() -> String {
    KMS_OF_FORMAT_1.to_owned()
}

/// A catalogue or a change to it that cannot be accepted: what, the value, the remedy.
#[derive(Debug, PartialEq, Eq)]
pub enum CatalogueError {
    /// The request is wrong.
    Bad(String),
    /// A keyspace of that name exists.
    Exists(String),
    /// Something else was changed at the same time, or is still being done.
    Conflict(String),
    /// Too much is under way.
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
    /// Reads the file's text, without seals.
    pub fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        let document = serde_json::from_str(text).map_err(|error| not_valid(&error))?;
        Catalogue::from_document(document)
    }

    /// Reads the file's document, without seals.
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

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("maps of strings always encode");
        text.push('\n');
        text
    }

    /// Keyspaces by id.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Keyspace)> {
        let keyspaces = self.keyspaces.iter();
        keyspaces.map(|(id, keyspace)| (id, &**keyspace))
    }

    /// Everything else that the file holds.
    #[must_use]
    pub fn without_keyspaces(&self) -> Catalogue {
        Catalogue {
            keyspaces: Shared::default(),
            ..*self
        }
    }

    /// Keyspaces by id, to be kept: one that is the same `Arc` as before has not changed.
    pub fn shared(&self) -> impl Iterator<Item = (u32, &Arc<Keyspace>)> {
        self.keyspaces.iter()
    }

    /// The keyspace with that id.
    pub fn keyspace(&self, id: u32) -> Result<&Keyspace, CatalogueError> {
        let found = self.keyspaces.get(id).map(|keyspace| &**keyspace);
        found.ok_or(CatalogueError::Missing(id))
    }

    /// The id that [`Catalogue::create`] will give, for binding a DEK to it first.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// Checks that a keyspace could be made: its name and that it is free.
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
                "there are {KEYSPACES_MAX} keyspaces already, the most a node can have"
            )));
        }
        Ok(())
    }

    /// Adds a keyspace. Returns its id.
    pub fn create(&mut self, new: NewKeyspace<'_>, by: &By) -> Result<u32, CatalogueError> {
        let id = self.next_id;
        self.create_as(id, new, by)?;
        Ok(id)
    }

    /// Adds a keyspace under an id that was reserved for it: none that was ever used, at least [`Catalogue::next_id`]
    /// at the time.
    pub fn create_as(
        &mut self,
        id: u32,
        new: NewKeyspace<'_>,
        by: &By,
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
            limited: BTreeMap::new(),
            history: History::default(),
        };
        keyspace.history.note(Change::new(by, "created"));
        keyspace.apply(new.change, by)?;
        self.next_id = self.next_id.max(id.saturating_add(1));
        self.keyspaces.insert(id, keyspace);
        Ok(())
    }

    /// Changes settings and grants of a keyspace: all of them, or none.
    ///
    /// A change for good ends one for a while of the same setting. One for a while takes the place of another: the new
    /// time holds, and the setting goes back to what it was before the first of them.
    pub fn set(&mut self, id: u32, change: &SettingsChange, by: &By) -> Result<(), CatalogueError> {
        let changed = self.changed(id, change, by)?;
        self.keyspaces.insert(id, changed);
        Ok(())
    }

    /// The keyspace as [`Catalogue::set`] would make it.
    pub fn changed(
        &self,
        id: u32,
        change: &SettingsChange,
        by: &By,
    ) -> Result<Keyspace, CatalogueError> {
        let mut changed = self.keyspace(id)?.clone();
        changed.apply(change, by)?;
        Ok(changed)
    }

    /// Counts what is left of the changes for a while from now on. To be called once after [`Catalogue::parse`];
    /// without it they are all due.
    pub fn resume(&mut self, now: Moment) {
        for id in self.ids_where(|_| true) {
            if let Some(keyspace) = self.keyspaces.get_mut(id) {
                keyspace.resume(now);
            }
        }
    }

    /// Whether [`Catalogue::go_back`] would change anything.
    pub fn is_due(&self, now: Moment) -> bool {
        self.iter().any(|(_, keyspace)| keyspace.is_due(now))
    }

    /// Takes back what was changed for a while and is due; the changes, by keyspace.
    pub fn go_back(&mut self, now: Moment) -> Vec<(u32, Change)> {
        let mut ended = Vec::new();
        for id in self.ids_where(|keyspace| keyspace.is_due(now)) {
            let changes = self.keyspaces.get_mut(id).map(|due| due.go_back(now));
            ended.extend(changes.into_iter().flatten().map(|change| (id, change)));
        }
        ended
    }

    fn ids_where(&self, is_meant: impl Fn(&Keyspace) -> bool) -> Vec<u32> {
        let meant = self.iter().filter(|(_, keyspace)| is_meant(keyspace));
        meant.map(|(id, _)| id).collect()
    }

    /// Marks a keyspace as locked or not.
    pub fn set_locked(&mut self, id: u32, locked: bool, by: &By) -> Result<(), CatalogueError> {
        if self.keyspace(id)?.locked != locked {
            let keyspace = self.keyspace_mut(id)?;
            let change = Change::new(by, "locked").between(keyspace.locked, locked);
            keyspace.history.note(change);
            keyspace.locked = locked;
        }
        Ok(())
    }

    /// What would have to be put back if a change of these keyspaces did not fit.
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
    /// The settings in force.
    pub fn settings(&self) -> Result<Settings, CatalogueError> {
        settings_of(&self.settings).map_err(|error| CatalogueError::Bad(error.to_string()))
    }

    fn apply(&mut self, change: &SettingsChange, by: &By) -> Result<(), CatalogueError> {
        for one in change.iter() {
            self.change(&one.name, &one.value, change.lasts(), by);
        }
        self.check_principals()?;
        self.check(by.at)
    }

    /// Refuses more principals than a keyspace may have. One that an earlier server gave more is read, and can lose some.
    fn check_principals(&self) -> Result<(), CatalogueError> {
        let ends = self
            .limited
            .keys()
            .filter_map(|name| name.strip_prefix(ALLOW));
        let granted = self.policy.iter().map(|(principal, _)| principal);
        let principals: BTreeSet<&str> = granted.chain(ends).collect();
        if principals.len() > PRINCIPALS_MAX {
            return Err(CatalogueError::Bad(format!(
                "keyspace `{}` would grant rights to {} principals, the most is {PRINCIPALS_MAX}; withdraw some that are \
                 not needed with allow:PRINCIPAL=none",
                self.name,
                principals.len()
            )));
        }
        Ok(())
    }

    /// Changes what has this canonical name to this canonical value.
    fn change(&mut self, name: &str, value: &str, lasts: Option<Lasts>, by: &By) {
        let (stored, from) = (self.stored(name), self.text(name));
        self.put(name, Some(value));
        let earlier = self.limited.remove(name);
        let (had_end, mut until) = (earlier.is_some(), None);
        if let Some(lasts) = lasts {
            let back_to = earlier.map_or(stored, Limited::into_back_to);
            let limited = Limited::new(lasts, back_to, by.at);
            until = Some(limited.until_unix_ms);
            self.limited.insert(name.to_owned(), limited);
        }
        let to = self.text(name);
        if from != to || had_end || until.is_some() {
            let change = Change::new(by, name).between(from, to).until(until);
            self.history.note(change);
        }
    }

    /// What is stored under a canonical name; nothing for a default, and for no grant.
    fn stored(&self, name: &str) -> Option<String> {
        match name.strip_prefix(ALLOW) {
            Some(principal) => self.policy.of(principal).map(str::to_owned),
            None => self.settings.get(name).cloned(),
        }
    }

    /// The value in force under a canonical name, as it is set.
    fn text(&self, name: &str) -> String {
        self.stored(name).unwrap_or_else(|| self.default_text(name))
    }

    /// The value where nothing is stored.
    fn default_text(&self, name: &str) -> String {
        let default = Settings::default();
        let mut defaults = default.iter_stored();
        defaults
            .find(|(known, _)| *known == name)
            .map_or_else(|| NO_GRANT.to_owned(), |(_, value)| value)
    }

    /// Stores a canonical value, or nothing, under a canonical name.
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

/// The settings that these values make, the rest being defaults.
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
