//! From what people have to the form that is kept.
//!
//! ```text
//!   text ──▶ pem ──┬──────────────▶ document ──▶ ec, rsa ──▶ Material
//!     │            └▶ openssh ───────────────────▲   ▲
//!     └─────────────▶ jwk ───────────────────────┴───┘
//! ```
//!
//! What OpenSSL reads is read here, as far as policy does not exclude it (`docs/CLI.md` has the
//! table). The parsers are ours and small because they lend out slices of what lies in the arena,
//! so that nothing secret is on the heap, and because parsers made to be strict refuse much of what
//! people have: curves spelled out, public keys in version 1, lengths with leading zeros.

mod ber;
mod blob;
mod document;
mod ec;
mod jwk;
mod oid;
mod openssh;
mod rsa;
mod text;

use crate::algorithm::{AEAD_KEY_LEN, Algorithm, Family, SECRET_LEN_MAX, SECRET_LEN_MIN};
use crate::arena::{Arena, ArenaBytes};
use crate::der::{self, NotDer, Reader};
use crate::ed25519::{self, PAIR_LEN, SEED_LEN};
use crate::error::KeyError;
use crate::found::Found;
use crate::pem::{self, Label};
use crate::providers::{Provider, ProviderChoice, Task, provider};
use document::{Document, Pkcs8};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{self as ring_signature, KeyPair as _};
use subtle::ConstantTimeEq;

/// How key material is encoded. The number is the one on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ImportFormat {
    /// PEM, DER or a JWK as found; otherwise, for a named symmetric algorithm, raw.
    Detect = 0,
    /// An unencrypted PKCS#8, SEC1 or PKCS#1 document, DER.
    Pkcs8Der = 1,
    /// PEM with one block of a private key, OpenSSH's own included.
    Pem = 2,
    /// The secret's own bytes; for Ed25519 the 32-byte seed. Needs the algorithm named.
    Raw = 3,
    /// A JSON Web Key.
    Jwk = 4,
}

impl ImportFormat {
    /// The format of that number, if there is one.
    pub fn from_id(id: u8) -> Option<Self> {
        [
            Self::Detect,
            Self::Pkcs8Der,
            Self::Pem,
            Self::Raw,
            Self::Jwk,
        ]
        .into_iter()
        .find(|format| *format as u8 == id)
    }
}

/// Greatest length of what can be imported, in bytes: a PEM file of an RSA-4096 key has 3,300.
pub const IMPORT_LEN_MAX: usize = 16 * 1024;

const _: () = assert!(IMPORT_LEN_MAX <= crate::arena::SLOT_BYTES_MAX);

/// Key material in the form that is kept.
pub(crate) struct Material {
    pub(crate) algorithm: Algorithm,
    pub(crate) bytes: ArenaBytes,
}

/// Where keys are imported and made: the arena, and what may be used.
#[derive(Clone, Copy)]
pub(crate) struct Importer<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) choice: ProviderChoice,
}

impl Importer<'_> {
    /// Reads, checks and converts `bytes`. `algorithm` is needed for raw secrets, and checked
    /// otherwise.
    pub(crate) fn import(
        &self,
        algorithm: Option<Algorithm>,
        format: ImportFormat,
        bytes: &[u8],
    ) -> Result<Material, KeyError> {
        if bytes.len() > IMPORT_LEN_MAX {
            return Err(KeyError::import(
                Found::from(bytes.len()).and(" bytes"),
                "key material is at most 16,384 bytes long",
            ));
        }
        let material = match format {
            ImportFormat::Detect => self.detect(algorithm, bytes)?,
            ImportFormat::Pkcs8Der => {
                check_format(format, bytes, text::plain(bytes)?)?;
                self.document(algorithm, bytes)?
            }
            ImportFormat::Pem => {
                let text = text::plain(bytes)?;
                check_format(format, bytes, text)?;
                self.pem(algorithm, text)?
            }
            ImportFormat::Raw => self.raw(algorithm, bytes)?,
            ImportFormat::Jwk => {
                let text = text::plain(bytes)?;
                check_format(format, bytes, text)?;
                self.jwk(algorithm, text)?
            }
        };
        match algorithm {
            Some(expected) if expected != material.algorithm => Err(KeyError::AlgorithmMismatch {
                found: material.algorithm,
                expected,
            }),
            _ => Ok(material),
        }
    }

    fn detect(&self, algorithm: Option<Algorithm>, bytes: &[u8]) -> Result<Material, KeyError> {
        let text = text::plain(bytes)?;
        let is_der = document::is_der(bytes);
        match algorithm {
            _ if pem::is_pem(text) => self.pem(algorithm, text),
            _ if jwk::is_json(text) => self.jwk(algorithm, text),
            Some(algorithm) if !algorithm.is_asymmetric() => {
                if is_der || blob::is_blob(bytes) {
                    return Err(KeyError::import(
                        Found::from("what looks like a private key's document, for a key of ")
                            .and(algorithm),
                        "name the format raw if these bytes are meant to be the secret",
                    ));
                }
                self.raw(Some(algorithm), bytes)
            }
            Some(Algorithm::Ed25519) if bytes.len() == SEED_LEN => self.raw(algorithm, bytes),
            _ if is_der || ber::is_indefinite(bytes) => self.document(algorithm, bytes),
            _ if blob::is_blob(bytes) => self.blob(bytes),
            _ if pem::is_misplaced(text) => {
                Err(pem::misplaced("PEM among other text on its lines"))
            }
            _ => Err(document::with_more_behind(bytes).unwrap_or_else(|| text::unknown(text))),
        }
    }

    fn pem(&self, algorithm: Option<Algorithm>, text: &[u8]) -> Result<Material, KeyError> {
        let (label, document) = pem::decode(self.arena, text)?;
        match label {
            Label::OpenSsh => self.openssh(&document),
            Label::Document => self.document(algorithm, &document),
        }
    }

    fn raw(&self, algorithm: Option<Algorithm>, bytes: &[u8]) -> Result<Material, KeyError> {
        let Some(algorithm) = algorithm else {
            return Err(KeyError::import(
                "a raw secret of no named algorithm",
                "name the algorithm",
            ));
        };
        let len = bytes.len();
        match algorithm.family() {
            Family::Ed25519 if len == SEED_LEN => self.ed25519(bytes, None),
            Family::Ed25519 => Err(KeyError::import(
                Found::from("a raw Ed25519 secret of ")
                    .and(len)
                    .and(" bytes"),
                "the seed has exactly 32 bytes",
            )),
            Family::Ecdsa | Family::Rsa => Err(KeyError::import(
                Found::from("a raw secret for ").and(algorithm),
                "give such a key as PKCS#8, PEM or DER",
            )),
            Family::Aead if len != AEAD_KEY_LEN => Err(KeyError::import(
                raw_of(algorithm, " key of ", len),
                "the key has exactly 32 bytes",
            )),
            Family::Hmac | Family::Hkdf if !(SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&len) => {
                Err(KeyError::import(
                    raw_of(algorithm, " secret of ", len),
                    "the secret has 16 to 1024 bytes",
                ))
            }
            Family::Aead | Family::Hmac | Family::Hkdf => Ok(Material {
                algorithm,
                bytes: ArenaBytes::copied(self.arena, bytes)?,
            }),
        }
    }

    /// A key from a PKCS#8, SEC1 or PKCS#1 document, whichever it is.
    fn document(&self, algorithm: Option<Algorithm>, bytes: &[u8]) -> Result<Material, KeyError> {
        let rewritten = match ber::is_indefinite(bytes) {
            true => ber::to_der(self.arena, bytes)?,
            false => None,
        };
        match Document::parse(rewritten.as_deref().unwrap_or(bytes))? {
            Document::Pkcs8(parsed) => self.pkcs8(algorithm, &parsed),
            Document::Sec1(key) => self.sec1(&key, None, algorithm),
            Document::Pkcs1(parts) => self.rsa(parts),
        }
    }

    fn pkcs8(
        &self,
        algorithm: Option<Algorithm>,
        parsed: &Pkcs8<'_>,
    ) -> Result<Material, KeyError> {
        match parsed.algorithm {
            oid::ED25519 => {
                let seed = Reader::lenient(parsed.private_key).read(der::OCTET_STRING);
                let seed = seed.map_err(|NotDer| damaged("Ed25519"))?;
                self.ed25519(seed, parsed.public_key)
            }
            oid::EC => {
                let curve = ec::curve_of(parsed.parameters)?;
                self.sec1(&Document::sec1(parsed.private_key)?, curve, algorithm)
            }
            // Parameters are a NULL, or left out. With PSS they may restrict the hash and the
            // salt: each signature names its scheme, so nothing of that is kept.
            oid::RSA | oid::RSA_PSS => self.rsa(Document::pkcs1(parsed.private_key)?),
            other => Err(document::unsupported(oid::name(other))),
        }
    }

    fn ed25519(&self, seed: &[u8], public: Option<&[u8]>) -> Result<Material, KeyError> {
        if seed.len() != SEED_LEN {
            return Err(damaged("Ed25519"));
        }
        let mut bytes = ArenaBytes::zeroed(self.arena, PAIR_LEN)?;
        bytes[..SEED_LEN].copy_from_slice(seed);
        self.complete_ed25519(&mut bytes)?;
        // Signing with a public key that is not the seed's would give the seed away.
        if public.is_some_and(|public| !bool::from(public.ct_eq(&bytes[SEED_LEN..]))) {
            return Err(inconsistent("Ed25519"));
        }
        Ok(Material {
            algorithm: Algorithm::Ed25519,
            bytes,
        })
    }

    fn complete_ed25519(&self, pair: &mut ArenaBytes) -> Result<(), KeyError> {
        match provider(self.choice, Algorithm::Ed25519, Task::Generate) {
            Some(Provider::AwsLc) => {
                let pair = <&mut [u8; PAIR_LEN]>::try_from(&mut pair[..]);
                ed25519::complete(pair.expect("the pair was made of PAIR_LEN bytes"));
            }
            Some(Provider::Ring) | None => {
                let seed = &pair[..SEED_LEN];
                let key = ring_signature::Ed25519KeyPair::from_seed_unchecked(seed)
                    .map_err(|_| KeyError::Internal("ring refused an Ed25519 seed"))?;
                pair[SEED_LEN..].copy_from_slice(key.public_key().as_ref());
            }
        }
        Ok(())
    }

    /// A new key's material.
    pub(crate) fn generate(&self, algorithm: Algorithm) -> Result<Material, KeyError> {
        let random = |len: usize| {
            let mut bytes = ArenaBytes::zeroed(self.arena, len)?;
            SystemRandom::new()
                .fill(&mut bytes)
                .map_err(|_| KeyError::Internal("no randomness"))?;
            Ok::<_, KeyError>(bytes)
        };
        let bytes = match algorithm {
            Algorithm::Ed25519 => return self.ed25519(&random(SEED_LEN)?, None),
            Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => {
                let curve = ring_ecdsa(algorithm);
                let document =
                    ring_signature::EcdsaKeyPair::generate_pkcs8(curve, &SystemRandom::new())
                        .map_err(|_| KeyError::Internal("ring made no ECDSA key"))?;
                ArenaBytes::copied(self.arena, document.as_ref())?
            }
            Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => {
                if provider(self.choice, algorithm, Task::Generate).is_none() {
                    return Err(KeyError::Unsupported(
                        "ring cannot generate RSA keys; import one, or allow AWS-LC",
                    ));
                }
                return self.document(None, &crate::generate_rsa_pkcs8(algorithm)?);
            }
            // A secret as long as the hash: more is no stronger (RFC 2104, section 3).
            Algorithm::HmacSha384 => random(48)?,
            Algorithm::HmacSha512 => random(64)?,
            Algorithm::HmacSha256
            | Algorithm::HkdfSha256
            | Algorithm::Aes256Gcm
            | Algorithm::ChaCha20Poly1305 => random(32)?,
        };
        Ok(Material { algorithm, bytes })
    }
}

/// Refuses a file of another format than the one that was named, by what it is.
fn check_format(named: ImportFormat, bytes: &[u8], text: &[u8]) -> Result<(), KeyError> {
    let is_pem = pem::is_pem(text);
    let seen = match named {
        ImportFormat::Pem if is_pem => return Ok(()),
        ImportFormat::Jwk if jwk::is_json(text) => return Ok(()),
        ImportFormat::Pkcs8Der if document::is_der(bytes) || ber::is_indefinite(bytes) => {
            return Ok(());
        }
        _ if is_pem => "PEM",
        _ if jwk::is_json(text) => match pem::is_misplaced(text) {
            true => return Err(pem::misplaced("JSON that holds PEM")),
            false => "JSON",
        },
        _ if pem::is_misplaced(text) => {
            return Err(pem::misplaced("PEM among other text on its lines"));
        }
        _ if document::is_der(bytes) || ber::is_indefinite(bytes) => "a DER document",
        _ if blob::is_blob(bytes) => "a key of Windows's format",
        _ => return Ok(()),
    };
    Err(KeyError::import(
        Found::from(seen).and(" under the name of another format"),
        "leave the format out: it is detected",
    ))
}

/// ring's parameters for an ECDSA algorithm.
pub(crate) fn ring_ecdsa(algorithm: Algorithm) -> &'static ring_signature::EcdsaSigningAlgorithm {
    match algorithm {
        Algorithm::EcdsaP384 => &ring_signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        _ => &ring_signature::ECDSA_P256_SHA256_ASN1_SIGNING,
    }
}

fn raw_of(algorithm: Algorithm, what: &'static str, len: usize) -> Found {
    Found::from("a raw ")
        .and(algorithm)
        .and(what)
        .and(len)
        .and(" bytes")
}

fn damaged(kind: &'static str) -> KeyError {
    KeyError::import(
        Found::from("a damaged ").and(kind).and(" private key"),
        "create the file again from its source",
    )
}

fn inconsistent(kind: &'static str) -> KeyError {
    KeyError::import(
        Found::from("an ")
            .and(kind)
            .and(" private key whose parts do not belong together"),
        "create the file again from its source",
    )
}

pub(crate) fn encrypted() -> KeyError {
    KeyError::import(
        "a private key that is encrypted with a passphrase",
        "decrypt it first: openssl pkcs8 -topk8 -nocrypt -in FILE -out NEW, or for OpenSSH's \
         format ssh-keygen -p -f COPY",
    )
}
