//! What editors, shells and other programs do to files of text.

use crate::error::KeyError;
use crate::found::Found;

const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Returns the text without the byte order mark that Windows programs put before UTF-8. UTF-16 and UTF-32 are refused by
/// name: read as bytes they are neither PEM nor JSON.
pub(super) fn plain(bytes: &[u8]) -> Result<&[u8], KeyError> {
    let refused = match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some((
            "text in UTF-32",
            "write it as UTF-8: iconv -f UTF-32 -t UTF-8 FILE > NEW",
        )),
        [0xff, 0xfe, _, 0, ..] | [0xfe, 0xff, 0, ..] => Some((
            "text in UTF-16",
            "write it as UTF-8: iconv -f UTF-16 -t UTF-8 FILE > NEW",
        )),
        // Without a mark, PEM's dashes or a brace show the order, which iconv would guess.
        [b'-' | b'{', 0, _, 0, ..] => Some((
            "text in UTF-16",
            "write it as UTF-8: iconv -f UTF-16LE -t UTF-8 FILE > NEW",
        )),
        [0, b'-' | b'{', 0, ..] => Some((
            "text in UTF-16",
            "write it as UTF-8: iconv -f UTF-16BE -t UTF-8 FILE > NEW",
        )),
        _ => None,
    };
    match refused {
        Some((what, remedy)) => Err(KeyError::import(what, remedy)),
        None => Ok(bytes.strip_prefix(UTF8_MARK).unwrap_or(bytes)),
    }
}

/// The refusal of text that is no key's, by the kind that it shows itself to be.
pub(super) fn unknown(text: &[u8]) -> KeyError {
    const PUBLIC_KEYS: [&[u8]; 4] = [b"ssh-", b"ecdsa-sha2-", b"sk-", b"---- BEGIN SSH2 PUBLIC"];
    let text = text.trim_ascii_start();
    if text.starts_with(b"PuTTY-User-Key-File") {
        return KeyError::import(
            "a key of PuTTY's format",
            "write it in OpenSSH's: puttygen FILE -O private-openssh -o NEW",
        );
    }
    if PUBLIC_KEYS.iter().any(|start| text.starts_with(start)) {
        return KeyError::import("a public key", "give the file of the private key");
    }
    KeyError::import(
        Found::from(text.len()).and(" bytes that are neither PEM nor DER nor a JWK"),
        "give the file of a private key, or name the algorithm of a raw secret",
    )
}
