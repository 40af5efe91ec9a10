//! Seals: they detect a catalogue that was not written by a server.
//!
//! Each KMS has a section of the catalogue: the keyspaces that it wraps. A section is sealed with a tag under a key that
//! this KMS wraps and that opens nothing else. So an attacker who can write the file, and everything else in the data
//! directory, cannot grant himself anything: a keyspace can be used only with its DEK, its DEK comes from the same KMS,
//! and the seal is checked before a DEK is provided.
//!
//! A section can be changed while the key is not available, but only tightened: a keyspace locked, grants withdrawn. The
//! section as it was sealed is then stored next to it, and the tighter of both applies.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use keyway_kms::{SecretKey, Tag};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

const LABEL: &str = "keyway catalogue section v1";

/// A section's seal, as it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    /// Record of the wrapped key, base64.
    key: String,
    /// The file's revision when the section was sealed.
    pub revision: u64,
    /// Base64.
    tag: String,
    /// The section as it was sealed, if it has been tightened since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Map<String, Value>>,
}

/// The key that seals a section.
#[derive(Clone)]
pub struct SealKey {
    record: String,
    key: Arc<SecretKey>,
}

impl SealKey {
    /// A key and the record of its wrapped form.
    pub fn new(record: &[u8], key: Arc<SecretKey>) -> Self {
        let record = BASE64.encode(record);
        SealKey { record, key }
    }

    /// The record of its wrapped form, for the KMS.
    pub fn wrapped(&self) -> Vec<u8> {
        BASE64.decode(&self.record).unwrap_or_default()
    }

    /// Seals a KMS's section, given as [`text_of`].
    pub fn seal(&self, kms: &str, revision: u64, section: &str) -> Seal {
        let tag = tag(&self.key, kms, revision, section);
        Seal {
            key: self.record.clone(),
            revision,
            tag: BASE64.encode(tag.bytes()),
            was: None,
        }
    }
}

impl Seal {
    /// The record of the key, for the KMS to unwrap.
    pub fn record(&self) -> Result<Vec<u8>, String> {
        let record = BASE64.decode(&self.key);
        record.map_err(|error| format!("the key of its seal is not base64: {error}"))
    }

    /// Whether the section is as it was sealed under that key.
    pub fn is_whole(&self, kms: &str, section: &Map<String, Value>, key: &SecretKey) -> bool {
        let expected = tag(key, kms, self.revision, &text_of(section));
        BASE64.decode(&self.tag).is_ok_and(|tag| expected.is(&tag))
    }
}

fn tag(key: &SecretKey, kms: &str, revision: u64, section: &str) -> Tag {
    let parts = [kms.as_bytes(), &revision.to_le_bytes(), section.as_bytes()];
    Tag::of(key, LABEL, &parts)
}

/// A section as it is sealed: JSON without spaces, members by rising name. It is the same whenever the content is: what
/// was read is written as it was.
pub fn text_of(section: &Map<String, Value>) -> String {
    Value::Object(section.clone()).to_string()
}

/// The keyspaces of a catalogue's document that a KMS wraps, by id.
pub fn section_of(document: &Value, kms: &str) -> Map<String, Value> {
    let keyspaces = document["keyspaces"].as_object();
    let of_kms = keyspaces
        .into_iter()
        .flatten()
        .filter(|(_, keyspace)| keyspace["kms"] == kms);
    of_kms
        .map(|(id, keyspace)| (id.clone(), keyspace.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_seal_holds_for_its_section_its_kms_and_its_revision() {
        let document = json!({ "keyspaces": {
            "1": { "name": "prod", "kms": "local", "locked": true, "policy": { "uid:7": "sign" } },
            "2": { "name": "shop", "kms": "bao", "locked": false, "policy": {} },
        }});
        let key = Arc::new(SecretKey::take(&mut [7; 32]));
        let section = section_of(&document, "local");
        assert_eq!(section.len(), 1);
        let seal = SealKey::new(b"wrapped", Arc::clone(&key)).seal("local", 5, &text_of(&section));
        assert_eq!(seal.record(), Ok(b"wrapped".to_vec()));
        let text = serde_json::to_string_pretty(&json!({ "keyspaces": section })).unwrap();
        let read: Value = serde_json::from_str(&text).unwrap();
        assert!(seal.is_whole("local", &section_of(&read, "local"), &key));

        assert!(!seal.is_whole("bao", &section, &key));
        let later = Seal {
            revision: 6,
            ..seal.clone()
        };
        assert!(!later.is_whole("local", &section, &key));
        for (name, value) in [
            ("locked", json!(false)),
            ("policy", json!({ "uid:8": "sign" })),
        ] {
            let mut changed = section.clone();
            changed["1"][name] = value;
            assert!(!seal.is_whole("local", &changed, &key), "{name}");
        }
        assert!(!seal.is_whole("local", &Map::new(), &key));
        let other = SecretKey::take(&mut [8; 32]);
        assert!(!seal.is_whole("local", &section, &other));
    }
}
