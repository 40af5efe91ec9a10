//! The passphrase that guards a KEK.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Class, KmsError};

/// Shortest passphrase that may be chosen, in bytes: the minimum of NIST SP 800-63B (3.1.1.2).
pub const PASSPHRASE_BYTES_MIN: usize = 8;
/// Longest passphrase, in bytes. Argon2id accepts more, but a longer one is probably the wrong file.
pub const PASSPHRASE_BYTES_MAX: usize = 1024;

/// A passphrase of at most `PASSPHRASE_BYTES_MAX` bytes on one line. Its `Debug` output is empty, and it is wiped when
/// dropped. The bytes are used unchanged: spaces are not trimmed, and Unicode is not normalised.
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// Checks `bytes` and takes them. One trailing line end (`
    /// ` or `\r
    /// `) is removed. Refused bytes are wiped.
    pub fn new(bytes: Vec<u8>) -> Result<Self, KmsError> {
        let mut bytes = Zeroizing::new(bytes);
        let line_len = match bytes.as_slice() {
            [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line.len(),
            line => line.len(),
        };
        bytes[line_len..].zeroize();
        bytes.truncate(line_len);
        let len = bytes.len();
        let refuse =
            |what: String, remedy: &str| Err(KmsError::new(Class::Misconfigured, what, remedy));
        if len == 0 {
            return refuse(
                "the passphrase is empty".into(),
                "give one of at least 8 bytes",
            );
        }
        if len > PASSPHRASE_BYTES_MAX {
            return refuse(
                format!("the passphrase has more than {PASSPHRASE_BYTES_MAX} bytes"),
                "check that the source is the passphrase and not another file",
            );
        }
        if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return refuse(
                "the passphrase holds a line end or a zero byte".into(),
                "put it on a single line, and encode a binary secret as text first (base64 or hexadecimal)",
            );
        }
        Ok(Self(bytes))
    }

    /// Checks that it is long enough to be chosen. Unlocking does not check this: a short passphrase is wrong like any
    /// other.
    pub fn check_choice(&self) -> Result<(), KmsError> {
        let len = self.0.len();
        if len < PASSPHRASE_BYTES_MIN {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!("the passphrase has {len} bytes, fewer than {PASSPHRASE_BYTES_MIN}"),
                "choose a longer one; several random words are easy to type",
            ));
        }
        Ok(())
    }

    /// Returns the bytes for the duration of the borrow.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl ZeroizeOnDrop for Passphrase {}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

const _: () = assert!(
    PASSPHRASE_BYTES_MIN == 8,
    "the message for an empty passphrase names the figure"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_line_end_is_cut_off() {
        for text in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            assert_eq!(
                Passphrase::new(text.into()).unwrap().expose(),
                b"correct horse"
            );
        }
        assert_eq!(
            Passphrase::new("  spaces stay  \n".into())
                .unwrap()
                .expose(),
            b"  spaces stay  "
        );
    }

    #[test]
    fn what_cannot_be_a_passphrase_is_refused_with_its_reason() {
        let table: [(&[u8], &str); 6] = [
            (b"", "empty"),
            (b"\n", "empty"),
            (b"\r\n", "empty"),
            (b"two lines\nof text", "line end"),
            (b"two line ends\n\n", "line end"),
            (b"zero\0byte", "zero byte"),
        ];
        for (bytes, reason) in table {
            let error = Passphrase::new(bytes.to_vec()).unwrap_err();
            assert_eq!(error.class(), Class::Misconfigured);
            assert!(error.what().contains(reason), "{error}");
        }
        assert!(Passphrase::new(vec![b'a'; PASSPHRASE_BYTES_MAX]).is_ok());
        let error = Passphrase::new(vec![b'a'; PASSPHRASE_BYTES_MAX + 1]).unwrap_err();
        assert!(error.what().contains("1024"), "{error}");
    }

    #[test]
    fn a_short_one_can_be_given_and_not_chosen() {
        let chosen = |text: &str| Passphrase::new(text.into()).unwrap().check_choice();
        for short in ["seven77", "seven77\n"] {
            let error = chosen(short).unwrap_err();
            assert_eq!(error.class(), Class::Misconfigured);
            assert!(error.what().contains("7 bytes"), "{error}");
        }
        assert_eq!(chosen("eight888"), Ok(()));
    }

    #[test]
    fn debug_and_errors_do_not_quote_it() {
        let passphrase = Passphrase::new(b"correct horse".to_vec()).unwrap();
        assert_eq!(format!("{passphrase:?}"), "Passphrase(redacted)");
        let short = Passphrase::new(b"sesame".to_vec()).unwrap();
        let error = short.check_choice().unwrap_err();
        assert!(!error.to_string().contains("sesame"), "{error}");
    }
}
