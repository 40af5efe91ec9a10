//! Raw secrets in files: how they are encoded, and what is not silently taken for the secret.
//!
//! A secret that was made by a tool ends in a line end, or is hexadecimal or base64 text, far more
//! often than it is meant to be exactly these bytes. Taken as it stands it works, until another
//! program reads the same file rightly and no MAC agrees.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use clap::ValueEnum;
use keyway_client::KeyFormat;
use zeroize::Zeroizing;

use crate::streams::Wiped;

/// How a raw secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Encoding {
    /// The bytes are the secret.
    Raw,
    /// Hexadecimal digits.
    Hex,
    /// Base64, with or without padding.
    Base64,
    /// base64url, as in JWKs.
    #[value(name = "base64url")]
    Base64Url,
}

/// What holds a raw secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A file: editors and shells end it with a line end.
    File,
    /// A line of JSON, in base64.
    Line,
}

/// Below this length in bytes no text is taken for an encoding: no secret is that short.
const TEXT_LEN_MIN: usize = 16;

/// The format and the bytes to send: decoded if an encoding is named, and checked if not. The error
/// says what was seen and what to do; it quotes nothing.
pub fn prepared(
    from: Holder,
    format: KeyFormat,
    encoding: Option<Encoding>,
    bytes: Wiped,
) -> Result<(KeyFormat, Wiped), String> {
    match (encoding, format) {
        // A private key in base64, as in the data of a Kubernetes secret: the server finds out which. A raw secret of a
        // symmetric key looks like one once in 65,536 times at most, and the server refuses it then.
        (Some(encoding), KeyFormat::Detect) if encoding != Encoding::Raw => {
            let decoded = decode(encoding, bytes)?;
            let format = match is_document(&decoded) {
                true => KeyFormat::Detect,
                false => KeyFormat::Raw,
            };
            Ok((format, decoded))
        }
        (Some(encoding), KeyFormat::Detect | KeyFormat::Raw) => {
            let decoded = decode(encoding, bytes)?;
            Ok((KeyFormat::Raw, decoded))
        }
        (Some(_), format) => Err(format!(
            "--encoding is for raw secrets, and the format is {format}; leave one of the two out"
        )),
        (None, KeyFormat::Raw) => match looks_like(&bytes, from) {
            Some(seen) => Err(seen),
            None => Ok((format, bytes)),
        },
        // The server distinguishes these.
        (None, KeyFormat::Detect) if !is_document(&bytes) => match looks_like(&bytes, from) {
            Some(seen) => Err(seen),
            None => Ok((format, bytes)),
        },
        (None, format) => Ok((format, bytes)),
    }
}

fn decode(encoding: Encoding, bytes: Wiped) -> Result<Wiped, String> {
    let (what, decoded) = match encoding {
        Encoding::Raw => return Ok(bytes),
        Encoding::Hex => ("pairs of hexadecimal digits", unhex(bytes.trim_ascii())),
        Encoding::Base64 => ("base64", unbase64(&STANDARD, &bytes)),
        Encoding::Base64Url => ("base64url", unbase64(&URL_SAFE, &bytes)),
    };
    let len = bytes.len();
    decoded.ok_or_else(|| {
        format!("its {len} bytes are not {what}; name the encoding that it is in with --encoding")
    })
}

fn unhex(digits: &[u8]) -> Option<Wiped> {
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut out = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for &[high, low] in pairs {
        out.push((digit(high)? * 16 + digit(low)?) as u8);
    }
    Some(out)
}

fn unbase64(alphabet: &Alphabet, text: &[u8]) -> Option<Wiped> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(alphabet, config);
    // Tools break lines.
    let mut joined = Zeroizing::new(Vec::with_capacity(text.len()));
    joined.extend(text.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let mut out = Zeroizing::new(vec![0; base64::decoded_len_estimate(joined.len())]);
    let len = engine.decode_slice(&*joined, &mut out).ok()?;
    out.truncate(len);
    Some(out)
}

/// PEM, JSON or DER, which the server reads, and what it refuses by name.
pub fn is_document(bytes: &[u8]) -> bool {
    const NAMED: [&[u8]; 5] = [b"ssh-", b"ecdsa-sha2-", b"sk-", b"---- BEGIN", b"PuTTY-"];
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    NAMED
        .iter()
        .any(|start| text.trim_ascii_start().starts_with(start))
        || text.windows(11).any(|window| window == b"-----BEGIN ")
        || is_json(text)
        || bytes.starts_with(&[0x30, 0x81])
        || bytes.starts_with(&[0x30, 0x82])
        || matches!(bytes, [0x30, len, rest @ ..] if ends_with_padding(rest, usize::from(*len)))
        || bytes.starts_with(&[0x30, 0x80])
        || is_windows_blob(bytes)
        || is_utf16(bytes)
}

/// Whether `len` bytes are followed by nothing but white space: the last of them may look like it.
fn ends_with_padding(bytes: &[u8], len: usize) -> bool {
    bytes
        .get(len..)
        .is_some_and(|behind| behind.trim_ascii().is_empty())
}

/// A private key as Windows keeps it: PVK, or a PRIVATEKEYBLOB.
fn is_windows_blob(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1e, 0xf1, 0xb5, 0xb0])
        || (bytes.starts_with(&[7, 2, 0, 0]) && matches!(bytes.get(8..12), Some(b"RSA2" | b"DSS2")))
}

fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii(), [b'{', .., b'}'])
}

/// Which the server refuses by name.
fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xfe])
        || bytes.starts_with(&[0xfe, 0xff])
        || matches!(bytes, [b'-' | b'{', 0, _, 0, ..] | [0, b'-' | b'{', 0, ..])
}

/// What raw bytes look like that are probably not the secret themselves, and what to do.
fn looks_like(bytes: &[u8], from: Holder) -> Option<String> {
    let body = without_line_end(bytes);
    let ends = if body.len() < bytes.len() {
        " and a line end"
    } else {
        ""
    };
    let len = body.len();
    if is_json(bytes) || bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Some(
            "it looks like a JWK or PEM, not like a raw secret; leave --format out, or give \
             --encoding raw if this text itself is the secret"
                .into(),
        );
    }
    let encodings = [
        (Encoding::Hex, "hex", unhex(body)),
        (Encoding::Base64, "base64", unbase64(&STANDARD, body)),
        (Encoding::Base64Url, "base64url", unbase64(&URL_SAFE, body)),
    ];
    // Tools break lines of base64, and none of hexadecimal digits.
    let is_text = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b'\r' | b'\n');
    let is_text = len >= TEXT_LEN_MIN && body.iter().all(is_text);
    for (_, name, decoded) in encodings {
        if let (true, Some(decoded)) = (is_text, decoded) {
            if is_document(&decoded) {
                return Some(format!(
                    "it looks like a key in {name}{ends}; give --encoding {name}, or --encoding raw if this text itself \
                     is the secret"
                ));
            }
            let stands_for = decoded.len();
            return Some(format!(
                "it looks like {len} characters of {name}{ends}; give --encoding {name} if they \
                 stand for {stands_for} bytes, or --encoding raw if this text itself is the secret"
            ));
        }
    }
    let printable = body.iter().all(|byte| matches!(byte, b' '..=b'~'));
    // One in 256 random secrets ends in such a byte. A program that wrote it in base64 meant it; a file may have it from an editor.
    let is_doubtful = from == Holder::File || printable || len.is_multiple_of(8);
    (!ends.is_empty() && is_doubtful).then(|| {
        format!(
            "it has {len} bytes{ends}; give --encoding raw if the line end belongs to the secret, \
             or leave it out: head -c {len} FILE > NEW"
        )
    })
}

fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<(), String> {
        let bytes = Zeroizing::new(bytes.to_vec());
        prepared(Holder::File, KeyFormat::Raw, None, bytes).map(drop)
    }

    #[test]
    fn what_is_probably_not_the_secret_itself_is_told() {
        for (bytes, words) in [
            (
                &b"000102030405060708090a0b0c0d0e0f"[..],
                "32 characters of hex;",
            ),
            (
                b"000102030405060708090a0b0c0d0e0f\r\n",
                "hex and a line end;",
            ),
            (b"AAECAwQFBgcICQoLDA0ODw==\n", "stand for 16 bytes"),
            (b"AAECAwQFBgcICQoLDA0O_-8", "characters of base64url;"),
            (b"a pass phrase!\n", "14 bytes and a line end"),
            (&[&[7; 32][..], b"\n"].concat(), "head -c 32 FILE"),
            (&[&[0x80; 20][..], b"\n"].concat(), "head -c 20 FILE"),
            (&[&[0x80; 28][..], b"\r\n"].concat(), "head -c 28 FILE"),
            (&[&[0x80; 31][..], b"\n"].concat(), "head -c 31 FILE"),
            (b"MAECAwQFBgcI\r\nCQoLDA0ODw==\n", "stand for 16 bytes"),
            (b"LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t", "a key in base64;"),
            (b"{\"kty\":\"oct\"}", "a JWK"),
        ] {
            let said = check(bytes).unwrap_err();
            assert!(said.contains(words), "{said}");
            assert!(said.contains("--encoding raw"), "{said}");
        }
        for bytes in [&[7; 32][..], b"a pass phrase of several words", b"short"] {
            assert_eq!(check(bytes), Ok(()));
        }
    }

    #[test]
    fn a_named_encoding_is_decoded_and_nothing_else_is_asked() {
        let secret: Vec<u8> = (0..16).chain(0xf0..=0xff).collect();
        let texts = [
            (
                Encoding::Hex,
                "000102030405060708090a0b0c0d0e0fF0f1f2f3f4f5f6f7f8f9fafbfcfdfeff\n",
            ),
            (
                Encoding::Base64,
                "AAECAwQFBgcICQoLDA0ODw\r\nDx8vP09fb3+Pn6+/z9/v8=\n",
            ),
            (
                Encoding::Base64Url,
                "AAECAwQFBgcICQoLDA0OD_Dx8vP09fb3-Pn6-_z9_v8",
            ),
        ];
        for (encoding, text) in texts {
            let text = text.replace("ODw\r\nDx", "OD/\r\nDx");
            let bytes = Zeroizing::new(text.into_bytes());
            let sent = prepared(Holder::File, KeyFormat::Detect, Some(encoding), bytes);
            let (format, bytes) = sent.unwrap();
            assert_eq!((format, &**bytes), (KeyFormat::Raw, &secret[..]));
        }
        let text = Zeroizing::new(b"00010203".to_vec());
        let raw = prepared(
            Holder::File,
            KeyFormat::Raw,
            Some(Encoding::Raw),
            text.clone(),
        )
        .unwrap();
        assert_eq!(raw.1, text);
        let wrong = prepared(
            Holder::File,
            KeyFormat::Raw,
            Some(Encoding::Hex),
            Zeroizing::new(b"0g".to_vec()),
        );
        assert!(!wrong.unwrap_err().contains("0g"));
        assert!(prepared(Holder::File, KeyFormat::Pem, Some(Encoding::Hex), text).is_err());
        let key = Zeroizing::new(b"LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0t".to_vec());
        let (format, pem) =
            prepared(Holder::File, KeyFormat::Detect, Some(Encoding::Base64), key).unwrap();
        assert_eq!(
            (format, &**pem),
            (KeyFormat::Detect, &b"-----BEGIN PRIVATE KEY-----"[..])
        );
    }

    /// The fault: 2 % of Ed25519 keys end in a byte that passes for white space, and were then sent as raw secrets.
    #[test]
    fn a_document_is_one_whatever_its_last_byte_is() {
        const HEAD: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
        for last in [0x09, 0x0a, 0x0c, 0x0d, 0x20, 0x7f] {
            let der = [HEAD, &[7; 31], &[last]].concat();
            for (encoding, text) in [
                (
                    Encoding::Base64,
                    base64::engine::general_purpose::STANDARD.encode(&der),
                ),
                (
                    Encoding::Base64Url,
                    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&der),
                ),
            ] {
                let text = Zeroizing::new(format!("{text}\n").into_bytes());
                let sent = prepared(
                    Holder::File,
                    KeyFormat::Detect,
                    Some(encoding),
                    text.clone(),
                );
                let (format, bytes) = sent.unwrap();
                assert_eq!(
                    (format, &**bytes),
                    (KeyFormat::Detect, &der[..]),
                    "{last:#x}"
                );
                let said = prepared(Holder::File, KeyFormat::Raw, None, text).unwrap_err();
                assert!(said.contains("it looks like a key in base64"), "{said}");
            }
            for behind in [&b""[..], b"\n", b"\r\n"] {
                let bytes = Zeroizing::new([&der[..], behind].concat());
                let sent = prepared(Holder::File, KeyFormat::Detect, None, bytes.clone());
                assert_eq!(sent, Ok((KeyFormat::Detect, bytes)), "{last:#x}");
            }
        }
    }

    /// In base64 a program named the bytes; one in 256 random secrets ends so.
    #[test]
    fn a_line_of_json_is_taken_at_its_word_unless_its_secret_looks_like_a_line() {
        let line = |bytes: &[u8]| {
            let bytes = Zeroizing::new(bytes.to_vec());
            prepared(Holder::Line, KeyFormat::Raw, None, bytes).is_ok()
        };
        assert!(line(&[&[0x80; 31][..], b"\n"].concat()));
        assert!(!line(&[&[0x80; 32][..], b"\n"].concat()));
        assert!(!line(b"a pass phrase!\n"));
    }
}
