//! The PIN that opens a token.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{Class, KmsError};

/// Longest PIN, in bytes: the limit of the tokens that have one (SoftHSM2, `MAX_PIN_LEN`).
pub const PIN_BYTES_MAX: usize = 255;

/// A PIN of `1..=PIN_BYTES_MAX` bytes of UTF-8 on one line. Its `Debug` output is empty, and it is wiped when dropped.
/// The token determines the minimum length.
pub struct Pin(Zeroizing<String>);

impl Pin {
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
        let refuse = |what: String, remedy| Err(KmsError::new(Class::Misconfigured, what, remedy));
        if bytes.is_empty() {
            return refuse("the PIN is empty".into(), "give the token's user PIN");
        }
        if bytes.len() > PIN_BYTES_MAX {
            return refuse(
                format!("the PIN has more than {PIN_BYTES_MAX} bytes"),
                "check that the source is the PIN and not another file",
            );
        }
        if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r' | 0)) {
            return refuse(
                "the PIN holds a line end or a zero byte".into(),
                "put it on a single line",
            );
        }
        match String::from_utf8(std::mem::take(&mut *bytes)) {
            Ok(text) => Ok(Self(Zeroizing::new(text))),
            Err(error) => {
                error.into_bytes().zeroize();
                refuse("the PIN is not UTF-8".into(), "give the token's user PIN")
            }
        }
    }

    /// Returns the PIN for the duration of the borrow.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl ZeroizeOnDrop for Pin {}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trailing_line_end_is_cut_off_and_nothing_is_printed() {
        for text in ["1234", "1234\n", "1234\r\n"] {
            let pin = Pin::new(text.into()).unwrap();
            assert_eq!(pin.expose(), "1234");
            assert_eq!(format!("{pin:?}"), "Pin(redacted)");
        }
    }

    #[test]
    fn what_cannot_be_a_pin_is_refused_with_its_reason() {
        let long = vec![b'1'; PIN_BYTES_MAX + 1];
        let table: [(&[u8], &str); 5] = [
            (b"", "empty"),
            (b"\n", "empty"),
            (b"12\n34", "line end"),
            (b"\xff\xfe", "UTF-8"),
            (&long, "255"),
        ];
        for (bytes, reason) in table {
            let error = Pin::new(bytes.to_vec()).unwrap_err();
            assert!(error.what().contains(reason), "{error}");
        }
    }
}
