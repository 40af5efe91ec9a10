//! Borrowed bytes that never print themselves.

use core::fmt;
use core::ops::Deref;

/// Bytes borrowed from a frame. `Debug` shows how many there are, not what they are, since
/// messages and key material belong in no log.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Octets<'a>(pub &'a [u8]);

impl<'a> Octets<'a> {
    /// The bytes, for as long as the frame lives.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl<'a> From<&'a [u8]> for Octets<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Deref for Octets<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl fmt::Debug for Octets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}
