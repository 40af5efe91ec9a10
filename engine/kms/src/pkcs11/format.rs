//! A wrapped key of this provider: version u8 = 1, IV of 12 bytes, then the 32 bytes sealed with AES-256-GCM and the
//! 16-byte tag. The additional data is the context's canonical encoding.

use crate::secret::SECRET_BYTES;
use crate::{WRAPPED_BYTES_MAX, Wrapped};

pub(super) const IV_BYTES: usize = 12;
pub(super) const TAG_BITS: u32 = 128;
pub(super) const SEALED_BYTES: usize = SECRET_BYTES + TAG_BITS as usize / 8;

const VERSION: u8 = 1;
const WRAPPED_BYTES: usize = 1 + IV_BYTES + SEALED_BYTES;

const _: () = assert!(WRAPPED_BYTES == 61 && WRAPPED_BYTES <= WRAPPED_BYTES_MAX);

/// The parts of a wrapped key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) iv: [u8; IV_BYTES],
    /// Ciphertext and tag.
    pub(super) bytes: [u8; SEALED_BYTES],
}

impl Sealed {
    /// Returns `None` for bytes of another provider, or of another version.
    pub(super) fn parse(wrapped: &[u8]) -> Option<Self> {
        let (version, rest) = wrapped.split_first()?;
        let (iv, bytes) = rest.split_first_chunk::<IV_BYTES>()?;
        let bytes = bytes.try_into().ok()?;
        (*version == VERSION).then_some(Self { iv: *iv, bytes })
    }

    pub(super) fn to_wrapped(self) -> Wrapped {
        let mut wrapped = Vec::with_capacity(WRAPPED_BYTES);
        wrapped.push(VERSION);
        wrapped.extend_from_slice(&self.iv);
        wrapped.extend_from_slice(&self.bytes);
        Wrapped(wrapped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_taken() {
        let sealed = Sealed {
            iv: [3; IV_BYTES],
            bytes: [5; SEALED_BYTES],
        };
        let Wrapped(bytes) = sealed.to_wrapped();
        assert_eq!(bytes, [&[1][..], &[3; 12], &[5; 48]].concat());
        assert_eq!(Sealed::parse(&bytes), Some(sealed));
        for len in 0..bytes.len() {
            assert_eq!(Sealed::parse(&bytes[..len]), None, "{len} bytes");
        }
        assert_eq!(Sealed::parse(&[&bytes[..], &[0]].concat()), None);
        let other_version = [&[2], &bytes[1..]].concat();
        assert_eq!(Sealed::parse(&other_version), None);
    }
}
