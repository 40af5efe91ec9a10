//! Files of keys: those that are longer than any key hold one beside a chain of certificates, or in a long text.

use std::path::Path;

use keyway_protocol::limits::MATERIAL_LEN_MAX;
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::streams::{PathOrStdio, Wiped, read_file};

/// Longest file that is looked through for a key, in bytes.
pub const FILE_LEN_MAX: usize = 1024 * 1024;

const TOO_LONG: &str = "no key is that long, and no chain beside one";

/// Reads a key's file.
pub fn read(path: &Path) -> Result<Wiped, Failure> {
    read_file(path, FILE_LEN_MAX, TOO_LONG).map(key_alone)
}

/// Reads a key's file, or standard input.
pub fn read_from(place: &PathOrStdio) -> Result<Wiped, Failure> {
    place.read(FILE_LEN_MAX, TOO_LONG).map(key_alone)
}

/// Of PEM that is longer than what can be sent, the private keys; the server judges whether it is one. Anything else is
/// returned as it is.
pub fn key_alone(bytes: Wiped) -> Wiped {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const END: &[u8] = b"-----END ";
    const PRIVATE: &[u8] = b"PRIVATE KEY-----";
    if bytes.len() <= MATERIAL_LEN_MAX {
        return bytes;
    }
    // All of its room at the start: a vector that grows leaves the old bytes behind.
    let mut keys = Zeroizing::new(Vec::with_capacity(bytes.len() + 1));
    let mut is_inside = false;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let line = line.trim_ascii();
        let is_begin = line.starts_with(BEGIN) && line.ends_with(PRIVATE);
        if !line.is_empty() && (is_begin || is_inside) {
            keys.extend_from_slice(line);
            keys.push(b'\n');
        }
        is_inside = (is_inside || is_begin) && !line.starts_with(END);
    }
    match keys.is_empty() {
        true => bytes,
        false => keys,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_out_of_a_file_that_is_too_long_to_be_sent() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let chain = format!(
            "-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n",
            "QUFB\n".repeat(MATERIAL_LEN_MAX)
        );
        let alone = |text: String| key_alone(Zeroizing::new(text.into_bytes()));
        for text in [
            format!("{chain}{key}"),
            format!("{key}{chain}").replace('\n', "\r\n"),
            format!("\u{feff}{key}{chain}"),
        ] {
            assert_eq!(&*alone(text), key.as_bytes());
        }
        let two = key.repeat(2);
        assert_eq!(&*alone(format!("{key}{chain}{key}")), two.as_bytes());
        assert_eq!(&*alone(chain.clone()), chain.as_bytes());
        assert_eq!(&*alone(format!("x\n{key}")), format!("x\n{key}").as_bytes());
    }
}
