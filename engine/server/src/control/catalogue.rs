//! The keyspaces of the node, kept in one file that is replaced as a whole.
//!
//! `keyspaces.json` in the data directory: settings, policies, lock marks and wrapped DEKs. No
//! secret stands in it in the clear.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyway_core::Settings;
use keyway_protocol::KeyspaceName;
use serde::{Deserialize, Serialize};

use crate::authorise::Policy;

/// Name of the file in the data directory.
pub const FILE: &str = "keyspaces.json";

/// Version of the file's format. Format 1, which is read too, knew no KMS but the local one.
const FORMAT: u32 = 2;

/// Oldest format that is read.
const FORMAT_MIN: u32 = 1;

/// The KMS of format 1's keyspaces.
const KMS_OF_FORMAT_1: &str = "local";

/// Generation of a keyspace's first DEK.
pub const FIRST_GENERATION: u32 = 1;

/// Most keyspaces of a node.
pub const KEYSPACES_MAX: usize = 1_024;

/// All keyspaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    format: u32,
    /// The id that the next keyspace gets; ids are never used twice.
    next_id: u32,
    keyspaces: BTreeMap<u32, Keyspace>,
}

/// One keyspace at rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

fn kms_of_format_1() -> String {
    KMS_OF_FORMAT_1.to_owned()
}

/// A wrapped DEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedDek {
    /// Its generation.
    pub generation: u32,
    /// Its record.
    pub record: Vec<u8>,
}

/// A catalogue or a change to it that cannot be accepted: what, the value, the remedy.
#[derive(Debug, PartialEq, Eq)]
pub enum CatalogueError {
    /// The request is wrong.
    Bad(String),
    /// A keyspace of that name exists.
    Exists(String),
    /// No keyspace has that id.
    Missing(u32),
}

impl std::fmt::Display for CatalogueError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CatalogueError::Bad(text) => f.write_str(text),
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

impl Default for Catalogue {
    fn default() -> Self {
        Catalogue {
            format: FORMAT,
            next_id: 1,
            keyspaces: BTreeMap::new(),
        }
    }
}

impl Catalogue {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        let mut catalogue: Catalogue = serde_json::from_str(text)
            .map_err(|error| CatalogueError::Bad(format!("{FILE} is not valid: {error}")))?;
        if !(FORMAT_MIN..=FORMAT).contains(&catalogue.format) {
            return Err(CatalogueError::Bad(format!(
                "{FILE} has format {}, this server reads {FORMAT_MIN} to {FORMAT}; use a matching server",
                catalogue.format
            )));
        }
        catalogue.format = FORMAT;
        for keyspace in catalogue.keyspaces.values() {
            keyspace.settings()?;
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
        self.keyspaces.iter().map(|(id, keyspace)| (*id, keyspace))
    }

    /// The keyspace with that id.
    pub fn keyspace(&self, id: u32) -> Result<&Keyspace, CatalogueError> {
        self.keyspaces.get(&id).ok_or(CatalogueError::Missing(id))
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
            .values()
            .any(|keyspace| keyspace.name == name)
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

    /// Adds a keyspace whose first DEK, of generation 1, has this record at that KMS; its id.
    pub fn create(
        &mut self,
        name: &str,
        lines: &str,
        kms: &str,
        record: &[u8],
    ) -> Result<u32, CatalogueError> {
        self.check_new(name)?;
        let mut keyspace = Keyspace {
            name: name.to_owned(),
            settings: BTreeMap::new(),
            policy: Policy::default(),
            locked: false,
            kms: kms.to_owned(),
            deks: BTreeMap::from([(FIRST_GENERATION, BASE64.encode(record))]),
        };
        keyspace.apply(lines)?;
        let id = self.next_id;
        self.next_id += 1;
        self.keyspaces.insert(id, keyspace);
        Ok(id)
    }

    /// Applies settings lines (`name=value`) to a keyspace: all of them, or none.
    pub fn set(&mut self, id: u32, lines: &str) -> Result<(), CatalogueError> {
        let mut changed = self.keyspace(id)?.clone();
        changed.apply(lines)?;
        self.keyspaces.insert(id, changed);
        Ok(())
    }

    /// Adds a DEK, of the generation after the current one.
    pub fn add_dek(&mut self, id: u32, dek: &WrappedDek) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let current = keyspace.generation();
        if current.checked_add(1) != Some(dek.generation) {
            return Err(CatalogueError::Bad(format!(
                "keyspace `{}` has DEK {current}; another rotation came before that to {}",
                keyspace.name, dek.generation
            )));
        }
        let text = BASE64.encode(&dek.record);
        keyspace.deks.insert(dek.generation, text);
        Ok(())
    }

    /// Forgets all DEKs but the current one.
    pub fn retire_deks(&mut self, id: u32) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let current = keyspace.generation();
        keyspace.deks.retain(|generation, _| *generation == current);
        Ok(())
    }

    /// Puts another KMS, and its records of the same DEKs, in place of a keyspace's present ones.
    pub fn rewrap(
        &mut self,
        id: u32,
        kms: &str,
        deks: &[WrappedDek],
    ) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let generations = deks.iter().map(|dek| &dek.generation);
        if !keyspace.deks.keys().eq(generations) {
            return Err(CatalogueError::Bad(format!(
                "the DEKs of keyspace `{}` changed meanwhile; try again",
                keyspace.name
            )));
        }
        kms.clone_into(&mut keyspace.kms);
        let texts = deks.iter().map(|dek| BASE64.encode(&dek.record));
        keyspace.deks = deks.iter().map(|dek| dek.generation).zip(texts).collect();
        Ok(())
    }

    /// Marks a keyspace as locked or not.
    pub fn set_locked(&mut self, id: u32, locked: bool) -> Result<(), CatalogueError> {
        self.keyspace_mut(id)?.locked = locked;
        Ok(())
    }

    fn keyspace_mut(&mut self, id: u32) -> Result<&mut Keyspace, CatalogueError> {
        self.keyspaces
            .get_mut(&id)
            .ok_or(CatalogueError::Missing(id))
    }
}

impl Keyspace {
    /// The settings in force.
    pub fn settings(&self) -> Result<Settings, CatalogueError> {
        let mut settings = Settings::default();
        for (name, value) in &self.settings {
            settings
                .set(name, value)
                .map_err(|error| CatalogueError::Bad(error.to_string()))?;
        }
        settings
            .validate()
            .map_err(|error| CatalogueError::Bad(error.to_string()))?;
        Ok(settings)
    }

    /// The current DEK's generation.
    pub fn generation(&self) -> u32 {
        self.deks.keys().next_back().copied().unwrap_or(0)
    }

    /// The wrapped DEKs by rising generation, one at least; the last is current.
    pub fn deks(&self) -> Result<Vec<WrappedDek>, CatalogueError> {
        if self.deks.is_empty() {
            return Err(CatalogueError::Bad(format!(
                "keyspace `{}` has no DEK",
                self.name
            )));
        }
        let decoded = self.deks.iter().map(|(generation, text)| {
            let record = BASE64.decode(text).map_err(|error| {
                CatalogueError::Bad(format!(
                    "DEK {generation} of keyspace `{}` is not base64: {error}",
                    self.name
                ))
            })?;
            Ok(WrappedDek {
                generation: *generation,
                record,
            })
        });
        decoded.collect()
    }

    fn apply(&mut self, lines: &str) -> Result<(), CatalogueError> {
        for line in lines.lines().filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').ok_or_else(|| {
                CatalogueError::Bad(format!("`{line}` is not a setting; write name=value"))
            })?;
            if let Some(principal) = name.strip_prefix("allow:") {
                self.policy
                    .grant(principal, value)
                    .map_err(CatalogueError::Bad)?;
            } else {
                // Kept under the canonical name, so that an alias never stands beside it.
                let name = Settings::canonical_name(name).ok_or_else(|| {
                    let names: Vec<_> = Settings::default().iter().map(|(name, _)| name).collect();
                    CatalogueError::Bad(format!(
                        "`{name}` is not a setting; use one of {} or allow:PRINCIPAL",
                        names.join(", ")
                    ))
                })?;
                self.settings.insert(name.to_owned(), value.to_owned());
            }
        }
        self.settings().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_prod(lines: &str) -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue
            .create("prod", lines, "local", b"wrapped")
            .unwrap();
        catalogue
    }

    fn dek(generation: u32, record: &[u8]) -> WrappedDek {
        WrappedDek {
            generation,
            record: record.to_vec(),
        }
    }

    #[test]
    fn format_1_is_read_as_of_the_local_kms_and_written_as_format_2() {
        let text = r#"{"format": 1, "next_id": 2, "keyspaces": {"1": {"name": "prod", "deks": {"1": "d3JhcHBlZA=="}}}}"#;
        let read = Catalogue::parse(text).unwrap();
        let prod = read.keyspace(1).unwrap();
        assert_eq!((prod.kms.as_str(), prod.generation()), ("local", 1));
        assert_eq!(prod.deks().unwrap(), [dek(1, b"wrapped")]);
        assert!(read.text().contains("\"format\": 2"));
        let later = Catalogue::parse(&text.replace("\"format\": 1", "\"format\": 3"));
        assert!(later.unwrap_err().to_string().contains("format 3"));
    }

    #[test]
    fn a_dek_is_added_proven_unused_and_retired() {
        let mut catalogue = with_prod("");
        assert!(catalogue.add_dek(1, &dek(3, b"c")).is_err());
        catalogue.add_dek(1, &dek(2, b"b")).unwrap();
        let prod = catalogue.keyspace(1).unwrap();
        assert_eq!(prod.generation(), 2);
        assert_eq!(prod.deks().unwrap().len(), 2);
        catalogue.retire_deks(1).unwrap();
        let prod = catalogue.keyspace(1).unwrap();
        assert_eq!(prod.deks().unwrap(), [dek(2, b"b")]);
    }

    #[test]
    fn a_move_takes_all_deks_or_none() {
        let mut catalogue = with_prod("");
        catalogue.add_dek(1, &dek(2, b"b")).unwrap();
        assert!(catalogue.rewrap(1, "bao", &[dek(2, b"y")]).is_err());
        let moved = [dek(1, b"x"), dek(2, b"y")];
        catalogue.rewrap(1, "bao", &moved).unwrap();
        let prod = catalogue.keyspace(1).unwrap();
        assert_eq!(prod.kms, "bao");
        assert_eq!(prod.deks().unwrap(), moved);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut catalogue = with_prod("soft_ttl_ms=1000\nallow:uid:7=sign\n");
        catalogue.set_locked(1, true).unwrap();
        let read = Catalogue::parse(&catalogue.text()).unwrap();
        let prod = read.keyspace(1).unwrap();
        assert_eq!(prod.settings().unwrap().soft_ttl_ms, 1_000);
        assert_eq!(prod.policy.iter().collect::<Vec<_>>(), [("uid:7", "sign")]);
        assert!(prod.locked);
        assert_eq!(prod.kms, "local");
        assert_eq!(prod.deks().unwrap(), [dek(1, b"wrapped")]);
        assert_eq!(read.next_id(), 2);
    }

    #[test]
    fn a_bad_line_changes_nothing() {
        let mut catalogue = with_prod("");
        let refused = catalogue
            .set(1, "max_in_flight=3\nsoft_ttl_ms=soon")
            .unwrap_err();
        assert!(refused.to_string().contains("soon"), "{refused}");
        let settings = catalogue.keyspace(1).unwrap().settings().unwrap();
        assert_eq!(settings.max_in_flight, Settings::default().max_in_flight);
    }

    #[test]
    fn contradictory_settings_are_refused() {
        let mut catalogue = with_prod("");
        assert!(
            catalogue
                .set(1, "soft_ttl_ms=5000\nhard_ttl_ms=1000")
                .is_err()
        );
    }

    #[test]
    fn the_runbooks_spellings_mean_the_same_setting() {
        let mut catalogue = with_prod("maxInFlight=5");
        catalogue.set(1, "max_in_flight=6").unwrap();
        assert_eq!(
            catalogue
                .keyspace(1)
                .unwrap()
                .settings()
                .unwrap()
                .max_in_flight,
            6
        );
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut catalogue = with_prod("");
        assert_eq!(
            catalogue.create("prod", "", "local", b"x"),
            Err(CatalogueError::Exists("prod".to_owned()))
        );
        assert!(matches!(
            catalogue.create("Pröd", "", "local", b"x"),
            Err(CatalogueError::Bad(_))
        ));
    }
}
