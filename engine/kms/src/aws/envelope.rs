//! The stored form of a wrapped key: the ciphertext from AWS, with the ARN of the key that wrapped it.
//!
//! ```text
//! "arn1" | u16 length, little-endian | ARN | ciphertext
//! ```
//!
//! An alias can be changed to another key; DEKs wrapped by the first key must still be unwrapped by it. Older wrapped
//! keys consist of the ciphertext alone, and use the key name in the settings.

use super::CIPHERTEXT_BYTES_MAX;
use crate::{WRAPPED_BYTES_MAX, Wrapped};

const MAGIC: &[u8] = b"arn1";
/// Longest ARN that is stored. A key's has some 80 bytes.
const ARN_BYTES_MAX: usize = 512;
const LEN_BYTES: usize = 2;

const _: () = assert!(
    MAGIC.len() + LEN_BYTES + ARN_BYTES_MAX + CIPHERTEXT_BYTES_MAX <= WRAPPED_BYTES_MAX,
    "what is stored fits"
);

/// The parts of a wrapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Envelope<'a> {
    /// `None` in the older form.
    pub(super) arn: Option<&'a str>,
    pub(super) ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Parses a wrapped key. Returns `None` if it was not created by Keyway. The ciphertext has
    /// `1..=CIPHERTEXT_BYTES_MAX` bytes.
    pub(super) fn parse(wrapped: &'a [u8]) -> Option<Self> {
        let (arn, ciphertext) = match wrapped.strip_prefix(MAGIC) {
            None => (None, wrapped),
            Some(rest) => {
                let (len, rest) = rest.split_first_chunk::<LEN_BYTES>()?;
                let len = usize::from(u16::from_le_bytes(*len));
                let (arn, ciphertext) = rest.split_at_checked(len)?;
                (Some(std::str::from_utf8(arn).ok()?), ciphertext)
            }
        };
        let fits = (1..=CIPHERTEXT_BYTES_MAX).contains(&ciphertext.len());
        fits.then_some(Self { arn, ciphertext })
    }

    /// Builds a wrapped key. Returns `None` if the ARN is longer than any of AWS.
    pub(super) fn seal(arn: &str, ciphertext: &[u8]) -> Option<Wrapped> {
        if arn.len() > ARN_BYTES_MAX {
            return None;
        }
        let len = (arn.len() as u16).to_le_bytes();
        Some(Wrapped([MAGIC, &len, arn.as_bytes(), ciphertext].concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_read_and_what_was_before_too() {
        let arn = "arn:aws:kms:eu-central-1:1:key/x";
        let Wrapped(bytes) = Envelope::seal(arn, b"cipher").unwrap();
        assert_eq!(&bytes[..6], b"arn1\x20\0");
        let read = Envelope::parse(&bytes).unwrap();
        assert_eq!((read.arn, read.ciphertext), (Some(arn), &b"cipher"[..]));
        let before = Envelope::parse(b"cipher").unwrap();
        assert_eq!((before.arn, before.ciphertext), (None, &b"cipher"[..]));
        assert!(Envelope::seal(&"a".repeat(ARN_BYTES_MAX + 1), b"x").is_none());
    }

    #[test]
    fn what_is_cut_or_too_long_is_none() {
        let Wrapped(bytes) = Envelope::seal("arn", b"c").unwrap();
        for len in 4..bytes.len() {
            assert_eq!(Envelope::parse(&bytes[..len]), None, "{len}");
        }
        assert_eq!(Envelope::parse(b""), None);
        assert_eq!(Envelope::parse(&[1; CIPHERTEXT_BYTES_MAX + 1]), None);
        assert_eq!(Envelope::parse(b"arn1\x01\0\xffc"), None);
    }
}
