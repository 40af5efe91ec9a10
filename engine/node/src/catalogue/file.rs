//! The text of the file: the only place in which settings, grants and DEKs of a catalogue are text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize, Serializer};

use super::assignment::Assignment;
use super::overrides::StoredOverride;
use super::{Catalogue, CatalogueError, FILE, History, Keyspace, RetiredDek};
use crate::policy::Policy;

/// Version of the file's format. Older versions are read also: format 1 has no KMS but the local one, format 2 no history
/// and no overrides, format 3 no retired DEKs.
const FORMAT: u32 = 4;

/// Oldest format that is read.
const FORMAT_MIN: u32 = 1;

/// The KMS of format 1's keyspaces.
const KMS_OF_FORMAT_1: &str = "local";

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredCatalogue<Keyspaces> {
    format: u32,
    next_id: u32,
    keyspaces: Keyspaces,
}

/// A keyspace in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredKeyspace<'a> {
    name: Cow<'a, str>,
    /// Settings that an operator has set. All others have their defaults.
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default)]
    policy: Cow<'a, Policy>,
    #[serde(default)]
    locked: bool,
    #[serde(default = "kms_of_format_1")]
    kms: Cow<'a, str>,
    /// By generation, base64.
    deks: BTreeMap<u32, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    retired: BTreeMap<u32, StoredRetired>,
    /// Overrides, by the name of what they change: a setting, or `allow:PRINCIPAL`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limited: BTreeMap<String, StoredOverride>,
    #[serde(default)]
    history: Cow<'a, History>,
}

/// A retired DEK in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRetired {
    /// Base64.
    record: String,
    retired_unix_ms: u64,
}

fn kms_of_format_1() -> Cow<'static, str> {
    Cow::Borrowed(KMS_OF_FORMAT_1)
}

impl Catalogue {
    /// Parses the text of the file, without seals.
    pub fn parse(text: &str) -> Result<Catalogue, CatalogueError> {
        let document = serde_json::from_str(text).map_err(|error| not_valid(&error))?;
        Catalogue::from_document(document)
    }

    /// Parses the file's document, without seals.
    pub fn from_document(document: serde_json::Value) -> Result<Catalogue, CatalogueError> {
        let stored: StoredCatalogue<BTreeMap<u32, StoredKeyspace<'static>>> =
            serde_json::from_value(document).map_err(|error| not_valid(&error))?;
        if !(FORMAT_MIN..=FORMAT).contains(&stored.format) {
            return Err(CatalogueError::Bad(format!(
                "{FILE} has format {}, this server reads {FORMAT_MIN} to {FORMAT}; use a matching server",
                stored.format
            )));
        }
        let mut catalogue = Catalogue {
            next_id: stored.next_id,
            ..Catalogue::default()
        };
        for (id, stored) in stored.keyspaces {
            catalogue.keyspaces.insert(id, stored.decode()?);
        }
        Ok(catalogue)
    }

    /// Returns the text of the file.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("maps of strings always encode");
        text.push('\n');
        text
    }
}

impl Serialize for Catalogue {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let stored = StoredCatalogue {
            format: FORMAT,
            next_id: self.next_id,
            keyspaces: &self.keyspaces,
        };
        stored.serialize(to)
    }
}

impl Serialize for Keyspace {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        StoredKeyspace::of(self).serialize(to)
    }
}

impl StoredKeyspace<'_> {
    fn of(keyspace: &Keyspace) -> StoredKeyspace<'_> {
        let settings = keyspace.settings.iter();
        let settings = settings.map(|(name, setting)| (name.as_str().into(), setting.to_string()));
        let deks = keyspace.deks.iter();
        let retired = keyspace.retired.iter().map(|(generation, retired)| {
            let record = BASE64.encode(&retired.record);
            let retired_unix_ms = retired.retired_unix_ms;
            (
                *generation,
                StoredRetired {
                    record,
                    retired_unix_ms,
                },
            )
        });
        let overrides = keyspace.overrides.iter();
        StoredKeyspace {
            name: Cow::Borrowed(&keyspace.name),
            settings: settings.collect(),
            policy: Cow::Borrowed(&keyspace.policy),
            locked: keyspace.locked,
            kms: Cow::Borrowed(&keyspace.kms),
            deks: deks
                .map(|(generation, record)| (*generation, BASE64.encode(record)))
                .collect(),
            retired: retired.collect(),
            limited: overrides
                .map(|(subject, temporary)| (subject.to_string(), temporary.stored()))
                .collect(),
            history: Cow::Borrowed(&keyspace.history),
        }
    }

    /// Decodes a keyspace.
    ///
    /// Errors: an unknown setting, an invalid value, settings that conflict, or no DEK.
    pub(super) fn decode(self) -> Result<Keyspace, CatalogueError> {
        let mut keyspace = Keyspace {
            settings: BTreeMap::new(),
            policy: self.policy.into_owned(),
            locked: self.locked,
            kms: self.kms.into_owned(),
            deks: BTreeMap::new(),
            retired: BTreeMap::new(),
            overrides: BTreeMap::new(),
            history: self.history.into_owned(),
            name: self.name.into_owned(),
        };
        for (name, value) in self.settings {
            keyspace.assign(Assignment::read_setting(&name, &value)?);
        }
        for (name, temporary) in self.limited {
            let (subject, temporary) = temporary.decode(&name)?;
            keyspace.overrides.insert(subject, temporary);
        }
        keyspace.check_stored()?;
        if self.deks.is_empty() {
            return Err(CatalogueError::Bad(format!(
                "keyspace `{}` has no DEK",
                keyspace.name
            )));
        }
        for (generation, text) in self.deks {
            let record = keyspace.decoded(generation, &text)?;
            keyspace.deks.insert(generation, record);
        }
        for (generation, stored) in self.retired {
            let retired = RetiredDek {
                record: keyspace.decoded(generation, &stored.record)?,
                retired_unix_ms: stored.retired_unix_ms,
            };
            keyspace.retired.insert(generation, retired);
        }
        Ok(keyspace)
    }
}

impl Keyspace {
    fn decoded(&self, generation: u32, text: &str) -> Result<Vec<u8>, CatalogueError> {
        BASE64.decode(text).map_err(|error| {
            CatalogueError::Bad(format!(
                "DEK {generation} of keyspace `{}` is not base64: {error}",
                self.name
            ))
        })
    }
}

fn not_valid(error: &serde_json::Error) -> CatalogueError {
    CatalogueError::Bad(format!("{FILE} is not valid: {error}"))
}
