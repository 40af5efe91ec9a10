//! What a key is and what it may be used for.

use crate::Scheme;
use crate::wire_enum::{wire_bits, wire_enum};

wire_enum! {
    /// A key's algorithm. The ids are the same on the wire and in stored blobs.
    pub enum Algorithm, "algorithm" {
        /// Ed25519 signatures.
        Ed25519 = 1, "ed25519";
        /// ECDSA over P-256.
        EcdsaP256 = 2, "ecdsa-p256";
        /// ECDSA over P-384.
        EcdsaP384 = 3, "ecdsa-p384";
        /// RSA with a modulus of 2048 bits.
        Rsa2048 = 4, "rsa-2048";
        /// RSA with a modulus of 3072 bits.
        Rsa3072 = 5, "rsa-3072";
        /// RSA with a modulus of 4096 bits.
        Rsa4096 = 6, "rsa-4096";
        /// HMAC with SHA-256.
        HmacSha256 = 16, "hmac-sha256";
        /// HMAC with SHA-384.
        HmacSha384 = 17, "hmac-sha384";
        /// HMAC with SHA-512.
        HmacSha512 = 18, "hmac-sha512";
        /// AES-256-GCM.
        Aes256Gcm = 32, "aes-256-gcm";
        /// ChaCha20-Poly1305.
        ChaCha20Poly1305 = 33, "chacha20-poly1305";
        /// HKDF with SHA-256, for derived keys.
        HkdfSha256 = 48, "hkdf-sha256";
    }
}

impl Algorithm {
    /// All that a key of this algorithm can do, which is also its default usage.
    #[must_use]
    pub const fn usages(self) -> Usage {
        match self {
            Self::Ed25519
            | Self::EcdsaP256
            | Self::EcdsaP384
            | Self::Rsa2048
            | Self::Rsa3072
            | Self::Rsa4096 => Usage::SIGN.union(Usage::VERIFY),
            Self::HmacSha256 | Self::HmacSha384 | Self::HmacSha512 => Usage::MAC,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => Usage::ENCRYPT.union(Usage::DECRYPT),
            Self::HkdfSha256 => Usage::DERIVE,
        }
    }

    /// The signature scheme that [`Scheme::Default`] stands for, if the algorithm signs.
    #[must_use]
    pub const fn scheme_default(self) -> Option<Scheme> {
        match self {
            Self::Ed25519 => Some(Scheme::Ed25519),
            Self::EcdsaP256 => Some(Scheme::EcdsaSha256),
            Self::EcdsaP384 => Some(Scheme::EcdsaSha384),
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => Some(Scheme::RsaPssSha256),
            _ => None,
        }
    }

    /// Whether the key has a public half.
    #[must_use]
    pub const fn is_asymmetric(self) -> bool {
        self.scheme_default().is_some()
    }
}

wire_bits! {
    /// What a key may be used for. On the wire, none means all that its algorithm can do.
    pub struct Usage(u16), "usage" {
        /// Make signatures.
        SIGN = 1, "sign";
        /// Verify signatures.
        VERIFY = 2, "verify";
        /// Make and verify MACs.
        MAC = 4, "mac";
        /// Encrypt.
        ENCRYPT = 8, "encrypt";
        /// Decrypt.
        DECRYPT = 16, "decrypt";
        /// Derive bytes.
        DERIVE = 32, "derive";
    }
}

wire_enum! {
    /// How key material is written in KEY_IMPORT and KEY_ROTATE.
    pub enum KeyFormat, "key format" {
        /// The server finds out.
        Detect = 0, "detect";
        /// PKCS#8, SEC1 or PKCS#1, DER.
        Pkcs8Der = 1, "pkcs8-der";
        /// PEM, with one private key, OpenSSH's own format included.
        Pem = 2, "pem";
        /// The bytes of a symmetric key or an Ed25519 seed.
        Raw = 3, "raw";
        /// A JSON Web Key.
        Jwk = 4, "jwk";
    }
}

wire_enum! {
    /// Whether a listed key can be used.
    pub enum KeyState, "key state" {
        /// In use.
        Active = 0, "active";
        /// Revoked permanently.
        Revoked = 1, "revoked";
        /// What the store has of it cannot be read: to be imported again, or revoked and deleted.
        Damaged = 2, "damaged";
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_and_codes_lead_back_to_the_same_algorithm() {
        for &algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::try_from(algorithm.code()), Ok(algorithm));
            assert_eq!(algorithm.name().parse(), Ok(algorithm));
        }
        assert!(Algorithm::try_from(0).is_err());
    }

    #[test]
    fn a_misspelt_algorithm_is_answered_with_the_names_there_are() {
        let error = "ed25518".parse::<Algorithm>().unwrap_err().to_string();
        assert!(error.contains("\"ed25518\"") && error.contains("ed25519, ecdsa-p256"));
    }

    #[test]
    fn usage_lists_are_read_and_written_and_unknown_bits_refused() {
        let usage: Usage = "sign, verify".parse().unwrap();
        assert_eq!(usage, Usage::SIGN | Usage::VERIFY);
        assert_eq!(usage.to_string(), "sign,verify");
        assert!(Usage::from_bits(64).is_err());
        assert!("sing".parse::<Usage>().is_err());
    }

    #[test]
    fn an_algorithm_signs_exactly_if_it_has_a_default_scheme() {
        for &algorithm in Algorithm::ALL {
            assert_eq!(
                algorithm.usages().contains(Usage::SIGN),
                algorithm.is_asymmetric()
            );
        }
    }
}
