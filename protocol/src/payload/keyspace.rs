//! Payloads of KEYSPACE_CREATE and KEYSPACE_SET: lines of text, `name=value`.

use alloc::vec::Vec;
use core::fmt;

use crate::limits::SETTINGS_LEN_MAX;
use crate::reader::at_most;
use crate::{ProtocolError, check_keyspace_name};

/// Settings as text: any number of lines `name=value`, each ended by a line feed. Names are
/// printable ASCII without `=` and spaces; values are printable ASCII and may be empty. What the
/// names mean is the server's to say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Settings<'a> {
    lines: &'a str,
}

impl<'a> Settings<'a> {
    /// No settings.
    pub const NONE: Self = Self { lines: "" };

    /// Checks lines of settings.
    pub fn new(lines: &'a str) -> Result<Self, ProtocolError> {
        Self::decode(lines.as_bytes())
    }

    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let field = "settings";
        at_most(field, payload.len(), SETTINGS_LEN_MAX)?;
        if payload.last().is_some_and(|&byte| byte != b'\n') {
            return Err(ProtocolError::Rule {
                field,
                rule: "each line ends with a line feed",
            });
        }
        let bad = |&byte: &u8| !matches!(byte, b' '..=b'~' | b'\n');
        if let Some(at) = payload.iter().position(bad) {
            return Err(ProtocolError::BadByte {
                field,
                at: at as u64,
                byte: payload[at],
            });
        }
        let lines = core::str::from_utf8(payload).expect("only ASCII is allowed");
        for line in lines.split_terminator('\n') {
            match line.split_once('=') {
                Some((name, _)) if !name.is_empty() && !name.contains(' ') => {}
                _ => {
                    return Err(ProtocolError::Rule {
                        field,
                        rule: "each line reads name=value",
                    });
                }
            }
        }
        Ok(Self { lines })
    }

    /// The lines as they stand.
    #[must_use]
    pub const fn as_str(&self) -> &'a str {
        self.lines
    }

    /// The settings, in order, as `(name, value)`.
    #[must_use]
    pub fn iter(&self) -> SettingsIter<'a> {
        SettingsIter { lines: self.lines }
    }
}

impl<'a> IntoIterator for Settings<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = SettingsIter<'a>;

    fn into_iter(self) -> SettingsIter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Settings one by one.
#[derive(Clone, Debug)]
pub struct SettingsIter<'a> {
    lines: &'a str,
}

impl<'a> Iterator for SettingsIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let (line, rest) = self.lines.split_once('\n')?;
        self.lines = rest;
        line.split_once('=')
    }
}

/// KEYSPACE_CREATE. The answer is the new keyspace's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceCreate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Settings that differ from the defaults.
    pub settings: Settings<'a>,
}

impl<'a> KeyspaceCreate<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let end = payload
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(ProtocolError::Rule {
                field: "keyspace name",
                rule: "a line feed ends it",
            })?;
        Ok(Self {
            name: check_keyspace_name(&payload[..end])?,
            settings: Settings::decode(&payload[end + 1..])?,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        check_keyspace_name(self.name.as_bytes())?;
        out.extend_from_slice(self.name.as_bytes());
        out.push(b'\n');
        out.extend_from_slice(self.settings.as_str().as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_out_in_order() {
        let settings = Settings::new("soft_ttl_ms=1000\npolicy.anonymous=sign,verify\nnote=\n");
        let settings = settings.unwrap();
        assert!(settings.iter().eq([
            ("soft_ttl_ms", "1000"),
            ("policy.anonymous", "sign,verify"),
            ("note", ""),
        ]));
    }

    #[test]
    fn lines_that_are_not_name_and_value_are_refused() {
        for bad in [
            "a=1",
            "a\n",
            "=1\n",
            "a b=1\n",
            "\n",
            "a=\u{e9}\n",
            "a=\r\n",
        ] {
            assert!(Settings::new(bad).is_err(), "{bad:?}");
        }
    }
}
