//! How a signature is made.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// A signature scheme. ECDSA signatures are ASN.1 DER; PSS salts are as long as the digest.
    pub enum Scheme, "scheme" {
        /// The default of the key's algorithm.
        Default = 0, "default";
        /// Ed25519, over a message.
        Ed25519 = 1, "ed25519";
        /// ECDSA over P-256 with SHA-256.
        EcdsaSha256 = 2, "ecdsa-sha256";
        /// ECDSA over P-384 with SHA-384.
        EcdsaSha384 = 3, "ecdsa-sha384";
        /// RSA PKCS#1 v1.5 with SHA-256.
        RsaPkcs1Sha256 = 4, "rsa-pkcs1-sha256";
        /// RSA PKCS#1 v1.5 with SHA-384.
        RsaPkcs1Sha384 = 5, "rsa-pkcs1-sha384";
        /// RSA PKCS#1 v1.5 with SHA-512.
        RsaPkcs1Sha512 = 6, "rsa-pkcs1-sha512";
        /// RSA PSS with SHA-256.
        RsaPssSha256 = 7, "rsa-pss-sha256";
        /// RSA PSS with SHA-384.
        RsaPssSha384 = 8, "rsa-pss-sha384";
        /// RSA PSS with SHA-512.
        RsaPssSha512 = 9, "rsa-pss-sha512";
    }
}

impl Scheme {
    /// The length in bytes of the digest that this scheme signs, where a caller may bring one.
    #[must_use]
    pub const fn digest_len(self) -> Option<usize> {
        match self {
            Self::Default | Self::Ed25519 => None,
            Self::EcdsaSha256 | Self::RsaPkcs1Sha256 | Self::RsaPssSha256 => Some(32),
            Self::EcdsaSha384 | Self::RsaPkcs1Sha384 | Self::RsaPssSha384 => Some(48),
            Self::RsaPkcs1Sha512 | Self::RsaPssSha512 => Some(64),
        }
    }
}

wire_enum! {
    /// What SIGN and VERIFY are given.
    pub enum InputKind, "input kind" {
        /// The message itself.
        Message = 0, "message";
        /// A digest that the caller computed with the scheme's hash. Not for Ed25519.
        Digest = 1, "digest";
    }
}
