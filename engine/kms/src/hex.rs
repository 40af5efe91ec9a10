//! Lower-case hexadecimal text, the only form accepted in the KEK file.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use crate::SecretKey;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Returns the lower-case hexadecimal spelling of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Decodes exactly `out.len()` bytes. Returns `false` for another length, or if the text is not lower-case hexadecimal;
/// `out` is then unspecified.
fn decode(text: &str, out: &mut [u8]) -> bool {
    let text = text.as_bytes();
    if text.len() != out.len() * 2 {
        return false;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
            return false;
        };
        *byte = high << 4 | low;
    }
    true
}

fn digit(text: u8) -> Option<u8> {
    match text {
        b'0'..=b'9' => Some(text - b'0'),
        b'a'..=b'f' => Some(text - b'a' + 10),
        _ => None,
    }
}

/// `N` public bytes, in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hex<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut bytes = [0; N];
        deserializer.deserialize_str(HexVisitor(&mut bytes))?;
        Ok(Self(bytes))
    }
}

/// A secret key, in hexadecimal: the unprotected KEK of a development setup. It is decoded directly into the secret,
/// without a copy of the text.
#[derive(Debug)]
pub(crate) struct HexSecret(pub(crate) SecretKey);

impl Serialize for HexSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(encode(self.0.expose())))
    }
}

impl<'de> Deserialize<'de> for HexSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SecretKey::try_fill(|bytes| deserializer.deserialize_str(HexVisitor(bytes))).map(Self)
    }
}

struct HexVisitor<'a>(&'a mut [u8]);

impl Visitor<'_> for HexVisitor<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lower-case hexadecimal digits", self.0.len() * 2)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if decode(text, self.0) {
            return Ok(());
        }
        self.0.zeroize();
        // The text may be a secret, so the error does not quote it.
        Err(E::custom(format_args!(
            "expected {} lower-case hexadecimal digits",
            self.0.len() * 2
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lower_case_of_the_exact_length_decodes() {
        let mut out = [0; 2];
        assert!(decode("0aff", &mut out));
        assert_eq!(out, [0x0a, 0xff]);
        for bad in ["", "0a", "0aff00", "0AFF", "0a f", "0x0a", "éé"] {
            assert!(!decode(bad, &mut out), "{bad:?}");
        }
    }

    #[test]
    fn encoding_then_decoding_is_the_identity() {
        let all: Vec<u8> = (0..=255).collect();
        let mut out = vec![0; 256];
        assert!(decode(&encode(&all), &mut out));
        assert_eq!(out, all);
    }

    #[test]
    fn a_bad_secret_is_not_quoted() {
        let error = serde_json::from_str::<HexSecret>("\"correct horse\"").unwrap_err();
        assert!(!error.to_string().contains("horse"), "{error}");
    }
}
