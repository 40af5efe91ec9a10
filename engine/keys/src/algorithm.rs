//! The algorithms a key can be of, and what a key may be used for.

use core::fmt;

/// What a key is for. The number is the same on the wire and in blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(
    missing_docs,
    reason = "the names say it all; `name` has the command line's spelling"
)]
pub enum Algorithm {
    Ed25519 = 1,
    EcdsaP256 = 2,
    EcdsaP384 = 3,
    Rsa2048 = 4,
    Rsa3072 = 5,
    Rsa4096 = 6,
    HmacSha256 = 16,
    HmacSha384 = 17,
    HmacSha512 = 18,
    Aes256Gcm = 32,
    ChaCha20Poly1305 = 33,
    HkdfSha256 = 48,
}

/// What algorithms have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ed25519,
    Ecdsa,
    Rsa,
    Hmac,
    Aead,
    Hkdf,
}

/// Least length of an HMAC or HKDF secret, in bytes: below 128 bits guessing becomes thinkable.
pub const SECRET_LEN_MIN: usize = 16;
/// Greatest length of an HMAC or HKDF secret, in bytes: beyond a hash block more adds nothing.
pub const SECRET_LEN_MAX: usize = 1024;
/// Length of an AEAD key, in bytes.
pub const AEAD_KEY_LEN: usize = 32;

impl Algorithm {
    /// Every algorithm, in the order of the numbers.
    pub const ALL: [Self; 12] = [
        Self::Ed25519,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
        Self::HmacSha256,
        Self::HmacSha384,
        Self::HmacSha512,
        Self::Aes256Gcm,
        Self::ChaCha20Poly1305,
        Self::HkdfSha256,
    ];

    /// The algorithm of that number, if there is one.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.id() == id)
    }

    /// The number of this algorithm.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The name on the command line and in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha384 => "hmac-sha384",
            Self::HmacSha512 => "hmac-sha512",
            Self::Aes256Gcm => "aes-256-gcm",
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::HkdfSha256 => "hkdf-sha256",
        }
    }

    /// Everything that a key of this algorithm can do.
    pub fn usage_default(self) -> KeyUsage {
        match self.family() {
            Family::Ed25519 | Family::Ecdsa | Family::Rsa => KeyUsage::SIGN.and(KeyUsage::VERIFY),
            Family::Hmac => KeyUsage::MAC,
            Family::Aead => KeyUsage::ENCRYPT.and(KeyUsage::DECRYPT),
            Family::Hkdf => KeyUsage::DERIVE,
        }
    }

    /// Whether generating a key takes so long (30 ms and more) that it belongs off a shard's
    /// thread.
    pub fn is_slow_to_generate(self) -> bool {
        self.family() == Family::Rsa
    }

    /// Whether a key of this algorithm has a public part.
    pub fn is_asymmetric(self) -> bool {
        matches!(self.family(), Family::Ed25519 | Family::Ecdsa | Family::Rsa)
    }

    pub(crate) fn family(self) -> Family {
        match self {
            Self::Ed25519 => Family::Ed25519,
            Self::EcdsaP256 | Self::EcdsaP384 => Family::Ecdsa,
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => Family::Rsa,
            Self::HmacSha256 | Self::HmacSha384 | Self::HmacSha512 => Family::Hmac,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => Family::Aead,
            Self::HkdfSha256 => Family::Hkdf,
        }
    }

    /// The RSA algorithm for a modulus of `bits`, if there is one.
    pub(crate) fn rsa_of_bits(bits: usize) -> Option<Self> {
        match bits {
            2048 => Some(Self::Rsa2048),
            3072 => Some(Self::Rsa3072),
            4096 => Some(Self::Rsa4096),
            _ => None,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of things a key may be used for. Never has bits without a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyUsage(u16);

#[allow(
    missing_docs,
    reason = "each constant is the set of the one use it names"
)]
impl KeyUsage {
    pub const SIGN: Self = Self(1);
    pub const VERIFY: Self = Self(2);
    /// Making a MAC and verifying one: either way the secret can forge.
    pub const MAC: Self = Self(4);
    pub const ENCRYPT: Self = Self(8);
    pub const DECRYPT: Self = Self(16);
    pub const DERIVE: Self = Self(32);
}

impl KeyUsage {
    const NAMES: [(Self, &'static str); 6] = [
        (Self::SIGN, "sign"),
        (Self::VERIFY, "verify"),
        (Self::MAC, "mac"),
        (Self::ENCRYPT, "encrypt"),
        (Self::DECRYPT, "decrypt"),
        (Self::DERIVE, "derive"),
    ];
    const ALL_BITS: u16 = 63;

    /// The set with these bits; `None` if one of them has no meaning.
    pub fn from_bits(bits: u16) -> Option<Self> {
        (bits & !Self::ALL_BITS == 0).then_some(Self(bits))
    }

    /// The bits of this set.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether every use in `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is no use in this set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for KeyUsage {
    /// The names, with commas between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (usage, name) in Self::NAMES {
            if self.contains(usage) {
                write!(f, "{separator}{name}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyUsage({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_identify_the_algorithm() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::from_id(algorithm.id()), Some(algorithm));
        }
        assert_eq!(Algorithm::from_id(0), None);
    }

    #[test]
    fn unknown_usage_bits_are_refused() {
        assert_eq!(KeyUsage::from_bits(64), None);
        assert_eq!(KeyUsage::from_bits(0x8001), None);
        let all = KeyUsage::from_bits(63).unwrap();
        assert_eq!(all.to_string(), "sign,verify,mac,encrypt,decrypt,derive");
    }
}
