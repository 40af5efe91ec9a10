//! The catalogue as text. With ten thousand keyspaces the file has ten megabytes, and every change replaces all of it; so
//! the text of a keyspace is made when that one has changed, and kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::catalogue::{Catalogue, Keyspace};

/// Steps of two spaces from the file's left edge to a keyspace's members.
const INDENT: &str = "    ";

/// The texts of the keyspaces that were written last.
#[derive(Default)]
pub struct Texts {
    /// By id as text, in the order in which JSON's members are written. At most as many as there are keyspaces.
    keyspaces: BTreeMap<String, Text>,
}

struct Text {
    /// Kept, so that no other keyspace has its address.
    of: Arc<Keyspace>,
    /// As it is sealed: without spaces.
    sealed: String,
    /// As it stands in the file.
    filed: String,
}

impl Texts {
    /// Takes the keyspaces over as they are now.
    pub fn follow(&mut self, catalogue: &Catalogue) -> serde_json::Result<()> {
        let mut earlier = std::mem::take(&mut self.keyspaces);
        for (id, keyspace) in catalogue.shared() {
            let id = id.to_string();
            let text = match earlier.remove(&id) {
                Some(text) if Arc::ptr_eq(&text.of, keyspace) => text,
                _ => Text::new(keyspace)?,
            };
            self.keyspaces.insert(id, text);
        }
        Ok(())
    }

    /// The section of a KMS, as it is sealed.
    pub fn section(&self, kms: &str) -> String {
        let mut text = String::from("{");
        for (id, keyspace) in &self.keyspaces {
            if keyspace.of.kms == kms {
                let comma = if text.len() > 1 { "," } else { "" };
                // Writing to a string does not fail. An id needs no escapes.
                let _ = write!(text, "{comma}\"{id}\":{}", keyspace.sealed);
            }
        }
        text.push('}');
        text
    }

    /// The file: the catalogue, with members of its own between which the keyspaces stand.
    pub fn file(
        &self,
        catalogue: &Catalogue,
        members: Map<String, Value>,
    ) -> serde_json::Result<String> {
        let mut head = serde_json::to_value(catalogue.without_keyspaces())?;
        if let Some(head) = head.as_object_mut() {
            head.extend(members);
            head.insert("keyspaces".to_owned(), json!({}));
        }
        let keyspaces = self.keyspaces.values().map(|text| text.filed.len() + 32);
        let mut text = String::with_capacity(keyspaces.sum::<usize>() + 4_096);
        let rest = serde_json::to_string_pretty(&head)?;
        let empty = "\"keyspaces\": {}";
        let Some((before, after)) = rest.split_once(empty) else {
            return Err(serde::ser::Error::custom("the catalogue has no keyspaces"));
        };
        text.push_str(before);
        text.push_str("\"keyspaces\": {");
        for (at, (id, keyspace)) in self.keyspaces.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            let _ = write!(text, "{comma}\n{INDENT}\"{id}\": {}", keyspace.filed);
        }
        text.push_str(if self.keyspaces.is_empty() {
            "}"
        } else {
            "\n  }"
        });
        text.push_str(after);
        text.push('\n');
        Ok(text)
    }
}

impl Text {
    fn new(keyspace: &Arc<Keyspace>) -> serde_json::Result<Text> {
        let value = serde_json::to_value(&**keyspace)?;
        // A line feed inside a string is an escape, so those in the text are between members.
        let filed = serde_json::to_string_pretty(&value)?.replace('\n', &format!("\n{INDENT}"));
        Ok(Text {
            of: Arc::clone(keyspace),
            sealed: value.to_string(),
            filed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{ChangeAuthor, NewKeyspace, SettingsChange};
    use super::super::seal::{section_of, text_of};
    use super::*;
    use crate::clock;

    fn make(catalogue: &mut Catalogue, name: &str, kms: &str) {
        let granted = format!("allow:uid:{}", name.len());
        let lines = [("soft_ttl_ms", "9000"), (granted.as_str(), "sign,mac")];
        let new = NewKeyspace {
            name,
            change: &SettingsChange::parse(lines).unwrap(),
            kms,
            record: name.as_bytes(),
        };
        let by = ChangeAuthor::server(clock::moment());
        catalogue.create(new, &by).unwrap();
    }

    /// Texts must be those that serde makes of the whole: files of earlier servers are sealed over them.
    fn check(texts: &mut Texts, catalogue: &Catalogue) {
        texts.follow(catalogue).unwrap();
        let mut whole = serde_json::to_value(catalogue).unwrap();
        for kms in ["local", "bao", "none"] {
            assert_eq!(texts.section(kms), text_of(&section_of(&whole, kms)));
        }
        let mut members = Map::new();
        members.insert("revision".to_owned(), json!(7));
        let seals = json!({ "keyspaces": { "tag": "\"keyspaces\": {}" } });
        members.insert("seals".to_owned(), seals);
        let file = texts.file(catalogue, members.clone()).unwrap();
        whole.as_object_mut().unwrap().extend(members);
        assert_eq!(file, serde_json::to_string_pretty(&whole).unwrap() + "\n");
    }

    #[test]
    fn the_text_of_what_has_not_changed_is_kept_and_the_whole_is_as_serde_makes_it() {
        let (mut texts, mut catalogue) = (Texts::default(), Catalogue::default());
        check(&mut texts, &catalogue);
        for number in 1..=12 {
            let kms = if number % 3 == 0 { "bao" } else { "local" };
            make(&mut catalogue, &"x".repeat(number), kms);
            check(&mut texts, &catalogue);
        }
        let before = catalogue.clone();
        let by = ChangeAuthor::server(clock::moment());
        catalogue.set_locked(11, true, &by).unwrap();
        let kept = texts.keyspaces["2"].sealed.as_ptr();
        check(&mut texts, &catalogue);
        assert_eq!(texts.keyspaces["2"].sealed.as_ptr(), kept);
        // And what was undone.
        make(&mut catalogue, "undone", "bao");
        check(&mut texts, &catalogue);
        check(&mut texts, &before);
    }
}
