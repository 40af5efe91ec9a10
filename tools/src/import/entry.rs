//! One key to be imported, as a file or as a line of JSON.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keyway_client::{Algorithm, KeyFormat, KeyId, KeyOptions, Usage};
use keyway_protocol::limits::MATERIAL_LEN_MAX;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::streams::{Wiped, read_file};

/// A key to be imported.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub key_id: KeyId,
    /// Its algorithm, if its bytes do not tell it.
    pub algorithm: Option<Algorithm>,
    /// How its bytes are written.
    pub format: KeyFormat,
    /// What is fixed about it.
    pub options: KeyOptions,
    /// Its bytes.
    pub bytes: Wiped,
}

/// What holds for entries that do not say.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The algorithm.
    pub algorithm: Option<Algorithm>,
    /// How the bytes are written.
    pub format: KeyFormat,
    /// Exportable, usage, not after.
    pub options: KeyOptions,
}

/// A line of JSON. Unknown members are refused, since a misspelt `not_after` would be a key that
/// never expires.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    key: String,
    alg: Option<String>,
    format: Option<String>,
    exportable: Option<bool>,
    usage: Option<String>,
    not_after: Option<Moment>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Moment {
    UnixMs(u64),
    Text(String),
}

impl Entry {
    /// Reads a line: `id` and `key` (base64, or PEM), and if wanted `alg`, `format`, `exportable`,
    /// `usage` and `not_after`.
    pub fn of_line(line: &str, defaults: &Defaults) -> Result<Self, String> {
        let line: Line = serde_json::from_str(line).map_err(|error| without_content(&error))?;
        let key = Zeroizing::new(line.key);
        let key_id = line.id.parse().map_err(|error| format!("id: {error}"))?;
        let named = |error: &dyn std::fmt::Display| format!("{key_id}: {error}");
        let is_pem = key.trim_start().starts_with("-----BEGIN");
        let format = match line.format.as_deref() {
            Some(name) => name.parse().map_err(|error| named(&error))?,
            None if is_pem => KeyFormat::Pem,
            None => defaults.format,
        };
        let bytes = if is_pem {
            Zeroizing::new(key.as_bytes().to_vec())
        } else {
            // The decoder's message would quote a part of the key.
            let decoded = STANDARD.decode(key.trim().as_bytes());
            Zeroizing::new(decoded.map_err(|_| named(&"key: neither base64 nor PEM"))?)
        };
        let algorithm = match line.alg.as_deref() {
            Some(name) => Some(name.parse().map_err(|error| named(&error))?),
            None => defaults.algorithm,
        };
        let usage: Usage = match line.usage.as_deref() {
            Some(names) => names.parse().map_err(|error| named(&error))?,
            None => defaults.options.usage,
        };
        let not_after_unix_ms = match line.not_after {
            Some(Moment::UnixMs(ms)) => ms,
            Some(Moment::Text(text)) => {
                crate::text::unix_ms(&text).map_err(|error| named(&error))?
            }
            None => defaults.options.not_after_unix_ms,
        };
        Self {
            key_id,
            algorithm,
            format,
            options: KeyOptions {
                exportable: line.exportable.unwrap_or(defaults.options.exportable),
                usage,
                not_after_unix_ms,
            },
            bytes,
        }
        .checked()
    }

    /// Reads a file; its name without the last extension is the id.
    pub fn of_file(path: &Path, defaults: &Defaults) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let key_id = KeyId::new(stem.unwrap_or("")).map_err(|error| named(&error))?;
        let extension = path.extension().and_then(|extension| extension.to_str());
        let format = match (defaults.format, extension) {
            (KeyFormat::Detect, Some("pem")) => KeyFormat::Pem,
            (KeyFormat::Detect, Some("raw")) => KeyFormat::Raw,
            (format, _) => format,
        };
        let bytes = read_file(path, MATERIAL_LEN_MAX, "no key is that long")
            .map_err(|failure| failure.to_string())?;
        Self {
            key_id,
            algorithm: defaults.algorithm,
            format,
            options: defaults.options,
            bytes,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, String> {
        match self.bytes.len() {
            0 => Err(format!("{}: the key is empty", self.key_id)),
            len if len > MATERIAL_LEN_MAX => Err(format!(
                "{}: the key has {len} bytes, at most {MATERIAL_LEN_MAX} are allowed",
                self.key_id
            )),
            _ => Ok(self),
        }
    }
}

/// What is wrong with a line, without quoting values from it, since one of them is a key.
fn without_content(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("unknown field") {
        return text;
    }
    format!(
        "not the JSON that is expected, at column {}",
        error.column()
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEFAULTS: Defaults = Defaults {
        algorithm: None,
        format: KeyFormat::Detect,
        options: KeyOptions {
            exportable: false,
            usage: Usage::NONE,
            not_after_unix_ms: 0,
        },
    };

    #[test]
    fn a_line_says_what_it_wants_and_the_defaults_say_the_rest() {
        let line = r#"{"id":"a","alg":"hmac-sha256","format":"raw","key":"AAEC","exportable":true,
            "usage":"mac","not_after":"1970-01-01T00:00:01Z"}"#;
        let entry = Entry::of_line(line, &DEFAULTS).unwrap();
        assert_eq!(entry.key_id.as_str(), "a");
        assert_eq!(entry.algorithm, Some(Algorithm::HmacSha256));
        assert_eq!(entry.format, KeyFormat::Raw);
        assert_eq!(*entry.bytes, [0, 1, 2]);
        assert!(entry.options.exportable);
        assert_eq!(entry.options.usage, Usage::MAC);
        assert_eq!(entry.options.not_after_unix_ms, 1_000);

        let line = r#"{"id":"b","key":"-----BEGIN PRIVATE KEY-----\nAA==\n"}"#;
        let entry = Entry::of_line(line, &DEFAULTS).unwrap();
        assert_eq!(entry.format, KeyFormat::Pem);
        assert!(entry.bytes.starts_with(b"-----BEGIN PRIVATE KEY-----\nAA"));
        assert_eq!(entry.algorithm, None);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_without_the_key() {
        for (line, told) in [
            (r#"{"id":"a"}"#, "missing field `key`"),
            (r#"{"id":"a b","key":"AAEC"}"#, "id: key_id holds byte 0x20"),
            (
                r#"{"id":"a","key":"hunter2!"}"#,
                "a: key: neither base64 nor PEM",
            ),
            (
                r#"{"id":"a","key":"AAEC","kind":1}"#,
                "unknown field `kind`",
            ),
            (r#"{"id":"a","key":["hunter2"]}"#, "not the JSON"),
            (
                r#"{"id":"a","key":"AAEC","alg":"rot13"}"#,
                "a: unknown algorithm",
            ),
            (r#"{"id":"a","key":""}"#, "a: the key is empty"),
            ("hunter2", "not the JSON"),
        ] {
            let error = Entry::of_line(line, &DEFAULTS).unwrap_err();
            assert!(error.contains(told), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_files_name_gives_the_id_and_its_extension_the_format() {
        let folder = tempfile::tempdir().unwrap();
        let entry = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, b"key").unwrap();
            Entry::of_file(&path, &DEFAULTS)
        };
        let pem = entry("tenant.7.pem").unwrap();
        assert_eq!(
            (pem.key_id.as_str(), pem.format),
            ("tenant.7", KeyFormat::Pem)
        );
        assert_eq!(entry("a.raw").unwrap().format, KeyFormat::Raw);
        assert_eq!(entry("a.der").unwrap().format, KeyFormat::Detect);
        assert_eq!(entry("plain").unwrap().key_id.as_str(), "plain");
        assert!(
            entry("with space.pem")
                .unwrap_err()
                .contains("with space.pem")
        );
    }
}
