//! DER documents of private keys: PKCS#8 (RFC 5958), SEC1 (RFC 5915) and PKCS#1 (RFC 8017),
//! distinguished by their structure, since labels and file names are often those of another one.
//!
//! Read as leniently as OpenSSL does. Nothing is copied: all parts are slices of the document.

use super::rsa::RsaParts;
use crate::der::{self, NotDer, Reader};
use crate::error::KeyError;
use crate::found::Found;

/// Least length of a private key's document in bytes: an Ed25519 key has 48 as PKCS#8, a P-256 scalar alone 39.
const KEY_LEN_MIN: usize = 39;

/// A private key in its parts.
pub(super) enum Document<'a> {
    Pkcs8(Pkcs8<'a>),
    Sec1(Sec1<'a>),
    Pkcs1(RsaParts<'a>),
}

/// A PKCS#8 document.
pub(super) struct Pkcs8<'a> {
    /// The contents of the algorithm's OID.
    pub(super) algorithm: &'a [u8],
    pub(super) parameters: Reader<'a>,
    pub(super) private_key: &'a [u8],
    pub(super) public_key: Option<&'a [u8]>,
}

/// An `ECPrivateKey`.
pub(super) struct Sec1<'a> {
    pub(super) scalar: &'a [u8],
    /// What says which curve it is, if anything does.
    pub(super) parameters: Option<Reader<'a>>,
    pub(super) point: Option<&'a [u8]>,
}

/// Whether these bytes begin as a DER document does that they hold as a whole.
pub(super) fn is_der(bytes: &[u8]) -> bool {
    fields(bytes).is_ok()
}

impl<'a> Document<'a> {
    /// Reads a document, and refuses by its kind what is no private key.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, KeyError> {
        let Ok(fields) = fields(bytes) else {
            return Err(not_a_key(bytes));
        };
        let parsed = match kind(fields) {
            Kind::Pkcs8 => Pkcs8::parse(fields).map(Self::Pkcs8),
            Kind::Sec1 => Sec1::parse(fields).map(Self::Sec1),
            Kind::Pkcs1 => RsaParts::parse(fields).map(Self::Pkcs1),
            Kind::MultiPrime => {
                return Err(KeyError::import(
                    "an RSA key of more than two primes",
                    "make a key of two primes",
                ));
            }
            Kind::Dsa => return Err(unsupported("DSA")),
            Kind::Encrypted => return Err(super::encrypted()),
            Kind::PublicKey => {
                return Err(KeyError::import(
                    "a public key",
                    "give the file of the private key",
                ));
            }
            Kind::Pkcs12 => {
                return Err(KeyError::import(
                    "a PKCS#12 container",
                    "take the key out first: openssl pkcs12 -in FILE -nocerts -nodes -out NEW",
                ));
            }
            Kind::Other => return Err(not_a_key(bytes)),
        };
        parsed.map_err(|NotDer| not_a_key(bytes))
    }

    /// The `RSAPrivateKey` inside a PKCS#8 document.
    pub(super) fn pkcs1(bytes: &'a [u8]) -> Result<RsaParts<'a>, KeyError> {
        match Self::parse(bytes)? {
            Self::Pkcs1(parts) => Ok(parts),
            _ => Err(super::damaged("RSA")),
        }
    }

    /// The `ECPrivateKey` inside a PKCS#8 document.
    pub(super) fn sec1(bytes: &'a [u8]) -> Result<Sec1<'a>, KeyError> {
        let parsed = fields(bytes).and_then(Sec1::parse);
        parsed.map_err(|NotDer| super::damaged("EC"))
    }
}

impl<'a> Pkcs8<'a> {
    fn parse(mut fields: Reader<'a>) -> Result<Self, NotDer> {
        // Version 2 (written 1) may have a public key; some writers put it into version 1.
        if !matches!(fields.read(der::INTEGER)?, [0 | 1]) {
            return Err(NotDer);
        }
        let mut identifier = fields.enter(der::SEQUENCE)?;
        let algorithm = identifier.read(der::OID)?;
        let private_key = fields.read(der::OCTET_STRING)?;
        // Attributes mean nothing here.
        fields.read_optional(der::CONTEXT_0)?;
        let public_key = match fields.read_optional(der::CONTEXT_1_PRIMITIVE)? {
            Some(bits) => Some(whole_bytes(bits)?),
            // ring before 0.17 wrote an explicit tag where the standard has an implicit one.
            None => match fields.enter_optional(der::CONTEXT_1)? {
                Some(mut inner) => Some(whole_bytes(inner.read(der::BIT_STRING)?)?),
                None => None,
            },
        };
        fields.end()?;
        Ok(Self {
            algorithm,
            parameters: identifier,
            private_key,
            public_key,
        })
    }
}

impl<'a> Sec1<'a> {
    fn parse(mut fields: Reader<'a>) -> Result<Self, NotDer> {
        if fields.read_unsigned()? != [1] {
            return Err(NotDer);
        }
        let scalar = fields.read(der::OCTET_STRING)?;
        let parameters = fields.enter_optional(der::CONTEXT_0)?;
        let point = match fields.enter_optional(der::CONTEXT_1)? {
            Some(mut inner) => Some(whole_bytes(inner.read(der::BIT_STRING)?)?),
            None => None,
        };
        fields.end()?;
        Ok(Self {
            scalar,
            parameters,
            point,
        })
    }
}

/// The refusal of a document that more bytes follow. OpenSSL reads the first document of a file and nothing else: what is
/// behind it may be another key.
pub(super) fn with_more_behind(bytes: &[u8]) -> Option<KeyError> {
    let mut reader = Reader::lenient(bytes);
    reader.read(der::SEQUENCE).ok()?;
    let more = reader.rest().len();
    let len = bytes.len() - more;
    // Any text that begins with a zero passes for a short document.
    if len < KEY_LEN_MIN || more == 0 {
        return None;
    }
    let found = Found::from("a DER document of ").and(len);
    Some(KeyError::import(
        found.and(" bytes with ").and(more).and(" more behind it"),
        "give the document alone: head -c LENGTH FILE > NEW",
    ))
}

/// The fields of the SEQUENCE that a document is. White space and zeros behind it are passed over: DER in files that an
/// editor, a shell or a device of fixed blocks has touched.
fn fields(bytes: &[u8]) -> Result<Reader<'_>, NotDer> {
    let mut reader = Reader::lenient(bytes);
    let fields = reader.enter(der::SEQUENCE)?;
    let is_padding = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    match reader.rest().iter().all(is_padding) {
        true => Ok(fields),
        false => Err(NotDer),
    }
}

fn whole_bytes(bits: &[u8]) -> Result<&[u8], NotDer> {
    match bits {
        [0, bytes @ ..] => Ok(bytes),
        _ => Err(NotDer),
    }
}

enum Kind {
    Pkcs8,
    Sec1,
    Pkcs1,
    MultiPrime,
    Dsa,
    Encrypted,
    PublicKey,
    Pkcs12,
    Other,
}

/// What a document is, by the tags of its fields.
fn kind(mut fields: Reader<'_>) -> Kind {
    if let Ok(identifier) = fields.read(der::SEQUENCE) {
        return match fields.tag() {
            // Anything of PKCS#5 or PKCS#12 before an OCTET STRING.
            Some(der::OCTET_STRING) if is_encryption(identifier) => Kind::Encrypted,
            Some(der::BIT_STRING) => Kind::PublicKey,
            _ => Kind::Other,
        };
    }
    let Ok(version) = fields.read_unsigned() else {
        return Kind::Other;
    };
    match (version, fields.tag()) {
        ([3], Some(der::SEQUENCE)) => Kind::Pkcs12,
        (_, Some(der::SEQUENCE)) => Kind::Pkcs8,
        (_, Some(der::OCTET_STRING)) => Kind::Sec1,
        (version, Some(der::INTEGER)) => {
            let mut count = 0;
            while fields.read_unsigned().is_ok() {
                count += 1;
            }
            match (count, fields.tag(), version) {
                (5, None, []) => Kind::Dsa,
                (8, None, _) => Kind::Pkcs1,
                (8, Some(der::SEQUENCE), _) => Kind::MultiPrime,
                _ => Kind::Other,
            }
        }
        _ => Kind::Other,
    }
}

fn is_encryption(identifier: &[u8]) -> bool {
    const PKCS5: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05";
    const PKCS12: &[u8] = b"\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01";
    identifier.starts_with(PKCS5) || identifier.starts_with(PKCS12)
}

fn not_a_key(bytes: &[u8]) -> KeyError {
    if let Some(refusal) = with_more_behind(bytes) {
        return refusal;
    }
    let remedy = "give an unencrypted private key; what OpenSSL reads, this converts: \
                  openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW";
    let len = bytes.len();
    match bytes.first() {
        Some(&der::SEQUENCE) => {
            KeyError::import("a DER document that is not a private key", remedy)
        }
        _ => KeyError::import(
            Found::from(len).and(" bytes that are not a DER document"),
            remedy,
        ),
    }
}

/// The refusal of a key that is none of Keyway's algorithms.
pub(super) fn unsupported(algorithm: &'static str) -> KeyError {
    KeyError::import(
        Found::from("a key of ").and(algorithm),
        "Ed25519, ECDSA on P-256 and P-384, and RSA are supported",
    )
}
