//! The keyspaces of the node, stored in one file that is replaced atomically.
//!
//! `keyspaces.json` in the data directory holds settings, policies, lock flags, wrapped DEKs and the latest changes, so a
//! change and its entry in the history are saved atomically. It contains no secret in plaintext.

mod assignment;
mod deks;
mod edit;
mod file;
mod history;
mod overrides;
mod sealed;
mod settings_change;
mod shared;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keyway_core::{Setting, SettingName, Settings};
use keyway_protocol::{KeyspaceName, Status};

use crate::policy::{Grantee, Policy};
use crate::time::Moment;

use assignment::Assignment;
pub use assignment::{Subject, may_take_away};
pub use deks::{RETIRED_DEKS_MAX, RETIRED_KEPT_MS, RetiredDek, WrappedDek};
pub use edit::Edit;
pub use history::{Change, ChangeAuthor, HISTORY_MAX, History};
use shared::Shared;

pub use overrides::{Override, OverrideDuration};
pub use settings_change::SettingsChange;

/// Name of the file in the data directory.
pub const FILE: &str = "keyspaces.json";

/// Generation of a keyspace's first DEK.
pub const FIRST_GENERATION: u32 = 1;

/// Most keyspaces of a node.
pub const KEYSPACES_MAX: usize = 16_384;

const _: () = assert!(KEYSPACES_MAX <= keyway_core::KEYSPACES_MAX);

/// Most principals with grants in a keyspace, now or after an override expires. A row of KEYSPACE_LIST with all of them
/// fits into one response.
pub const PRINCIPALS_MAX: usize = 256;

/// All keyspaces. A copy shares every keyspace that neither side changes afterwards, so copying is cheap.
#[derive(Clone, Debug)]
pub struct Catalogue {
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Its name, unique on the node.
    pub name: String,
    /// Settings that an operator has set. All others have their defaults.
    settings: BTreeMap<SettingName, Setting>,
    /// The grants of each principal.
    pub policy: Policy,
    /// Locked by an operator: no DEK is unwrapped until an unlock.
    pub locked: bool,
    /// Name of the KMS that wrapped the DEKs.
    pub kms: String,
    /// Wrapped DEKs by generation; there is at least one. The highest is current; lower ones are kept until no blob needs
    /// them.
    deks: BTreeMap<u32, Vec<u8>>,
    /// DEKs that no stored blob needs, kept for blobs restored from backups.
    retired: BTreeMap<u32, RetiredDek>,
    /// Temporary overrides, by what they change.
    overrides: BTreeMap<Subject, Override>,
    /// The latest changes.
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
            next_id: 1,
            keyspaces: Shared::default(),
        }
    }
}

impl Catalogue {
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
            deks: BTreeMap::from([(FIRST_GENERATION, new.record.to_vec())]),
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
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        for setting in self.settings.values() {
            settings.put(*setting);
        }
        settings
    }

    fn apply(&mut self, change: &SettingsChange, by: &ChangeAuthor) -> Result<(), CatalogueError> {
        for one in change.iter() {
            self.change(one, change.lasts(), by);
        }
        self.check_principals()?;
        self.check(by.at)
    }

    /// Refuses more principals than a keyspace may have. A file of an earlier server that has more is read, and
    /// principals can be removed.
    fn check_principals(&self) -> Result<(), CatalogueError> {
        let ends = self.overrides.keys().filter_map(|subject| match subject {
            Subject::Grants(grantee) => Some(grantee),
            Subject::Setting(_) => None,
        });
        let granted = self.policy.iter().map(|(grantee, _)| grantee);
        let principals: BTreeSet<&Grantee> = granted.chain(ends).collect();
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

    fn change(&mut self, to: &Assignment, lasts: Option<OverrideDuration>, by: &ChangeAuthor) {
        let subject = to.subject();
        let from = self.assigned(&subject);
        let (was, is) = (from.value(), to.value());
        self.assign(to.clone());
        let earlier = self.overrides.remove(&subject);
        let (had_end, mut until) = (earlier.is_some(), None);
        if let Some(lasts) = lasts {
            let previous = earlier.map_or(from, Override::into_previous);
            let temporary = Override::new(lasts, previous, by.at);
            until = Some(temporary.until_unix_ms);
            self.overrides.insert(subject.clone(), temporary);
        }
        if was != is || had_end || until.is_some() {
            let change = Change::new(by, &subject.to_string())
                .between(was, is)
                .until(until);
            self.history.note(change);
        }
    }

    /// Returns a subject with its stored value.
    fn assigned(&self, subject: &Subject) -> Assignment {
        match subject {
            Subject::Grants(grantee) => {
                Assignment::Grants(grantee.clone(), self.policy.of(grantee))
            }
            Subject::Setting(name) => match self.settings.get(name) {
                Some(setting) => Assignment::Setting(*setting),
                None => Assignment::Default(*name),
            },
        }
    }

    fn assign(&mut self, to: Assignment) {
        match to {
            Assignment::Grants(grantee, rights) => self.policy.put(grantee, rights),
            Assignment::Setting(setting) => drop(self.settings.insert(setting.name(), setting)),
            Assignment::Default(name) => drop(self.settings.remove(&name)),
        }
    }
}

#[cfg(test)]
mod dek_tests;
#[cfg(test)]
mod random;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
