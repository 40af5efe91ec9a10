//! One key to be imported, as a file or as a line of JSON.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum as _;
use keyway_client::{Algorithm, KeyFormat, KeyId, KeyOptions, Usage};
use keyway_protocol::limits::MATERIAL_LEN_MAX;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::key_file;
use crate::quote;
use crate::secret_text::{self, Encoding, Holder};
use crate::streams::Wiped;

/// A key to be imported.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub key_id: KeyId,
    /// Where it stands.
    pub origin: Origin,
    /// Its algorithm, if its bytes do not tell it.
    pub algorithm: Option<Algorithm>,
    /// How its bytes are written.
    pub format: KeyFormat,
    /// What is fixed about it.
    pub options: KeyOptions,
    /// Its bytes.
    pub bytes: Wiped,
}

/// Where an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of a directory.
    File(PathBuf),
    /// A line, counted from 1.
    Line(u64),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.file_name().unwrap_or_default().display().fmt(f),
            Self::Line(number) => write!(f, "line {number}"),
        }
    }
}

/// What holds for entries that do not say.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The algorithm.
    pub algorithm: Option<Algorithm>,
    /// How the bytes are written.
    pub format: KeyFormat,
    /// How raw secrets are encoded.
    pub encoding: Option<Encoding>,
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
    encoding: Option<String>,
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
    /// Reads a line: `id` and `key` (base64, PEM or a JWK), and if wanted `alg`, `format`,
    /// `encoding`, `exportable`, `usage` and `not_after`.
    pub fn of_line(line: &str, number: u64, defaults: &Defaults) -> Result<Self, String> {
        let line: Line = serde_json::from_str(line).map_err(|error| without_content(&error))?;
        let key = Zeroizing::new(line.key);
        let key_id: KeyId = read(
            "id",
            &line.id,
            "a key id: 1 to 128 printable ASCII characters",
        )?;
        let is_document = key.contains("-----BEGIN ") || key.trim_start().starts_with('{');
        let format = match &line.format {
            Some(name) => read("format", name, &names(KeyFormat::ALL))?,
            None if is_document => KeyFormat::Detect,
            None => defaults.format,
        };
        let encoding = match &line.encoding {
            Some(name) => {
                let found = Encoding::from_str(name, false);
                let allowed = "raw, hex, base64 or base64url";
                Some(found.map_err(|_| quote::of_key_file("encoding", name, allowed))?)
            }
            None => defaults.encoding,
        };
        let bytes = if is_document {
            Zeroizing::new(key.as_bytes().to_vec())
        } else {
            // The decoder's message would quote a part of the key.
            let decoded = STANDARD.decode(key.trim().as_bytes());
            Zeroizing::new(decoded.map_err(|_| "key: neither base64, PEM nor a JWK")?)
        };
        let encoding = encoding.filter(|_| !is_document);
        let (format, bytes) =
            secret_text::prepared(Holder::Line, format, encoding, key_file::key_alone(bytes))?;
        let algorithm = match &line.alg {
            Some(name) => Some(read("alg", name, &names(Algorithm::ALL))?),
            None => defaults.algorithm,
        };
        let usage: Usage = match &line.usage {
            Some(text) => {
                let allowed = "a list of sign, verify, mac, encrypt, decrypt, derive";
                read("usage", text, allowed)?
            }
            None => defaults.options.usage,
        };
        let not_after_unix_ms = match line.not_after {
            Some(Moment::UnixMs(ms)) => crate::text::number_ms(ms)
                .map_err(|_| "not_after: fewer than 12 digits; seconds times 1000 are ms")?,
            Some(Moment::Text(text)) => crate::text::unix_ms(&text).map_err(|_| {
                let allowed = "a moment after 1970, as in 2027-01-31T12:00:00Z";
                quote::of_key_file("not_after", &text, allowed)
            })?,
            None => defaults.options.not_after_unix_ms,
        };
        Self {
            key_id,
            origin: Origin::Line(number),
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
        let bytes = key_file::read(path).map_err(|failure| failure.to_string())?;
        // A name promises little: what is a key's document is detected, as without a name.
        let is_document = secret_text::is_document(&bytes);
        let format = match (defaults.format, extension) {
            (KeyFormat::Detect, Some("raw")) => KeyFormat::Raw,
            (KeyFormat::Detect, Some("pem")) if !is_document => KeyFormat::Pem,
            (KeyFormat::Detect, Some("jwk")) if !is_document => KeyFormat::Jwk,
            (format, _) => format,
        };
        // The others are no raw secrets.
        let encoding = match format {
            KeyFormat::Detect | KeyFormat::Raw => defaults.encoding,
            _ => None,
        };
        let (format, bytes) = secret_text::prepared(Holder::File, format, encoding, bytes)
            .map_err(|seen| named(&seen))?;
        Self {
            key_id,
            origin: Origin::File(path.to_owned()),
            algorithm: defaults.algorithm,
            format,
            options: defaults.options,
            bytes,
        }
        .checked()
    }

    fn checked(self) -> Result<Self, String> {
        let of_file = match &self.origin {
            Origin::File(_) => format!("{}: ", self.key_id),
            Origin::Line(_) => String::new(),
        };
        match self.bytes.len() {
            0 => Err(format!("{of_file}the key is empty")),
            len if len > MATERIAL_LEN_MAX => Err(format!(
                "{of_file}the key has {len} bytes, at most {MATERIAL_LEN_MAX} are allowed"
            )),
            _ => Ok(self),
        }
    }
}

/// Reads a member's text.
fn read<T: FromStr>(member: &str, text: &str, allowed: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| quote::of_key_file(member, text, allowed))
}

fn names<T: fmt::Display>(all: &[T]) -> String {
    let names: Vec<String> = all.iter().map(T::to_string).collect();
    format!("one of {}", names.join(", "))
}

/// What is wrong with a line, without quoting values from it, since one of them is a key.
fn without_content(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Its name is a member that is supported.
    if text.starts_with("missing field") {
        return text;
    }
    if text.starts_with("unknown field") {
        return "a member with another name; there are id, key, alg, format, encoding, exportable, \
                usage and not_after"
            .into();
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
        encoding: None,
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
        let entry = Entry::of_line(line, 1, &DEFAULTS).unwrap();
        assert_eq!(entry.key_id.as_str(), "a");
        assert_eq!(entry.algorithm, Some(Algorithm::HmacSha256));
        assert_eq!(entry.format, KeyFormat::Raw);
        assert_eq!(*entry.bytes, [0, 1, 2]);
        assert!(entry.options.exportable);
        assert_eq!(entry.options.usage, Usage::MAC);
        assert_eq!(entry.options.not_after_unix_ms, 1_000);

        let line = r#"{"id":"b","key":"-----BEGIN PRIVATE KEY-----\nAA==\n"}"#;
        let entry = Entry::of_line(line, 1, &DEFAULTS).unwrap();
        assert_eq!(entry.format, KeyFormat::Detect);
        assert!(entry.bytes.starts_with(b"-----BEGIN PRIVATE KEY-----\nAA"));
        assert_eq!(entry.algorithm, None);
    }

    #[test]
    fn what_is_wrong_with_a_line_is_told_without_the_key() {
        for (line, told) in [
            (r#"{"id":"a"}"#, "missing field `key`"),
            (
                r#"{"id":"hunter2 b","key":"AAEC"}"#,
                "id: a text of 9 bytes that is not a key id",
            ),
            (
                r#"{"id":"a","key":"hunter2!"}"#,
                "key: neither base64, PEM nor a JWK",
            ),
            (
                r#"{"id":"a","key":"AAEC","hunter2":1}"#,
                "a member with another name",
            ),
            (r#"{"id":"a","key":["hunter2"]}"#, "not the JSON"),
            (
                r#"{"id":"a","key":"AAEC","alg":"hunter2"}"#,
                "alg: a text of 7 bytes that is not one of ed25519, ",
            ),
            (
                r#"{"id":"a","key":"AAEC","usage":"hunter2"}"#,
                "usage: a text of 7 bytes",
            ),
            (
                r#"{"id":"a","key":"AAEC","format":"hunter2"}"#,
                "not one of detect, pkcs8-der, pem, raw, jwk",
            ),
            (
                r#"{"id":"a","key":"AAEC","encoding":"hunter2"}"#,
                "not raw, hex, base64 or base64url",
            ),
            (
                r#"{"id":"a","key":"AAEC","not_after":"hunter2"}"#,
                "not a moment after 1970",
            ),
            (
                r#"{"id":"a","key":"AAEC","not_after":1801353600}"#,
                "not_after: fewer than 12 digits; seconds times 1000 are ms",
            ),
            (
                r#"{"id":"a","format":"raw","key":"MDAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY="}"#,
                "it looks like 32 characters of hex; give --encoding hex",
            ),
            (
                r#"{"id":"hunter2","key":"alice"}"#,
                "key: neither base64, PEM nor a JWK",
            ),
            (r#"{"id":"a","key":""}"#, "the key is empty"),
            ("hunter2", "not the JSON"),
        ] {
            let error = Entry::of_line(line, 1, &DEFAULTS).unwrap_err();
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
        // What is a document is detected: the name of a file is often that of another format.
        for document in [
            &b"-----BEGIN PRIVATE KEY-----\n"[..],
            b"KEY='-----BEGIN PRIVATE KEY-----\n'",
            b"{\"kty\":\"oct\"}",
            b"\x30\x02\x05\x00",
        ] {
            for name in ["b.pem", "b.key", "b.der", "b.jwk"] {
                let path = folder.path().join(name);
                fs::write(&path, document).unwrap();
                let entry = Entry::of_file(&path, &DEFAULTS).unwrap();
                assert_eq!(entry.format, KeyFormat::Detect, "{name}");
            }
        }
        let path = folder.path().join("c.raw");
        for len in [20, 28] {
            fs::write(&path, [&vec![0x80; len][..], b"\n"].concat()).unwrap();
            let error = Entry::of_file(&path, &DEFAULTS).unwrap_err();
            assert!(error.contains(&format!("head -c {len} FILE")), "{error}");
        }
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
