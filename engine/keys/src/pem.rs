//! PEM, as far as it carries private keys. Nothing decoded leaves the arena.

use crate::arena::{Arena, ArenaBytes};
use crate::error::KeyError;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Blocks that may lie beside a private key and are passed over.
const PASSED_OVER: [&str; 4] = ["EC PARAMETERS", "CERTIFICATE", "PUBLIC KEY", "X509 CRL"];

/// What kind of private key a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Pkcs8,
    Sec1,
    Pkcs1,
}

/// Whether `bytes` look like PEM: a BEGIN line, perhaps after other text.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    bytes
        .split(|byte| *byte == b'\n')
        .any(|line| line.trim_ascii_start().starts_with(BEGIN.as_bytes()))
}

/// The one private key in `text`: its kind and its DER.
pub(crate) fn decode(arena: &Arena, text: &[u8]) -> Result<(Label, ArenaBytes), KeyError> {
    let text = std::str::from_utf8(text).map_err(|_| {
        KeyError::import(
            "PEM with bytes that are not text",
            "give the file as it was made",
        )
    })?;
    let mut key = None;
    let mut passed_over = None;
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN) else {
            continue;
        };
        let Some(label) = label.strip_suffix(DASHES) else {
            return Err(cut_short());
        };
        let kind = match label {
            "PRIVATE KEY" => Some(Label::Pkcs8),
            "EC PRIVATE KEY" => Some(Label::Sec1),
            "RSA PRIVATE KEY" => Some(Label::Pkcs1),
            label if PASSED_OVER.contains(&label) => None,
            label => return Err(foreign(label)),
        };
        let body = Body::read(arena, label, &mut lines)?;
        match kind {
            None => passed_over = PASSED_OVER.iter().find(|known| **known == label),
            Some(_) if key.is_some() => {
                return Err(KeyError::import(
                    "PEM with more than one private key",
                    "give one key per file",
                ));
            }
            Some(kind) => key = Some((kind, body.decode(arena)?)),
        }
    }
    key.ok_or_else(|| match passed_over {
        Some(label) => KeyError::import(
            format!("PEM that holds {label} and no private key"),
            "give the private key's file",
        ),
        None => KeyError::import(
            "PEM without a BEGIN line",
            "give a file with a PRIVATE KEY block",
        ),
    })
}

/// The base64 text of a block, in the arena.
struct Body {
    text: ArenaBytes,
    len: usize,
}

impl Body {
    fn read<'a>(
        arena: &Arena,
        label: &str,
        lines: &mut (impl Iterator<Item = &'a str> + Clone),
    ) -> Result<Self, KeyError> {
        let ends = |line: &str| {
            line.strip_prefix(END)
                .and_then(|rest| rest.strip_suffix(DASHES))
                .map(|end| end == label)
        };
        let in_block = lines.clone().take_while(|line| ends(line).is_none());
        let mut body = Self {
            text: ArenaBytes::zeroed(arena, in_block.map(str::len).sum())?,
            len: 0,
        };
        for line in lines {
            match ends(line) {
                Some(true) => return Ok(body),
                Some(false) => return Err(cut_short()),
                None if line.starts_with("Proc-Type:") || line.starts_with("DEK-Info:") => {
                    return Err(encrypted());
                }
                None => {
                    body.text[body.len..body.len + line.len()].copy_from_slice(line.as_bytes());
                    body.len += line.len();
                }
            }
        }
        Err(cut_short())
    }

    fn decode(&self, arena: &Arena) -> Result<ArenaBytes, KeyError> {
        let text = &self.text[..self.len];
        let mut der = ArenaBytes::zeroed(arena, base64::decoded_len_estimate(text.len()))?;
        let len = STANDARD.decode_slice(text, &mut der).map_err(|_| {
            KeyError::import(
                "PEM whose contents are not base64",
                "give the file as it was made",
            )
        })?;
        der.truncate(len);
        Ok(der)
    }
}

fn cut_short() -> KeyError {
    KeyError::import(
        "PEM whose BEGIN and END lines do not match",
        "give the whole file",
    )
}

fn encrypted() -> KeyError {
    KeyError::import(
        "a private key that is encrypted with a passphrase",
        "decrypt it first: openssl pkcs8 -in FILE -nocrypt -topk8",
    )
}

fn foreign(label: &str) -> KeyError {
    match label {
        "ENCRYPTED PRIVATE KEY" => encrypted(),
        "OPENSSH PRIVATE KEY" => KeyError::import(
            "a private key in OpenSSH's own format",
            "convert it first: ssh-keygen -p -m PKCS8 -f FILE",
        ),
        label => {
            let shown: String = label
                .chars()
                .filter(|c| c.is_ascii_graphic() || *c == ' ')
                .take(40)
                .collect();
            KeyError::import(
                format!("PEM with a block named {shown:?}"),
                "give a PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY block",
            )
        }
    }
}
