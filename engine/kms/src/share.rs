//! One share of a secret that several people hold together, as its holder writes it down.

use std::fmt;

use zeroize::{ZeroizeOnDrop, Zeroizing};

use crate::{Class, KmsError};

/// Longest share, in bytes: 33 words of at most 8 letters, with slack for extra spaces.
pub const SHARE_BYTES_MAX: usize = 512;

/// A share's words. Its `Debug` output is empty, and it is wiped when dropped. Whether the words form a share is checked
/// when they are used.
pub struct Share(Zeroizing<String>);

impl Share {
    /// Takes the words, which are ASCII. Refused text is wiped.
    pub fn new(bytes: Vec<u8>) -> Result<Self, KmsError> {
        let bytes = Zeroizing::new(bytes);
        let refuse = |what: &str| {
            Err(KmsError::new(
                Class::Misconfigured,
                what,
                "give one share: its words in their order, separated by spaces",
            ))
        };
        if bytes.len() > SHARE_BYTES_MAX {
            return refuse("the share has more than 512 bytes");
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) if text.trim().is_empty() => refuse("the share is empty"),
            Ok(text) if text.is_ascii() => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => refuse("the share holds letters outside of ASCII"),
        }
    }

    /// Returns the words for the duration of the borrow.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl ZeroizeOnDrop for Share {}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Share(redacted)")
    }
}

const _: () = assert!(SHARE_BYTES_MAX == 512, "the message names the figure");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_share_is_refused_and_nothing_is_printed() {
        let share = Share::new(b"duckling enlarge academic".to_vec()).unwrap();
        assert_eq!(format!("{share:?}"), "Share(redacted)");
        for bytes in [
            vec![],
            b" \n".to_vec(),
            vec![b'a'; 513],
            b"d\xc3\xbc".to_vec(),
        ] {
            assert!(Share::new(bytes).is_err());
        }
    }
}
