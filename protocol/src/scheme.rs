//! How a signature is made.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// A signature scheme. ECDSA signatures are ASN.1 DER, or in the form of JWS (RFC 7518): both
    /// numbers one after the other, each as long as the curve's field. PSS salts are as long as the
    /// digest.
    pub enum Scheme, "scheme" {
        /// The default of the key's algorithm.
        Default = 0, "default";
        /// Ed25519, over a message.
        Ed25519 = 1, "ed25519";
        /// ECDSA with SHA-256.
        EcdsaSha256 = 2, "ecdsa-sha256";
        /// ECDSA with SHA-384.
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
        /// ECDSA with SHA-512.
        EcdsaSha512 = 10, "ecdsa-sha512";
        /// The default of the key's algorithm, in the form of JWS: it differs for ECDSA only.
        DefaultJws = 11, "default-jws";
        /// ECDSA with SHA-256, in the form of JWS: ES256 with P-256.
        EcdsaSha256Jws = 12, "ecdsa-sha256-jws";
        /// ECDSA with SHA-384, in the form of JWS: ES384 with P-384.
        EcdsaSha384Jws = 13, "ecdsa-sha384-jws";
        /// ECDSA with SHA-512, in the form of JWS.
        EcdsaSha512Jws = 14, "ecdsa-sha512-jws";
    }
}

impl Scheme {
    /// The length in bytes of the digest that this scheme signs, where a caller may bring one.
    #[must_use]
    pub const fn digest_len(self) -> Option<usize> {
        match self {
            Self::Default | Self::DefaultJws | Self::Ed25519 => None,
            Self::EcdsaSha256
            | Self::EcdsaSha256Jws
            | Self::RsaPkcs1Sha256
            | Self::RsaPssSha256 => Some(32),
            Self::EcdsaSha384
            | Self::EcdsaSha384Jws
            | Self::RsaPkcs1Sha384
            | Self::RsaPssSha384 => Some(48),
            Self::EcdsaSha512
            | Self::EcdsaSha512Jws
            | Self::RsaPkcs1Sha512
            | Self::RsaPssSha512 => Some(64),
        }
    }

    /// The scheme whose signatures have the form of JWS, for the same key and hash. Schemes of
    /// Ed25519 and RSA are their own: JWS takes their signatures as they are.
    #[must_use]
    pub const fn jws(self) -> Self {
        match self {
            Self::Default => Self::DefaultJws,
            Self::EcdsaSha256 => Self::EcdsaSha256Jws,
            Self::EcdsaSha384 => Self::EcdsaSha384Jws,
            Self::EcdsaSha512 => Self::EcdsaSha512Jws,
            other => other,
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
