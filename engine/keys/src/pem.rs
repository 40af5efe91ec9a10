//! PEM, as far as it carries private keys. Nothing decoded leaves the arena.
//!
//! Lines are bytes, not text: what stands around a block may be in any encoding.

use crate::arena::{Arena, ArenaBytes};
use crate::error::KeyError;
use crate::found::Found;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// Other blocks that a message may name. Any other is "another kind": the name stands in the file,
/// so it is not quoted.
const NAMED: [&str; 7] = [
    "CERTIFICATE",
    "CERTIFICATE REQUEST",
    "DH PARAMETERS",
    "EC PARAMETERS",
    "PUBLIC KEY",
    "RSA PUBLIC KEY",
    "X509 CRL",
];

/// Base64 as OpenSSL reads it: with or without padding, whatever the last bits are.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// What kind of private key a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    /// PKCS#8, SEC1 or PKCS#1: labels are often those of another one.
    Document,
    OpenSsh,
}

/// Whether `bytes` look like PEM: a BEGIN line, perhaps after other text.
pub(crate) fn is_pem(bytes: &[u8]) -> bool {
    lines(bytes).any(|line| line.starts_with(BEGIN))
}

/// Whether `bytes` hold a BEGIN line that is not a line of its own.
pub(crate) fn is_misplaced(bytes: &[u8]) -> bool {
    bytes.windows(BEGIN.len()).any(|window| window == BEGIN)
}

/// The refusal of PEM without lines of its own, as in quotation marks, in JSON, in a variable of the environment.
pub(crate) fn misplaced(what: &'static str) -> KeyError {
    KeyError::import(
        what,
        "put it on lines of its own: sed -E -e 's/.*-----BEGIN/-----BEGIN/' \
         -e 's/(-----END [A-Z ]*-----).*/\\1/' -e 's/\\\\r//g' -e 's/\\\\n/\\n/g' \
         -e 's/(-----BEGIN [A-Z ]*-----) *([^\\n])/\\1\\n\\2/' \
         -e 's/([^\\n]) *(-----END )/\\1\\n\\2/' FILE > NEW",
    )
}

/// The one private key in `text`: its kind and what its block holds.
pub(crate) fn decode(arena: &Arena, text: &[u8]) -> Result<(Label, ArenaBytes), KeyError> {
    let mut key = None;
    let mut passed_over = None;
    let mut lines = lines(text);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(BEGIN) else {
            continue;
        };
        let Some(label) = label.strip_suffix(DASHES) else {
            return Err(cut_short(line));
        };
        if label.windows(DASHES.len()).any(|window| window == DASHES) {
            return Err(misplaced("PEM on one line"));
        }
        let kind = match label {
            b"ENCRYPTED PRIVATE KEY" => return Err(encrypted()),
            b"OPENSSH PRIVATE KEY" => Some(Label::OpenSsh),
            label if label.ends_with(b"PRIVATE KEY") => Some(Label::Document),
            _ => None,
        };
        let body = Body::read(arena, label, &mut lines)?;
        match kind {
            None => passed_over = Some(label),
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
        Some(label) => {
            let known = NAMED.iter().find(|known| known.as_bytes() == label);
            let name = known.copied().unwrap_or("another kind of block");
            KeyError::import(
                Found::from("PEM that holds ")
                    .and(name)
                    .and(" and no private key"),
                "give the file of the private key",
            )
        }
        None => KeyError::import(
            "PEM without a BEGIN line",
            "give a file with a PRIVATE KEY block",
        ),
    })
}

/// Lines without the white space around them, whichever line ends there are.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    text.split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
}

/// The base64 text of a block, in the arena.
struct Body {
    text: ArenaBytes,
    len: usize,
}

impl Body {
    fn read<'a>(
        arena: &Arena,
        label: &[u8],
        lines: &mut (impl Iterator<Item = &'a [u8]> + Clone),
    ) -> Result<Self, KeyError> {
        let ends = |line: &[u8]| {
            line.strip_prefix(END)
                .and_then(|rest| rest.strip_suffix(DASHES))
                .map(|end| end == label)
        };
        let in_block = lines.clone().take_while(|line| ends(line).is_none());
        let mut body = Self {
            text: ArenaBytes::zeroed(arena, in_block.map(<[u8]>::len).sum())?,
            len: 0,
        };
        for line in lines {
            match ends(line) {
                Some(true) => return Ok(body),
                Some(false) => return Err(cut_short(line)),
                None if line.starts_with(BEGIN) => return Err(cut_short(line)),
                None if line.starts_with(b"DEK-Info:") => return Err(encrypted()),
                // A header (RFC 1421): no base64 has a colon.
                None if line.contains(&b':') => {}
                None => {
                    for byte in line.iter().filter(|byte| !byte.is_ascii_whitespace()) {
                        body.text[body.len] = *byte;
                        body.len += 1;
                    }
                }
            }
        }
        Err(cut_short(b""))
    }

    fn decode(&self, arena: &Arena) -> Result<ArenaBytes, KeyError> {
        let text = &self.text[..self.len];
        let mut der = ArenaBytes::zeroed(arena, base64::decoded_len_estimate(text.len()))?;
        let len = BASE64.decode_slice(text, &mut der).map_err(|_| {
            KeyError::import(
                "PEM whose contents are not base64",
                "give the file as it was made",
            )
        })?;
        der.truncate(len);
        Ok(der)
    }
}

/// The refusal of a block without its end. `line` is where that showed.
fn cut_short(line: &[u8]) -> KeyError {
    // As it stands in JSON and in environment files.
    if line.windows(2).any(|pair| pair == b"\\n") {
        return KeyError::import(
            "PEM whose line ends are written out as \\n",
            "put line ends in their place: sed 's/\\\\r//g; s/\\\\n/\\n/g' FILE > NEW",
        );
    }
    KeyError::import(
        "PEM whose BEGIN and END lines do not match",
        "give the whole file",
    )
}

fn encrypted() -> KeyError {
    crate::import::encrypted()
}
