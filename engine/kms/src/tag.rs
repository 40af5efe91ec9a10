//! Authentication tags that only the holder of a key can create.

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::SecretKey;

/// Length of a tag.
pub const TAG_BYTES: usize = 32;

/// HMAC-SHA-256 over a label and parts, each preceded by its length, so that no two lists of parts are equal.
#[derive(Clone, Debug)]
pub struct Tag([u8; TAG_BYTES]);

impl Tag {
    /// Returns the tag of `parts`. The label states its purpose, so that a tag for one purpose is not valid for another.
    pub fn of(key: &SecretKey, label: &str, parts: &[&[u8]]) -> Self {
        let mut state = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
        for part in [label.as_bytes()].iter().chain(parts) {
            state.update(&(part.len() as u64).to_le_bytes());
            state.update(part);
        }
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(state.sign().as_ref());
        crate::secret::scrub_stack();
        Self(bytes)
    }

    /// Returns the bytes, which are no secret.
    pub fn bytes(&self) -> &[u8; TAG_BYTES] {
        &self.0
    }

    /// Compares in constant time.
    pub fn is(&self, bytes: &[u8]) -> bool {
        self.0.as_slice().ct_eq(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_of_its_key_its_label_and_its_parts() {
        let key = SecretKey::take(&mut [7; 32]);
        let tag = Tag::of(&key, "label", &[b"one", b"two"]);
        assert!(tag.is(Tag::of(&key, "label", &[b"one", b"two"]).bytes()));
        let other = SecretKey::take(&mut [8; 32]);
        for different in [
            Tag::of(&other, "label", &[b"one", b"two"]),
            Tag::of(&key, "lab", &[b"one", b"two"]),
            Tag::of(&key, "label", &[b"onet", b"wo"]),
            Tag::of(&key, "label", &[b"onetwo"]),
            Tag::of(&key, "label", &[b"one", b"two", b""]),
        ] {
            assert!(!tag.is(different.bytes()));
        }
        assert!(!tag.is(b""));
    }
}
