//! What a command says: one JSON document, or text for people.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyway_client::{Answer, KeyPath};
use serde_json::{Map, Value, json};
use zeroize::{Zeroize, Zeroizing};

use crate::failure::Failure;
use crate::printable::{self, Lines};
use crate::streams::{self, Content, PathOrStdio};

/// How a command's result is written.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// As one JSON document, not as text.
    pub json: bool,
}

impl Output {
    /// Writes the document or the text, as was asked for.
    pub fn print_result(self, document: &Value, text: &Lines) -> Result<(), Failure> {
        if self.json {
            let line = Zeroizing::new(document.to_string());
            let mut line = Zeroizing::new(printable::json(&line));
            line.push('\n');
            streams::print(line.as_bytes())
        } else {
            streams::print(text.as_str().as_bytes())
        }
    }

    /// Writes what came back, as bytes to `out`. The JSON document, if one is asked for, goes to
    /// standard output; it holds the bytes as base64 under `name`, unless they went to a file.
    pub fn bytes<T: AsRef<[u8]>>(
        self,
        key: &KeyPath,
        name: &str,
        answer: &Answer<T>,
        out: &PathOrStdio,
        content: Content,
    ) -> Result<(), Failure> {
        let bytes = answer.value.as_ref();
        if !self.json {
            return out.write(bytes, content);
        }
        let mut document = about(key, answer);
        match out {
            PathOrStdio::Standard => {
                out.check(content)?;
                document.insert(name.into(), base64(bytes).into());
            }
            PathOrStdio::File(path) => {
                out.write(bytes, content)?;
                document.insert("out".into(), path.display().to_string().into());
            }
        }
        let mut document = Value::Object(document);
        let said = self.print_result(&document, &Lines::default());
        wipe(&mut document);
        said
    }
}

/// What every answer about a key says in its document.
pub fn about<T>(key: &KeyPath, answer: &Answer<T>) -> Map<String, Value> {
    let document = json!({
        "keyspace": key.keyspace.as_str(),
        "key": key.key_id.as_str(),
        "version": answer.key_version,
        "stale": answer.stale,
        "key_age_ms": answer.key_age_ms,
    });
    match document {
        Value::Object(document) => document,
        _ => Map::new(),
    }
}

/// Standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// SubjectPublicKeyInfo as PEM.
pub fn public_pem(der: &[u8]) -> String {
    let text = base64(der);
    let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.push_str("-----END PUBLIC KEY-----\n");
    pem
}

/// Wipes the texts of a document that may hold a secret.
pub fn wipe(document: &mut Value) {
    match document {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe),
        Value::Object(members) => members.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_document_holds_no_text() {
        let mut document = json!({"shares": ["one", "two"], "in": {"deep": "three"}, "count": 2});
        wipe(&mut document);
        assert_eq!(
            document,
            json!({"shares": ["", ""], "in": {"deep": ""}, "count": 2})
        );
    }

    #[test]
    fn a_public_key_is_pem_with_lines_of_64() {
        let pem = public_pem(&[0; 51]);
        let lines: Vec<&str> = pem.lines().collect();
        assert_eq!(lines[0], "-----BEGIN PUBLIC KEY-----");
        assert_eq!(lines[1].len(), 64);
        assert_eq!(lines[2], "AAAA");
        assert_eq!(lines[3], "-----END PUBLIC KEY-----");
        assert!(pem.ends_with('\n'));
    }
}
