//! From what people have (PKCS#8, SEC1, PKCS#1, raw secrets) to the form that is kept.

use crate::algorithm::{AEAD_KEY_LEN, Algorithm, Family, SECRET_LEN_MAX, SECRET_LEN_MIN};
use crate::arena::{Arena, ArenaBytes};
use crate::der::{self, NotDer, Reader};
use crate::ed25519::{self, PAIR_LEN, SEED_LEN};
use crate::error::KeyError;
use crate::material::{
    Curve, MATERIAL_LEN_MAX, P256, P384, Public, algorithm_id, bit_len, rsa_public_part,
};
use crate::pem::{self, Label};
use crate::providers::{Provider, ProviderChoice, Task, provider};
use aws_lc_rs::signature as aws;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{self as ring_signature, KeyPair as _};
use subtle::ConstantTimeEq;

/// How key material is encoded. The number is the one on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ImportFormat {
    /// PEM or PKCS#8 DER as found; for a named symmetric algorithm, raw.
    Detect = 0,
    /// An unencrypted PKCS#8 document, DER.
    Pkcs8Der = 1,
    /// PEM with one PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY block.
    Pem = 2,
    /// The secret's own bytes; for Ed25519 the 32-byte seed. Needs the algorithm named.
    Raw = 3,
}

impl ImportFormat {
    /// The format of that number, if there is one.
    pub fn from_id(id: u8) -> Option<Self> {
        [Self::Detect, Self::Pkcs8Der, Self::Pem, Self::Raw]
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
                format!("{} bytes", bytes.len()),
                "key material is at most 16,384 bytes long",
            ));
        }
        let material = match format {
            ImportFormat::Detect => self.detect(algorithm, bytes)?,
            ImportFormat::Pkcs8Der => self.pkcs8(bytes)?,
            ImportFormat::Pem => self.pem(bytes)?,
            ImportFormat::Raw => self.raw(algorithm, bytes)?,
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
        let is_der = Reader::only(bytes, der::SEQUENCE).is_ok();
        match algorithm {
            _ if pem::is_pem(bytes) => self.pem(bytes),
            Some(algorithm) if !algorithm.is_asymmetric() => {
                if is_der {
                    return Err(KeyError::import(
                        format!("what looks like a DER document, for a {algorithm} key"),
                        "name the format raw if these bytes are meant to be the secret",
                    ));
                }
                self.raw(Some(algorithm), bytes)
            }
            Some(Algorithm::Ed25519) if bytes.len() == SEED_LEN => self.raw(algorithm, bytes),
            _ if is_der => self.pkcs8(bytes),
            _ => Err(KeyError::import(
                format!("{} bytes that are neither PEM nor DER", bytes.len()),
                "give a PKCS#8 file, or name the algorithm of a raw secret",
            )),
        }
    }

    fn pem(&self, bytes: &[u8]) -> Result<Material, KeyError> {
        let (label, document) = pem::decode(self.arena, bytes)?;
        match label {
            Label::Pkcs8 => self.pkcs8(&document),
            Label::Sec1 => self.sec1(&document, None),
            Label::Pkcs1 => self.pkcs1(&document),
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
                format!("a raw Ed25519 secret of {len} bytes"),
                "the seed has exactly 32 bytes",
            )),
            Family::Ecdsa | Family::Rsa => Err(KeyError::import(
                format!("a raw secret for {algorithm}"),
                "give such a key as PKCS#8, PEM or DER",
            )),
            Family::Aead if len != AEAD_KEY_LEN => Err(KeyError::import(
                format!("a raw {algorithm} key of {len} bytes"),
                "the key has exactly 32 bytes; is there a line end behind it, \
                 or is it hexadecimal or base64 text?",
            )),
            Family::Hmac | Family::Hkdf if !(SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&len) => {
                Err(KeyError::import(
                    format!("a raw {algorithm} secret of {len} bytes"),
                    "the secret has 16 to 1024 bytes",
                ))
            }
            Family::Aead | Family::Hmac | Family::Hkdf => Ok(Material {
                algorithm,
                bytes: ArenaBytes::copied(self.arena, bytes)?,
            }),
        }
    }

    fn pkcs8(&self, document: &[u8]) -> Result<Material, KeyError> {
        let parsed = Pkcs8::parse(document).map_err(|NotDer| match document_kind(document) {
            Some(kind) => KeyError::import(
                kind,
                "give an unencrypted PKCS#8 private key: openssl pkcs8 -topk8 -nocrypt",
            ),
            None => KeyError::import(
                "bytes that are not a PKCS#8 document",
                "convert the key: openssl pkcs8 -topk8 -nocrypt -outform DER",
            ),
        })?;
        match parsed.algorithm_id {
            algorithm_id::ED25519 => {
                let seed = Reader::only(parsed.private_key, der::OCTET_STRING);
                let seed = seed.map_err(|NotDer| damaged("Ed25519"))?;
                self.ed25519(seed, parsed.public_key)
            }
            algorithm_id::P256 => self.sec1(parsed.private_key, Some(P256)),
            algorithm_id::P384 => self.sec1(parsed.private_key, Some(P384)),
            algorithm_id::RSA => self.pkcs1(parsed.private_key),
            other => Err(KeyError::import(
                format!("a PKCS#8 key of {}", algorithm_name(other)),
                "Ed25519, ECDSA P-256 and P-384 on named curves, and RSA are supported",
            )),
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

    /// An `ECPrivateKey` (RFC 5915); its curve is `curve`, or the one that it names itself.
    fn sec1(&self, document: &[u8], curve: Option<Curve>) -> Result<Material, KeyError> {
        let parsed = Sec1::parse(document).map_err(|NotDer| damaged("EC"))?;
        let named = match parsed.curve_oid {
            None => None,
            Some(oid) if algorithm_id::P256.ends_with(oid) => Some(P256),
            Some(oid) if algorithm_id::P384.ends_with(oid) => Some(P384),
            Some(_) => {
                return Err(KeyError::import(
                    "an EC key on another curve",
                    "the supported curves are P-256 (prime256v1) and P-384 (secp384r1)",
                ));
            }
        };
        let curve = match (curve, named) {
            (Some(outer), Some(inner)) if outer.algorithm != inner.algorithm => {
                return Err(inconsistent("EC"));
            }
            (Some(curve), _) | (None, Some(curve)) => curve,
            (None, None) => {
                return Err(KeyError::import(
                    "an EC key without a named curve",
                    "convert it: openssl pkcs8 -topk8 -nocrypt",
                ));
            }
        };
        // Some writers leave out leading zeros.
        let digits = parsed.scalar;
        let mut scalar = ArenaBytes::zeroed(self.arena, curve.scalar_len)?;
        if digits.is_empty() || digits.len() > scalar.len() {
            return Err(damaged("EC"));
        }
        let zeros = scalar.len() - digits.len();
        scalar[zeros..].copy_from_slice(digits);
        let point = match parsed.point {
            // 4 marks an uncompressed point.
            Some(point) if point.len() == curve.point_len && point[0] == 4 => point.to_vec(),
            _ => self.derive_point(curve, &scalar)?,
        };
        let mut bytes = ArenaBytes::zeroed(self.arena, curve.document_len())?;
        curve.write_document(&scalar, &point, &mut bytes);
        self.check_ecdsa(curve, &bytes)?;
        Ok(Material {
            algorithm: curve.algorithm,
            bytes,
        })
    }

    /// The public point of `scalar`, uncompressed.
    fn derive_point(&self, curve: Curve, scalar: &[u8]) -> Result<Vec<u8>, KeyError> {
        if self.choice == ProviderChoice::RingOnly {
            return Err(KeyError::import(
                "an EC key without an uncompressed public key",
                "add it (openssl ec -conv_form uncompressed), or allow AWS-LC: ring cannot derive it",
            ));
        }
        // SEQUENCE { INTEGER 1, OCTET STRING scalar }
        let mut document = ArenaBytes::zeroed(self.arena, scalar.len() + 7)?;
        let scalar_len = u8::try_from(scalar.len()).expect("a scalar is 32 or 48 bytes long");
        document[..7].copy_from_slice(&[
            der::SEQUENCE,
            scalar_len + 5,
            der::INTEGER,
            1,
            1,
            der::OCTET_STRING,
            scalar_len,
        ]);
        document[7..].copy_from_slice(scalar);
        let algorithm = match curve.algorithm {
            Algorithm::EcdsaP384 => &aws::ECDSA_P384_SHA384_ASN1_SIGNING,
            _ => &aws::ECDSA_P256_SHA256_ASN1_SIGNING,
        };
        let key = aws::EcdsaKeyPair::from_private_key_der(algorithm, &document)
            .map_err(|_| damaged("EC"))?;
        Ok(aws::KeyPair::public_key(&key).as_ref().to_vec())
    }

    /// That public and private part belong together.
    fn check_ecdsa(&self, curve: Curve, document: &[u8]) -> Result<(), KeyError> {
        let algorithm = ring_ecdsa(curve.algorithm);
        ring_signature::EcdsaKeyPair::from_pkcs8(algorithm, document, &SystemRandom::new())
            .map(drop)
            .map_err(|_| inconsistent("EC"))
    }

    /// An `RSAPrivateKey` (RFC 8017).
    fn pkcs1(&self, document: &[u8]) -> Result<Material, KeyError> {
        let Ok(Public::Rsa { n, e: _ }) = rsa_public_part(document) else {
            return Err(damaged("RSA"));
        };
        let bits = bit_len(n);
        let Some(algorithm) = Algorithm::rsa_of_bits(bits) else {
            return Err(KeyError::import(
                format!("an RSA key of {bits} bits"),
                "RSA keys have 2048, 3072 or 4096 bits",
            ));
        };
        let head = rsa_pkcs8_head(document.len());
        if head.len() + document.len() > MATERIAL_LEN_MAX {
            return Err(damaged("RSA"));
        }
        let mut bytes = ArenaBytes::zeroed(self.arena, head.len() + document.len())?;
        bytes[..head.len()].copy_from_slice(&head);
        bytes[head.len()..].copy_from_slice(document);
        self.check_rsa(algorithm, &bytes)?;
        Ok(Material { algorithm, bytes })
    }

    /// That ring takes the key (it verifies, and may be chosen to sign later on), and that its
    /// parts belong together.
    fn check_rsa(&self, algorithm: Algorithm, document: &[u8]) -> Result<(), KeyError> {
        let key = ring_signature::RsaKeyPair::from_pkcs8(document).map_err(|rejected| {
            KeyError::import(
                format!("an RSA key that was rejected ({rejected})"),
                "the key needs two primes of equal length that make up its modulus, and a public \
                 exponent of at least 65537",
            )
        })?;
        match provider(self.choice, algorithm, Task::Sign) {
            // Checks d, dP, dQ and qInv too.
            Some(Provider::AwsLc) => aws::RsaKeyPair::from_pkcs8(document)
                .map(drop)
                .map_err(|_| inconsistent("RSA")),
            // ring checks its result against the public key, so a signature is the test.
            Some(Provider::Ring) | None => {
                let mut signature = vec![0; key.public().modulus_len()];
                let padding = &ring_signature::RSA_PKCS1_SHA256;
                key.sign(padding, &SystemRandom::new(), b"check", &mut signature)
                    .map_err(|_| inconsistent("RSA"))
            }
        }
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
                return self.pkcs8(&crate::generate_rsa_pkcs8(algorithm)?);
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

/// ring's parameters for an ECDSA algorithm.
pub(crate) fn ring_ecdsa(algorithm: Algorithm) -> &'static ring_signature::EcdsaSigningAlgorithm {
    match algorithm {
        Algorithm::EcdsaP384 => &ring_signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        _ => &ring_signature::ECDSA_P256_SHA256_ASN1_SIGNING,
    }
}

/// What comes before an `RSAPrivateKey` of that length in a PKCS#8 document.
fn rsa_pkcs8_head(document_len: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(32);
    let id_len = der::element_len(algorithm_id::RSA.len());
    let len = 3 + id_len + der::element_len(document_len);
    der::write_head(&mut head, der::SEQUENCE, len);
    der::write(&mut head, der::INTEGER, &[0]);
    der::write(&mut head, der::SEQUENCE, algorithm_id::RSA);
    der::write_head(&mut head, der::OCTET_STRING, document_len);
    head
}

/// A PKCS#8 document (RFC 5958) in its parts.
struct Pkcs8<'a> {
    algorithm_id: &'a [u8],
    private_key: &'a [u8],
    public_key: Option<&'a [u8]>,
}

impl<'a> Pkcs8<'a> {
    fn parse(document: &'a [u8]) -> Result<Self, NotDer> {
        let mut fields = Reader::new(Reader::only(document, der::SEQUENCE)?);
        let version = fields.read(der::INTEGER)?;
        if !matches!(version, [0 | 1]) {
            return Err(NotDer);
        }
        let algorithm_id = fields.read(der::SEQUENCE)?;
        let private_key = fields.read(der::OCTET_STRING)?;
        // Attributes mean nothing here.
        fields.read_optional(der::CONTEXT_0)?;
        let public_key = match fields.read_optional(der::CONTEXT_1_PRIMITIVE)? {
            Some([0, key @ ..]) => Some(key),
            Some(_) => return Err(NotDer),
            None => None,
        };
        fields.end()?;
        Ok(Self {
            algorithm_id,
            private_key,
            public_key,
        })
    }
}

/// An `ECPrivateKey` in its parts.
struct Sec1<'a> {
    scalar: &'a [u8],
    curve_oid: Option<&'a [u8]>,
    point: Option<&'a [u8]>,
}

impl<'a> Sec1<'a> {
    fn parse(document: &'a [u8]) -> Result<Self, NotDer> {
        let mut fields = Reader::new(Reader::only(document, der::SEQUENCE)?);
        if fields.read(der::INTEGER)? != [1] {
            return Err(NotDer);
        }
        let scalar = fields.read(der::OCTET_STRING)?;
        let curve_oid = match fields.read_optional(der::CONTEXT_0)? {
            Some(parameters) => Some(Reader::only(parameters, der::OID)?),
            None => None,
        };
        let point = match fields.read_optional(der::CONTEXT_1)? {
            Some(public) => match Reader::only(public, der::BIT_STRING)? {
                [0, point @ ..] => Some(point),
                _ => return Err(NotDer),
            },
            None => None,
        };
        fields.end()?;
        Ok(Self {
            scalar,
            curve_oid,
            point,
        })
    }
}

/// What a DER document that is not PKCS#8 looks like, where that can be told.
fn document_kind(document: &[u8]) -> Option<&'static str> {
    let mut fields = Reader::new(Reader::only(document, der::SEQUENCE).ok()?);
    if let Ok(first) = fields.read(der::SEQUENCE) {
        let encrypted = first.starts_with(b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05");
        if encrypted {
            return Some("an encrypted PKCS#8 document");
        }
        return fields.read(der::BIT_STRING).ok().map(|_| "a public key");
    }
    match fields.read(der::INTEGER) {
        Ok([0]) if fields.read_unsigned().is_ok() => Some("a PKCS#1 RSA document"),
        Ok([1]) if fields.read(der::OCTET_STRING).is_ok() => Some("a SEC1 EC document"),
        _ => None,
    }
}

/// The name of what an AlgorithmIdentifier stands for, for messages.
fn algorithm_name(id: &[u8]) -> &'static str {
    const OTHERS: [(&[u8], &str); 8] = [
        (b"\x06\x03\x2b\x65\x71", "Ed448"),
        (b"\x06\x03\x2b\x65\x6e", "X25519, which does not sign,"),
        (b"\x06\x03\x2b\x65\x6f", "X448, which does not sign,"),
        (
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23",
            "ECDSA on P-521",
        ),
        (
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x0a",
            "ECDSA on secp256k1",
        ),
        (
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
            "ECDSA on another curve",
        ),
        (
            b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a",
            "RSA restricted to PSS (id-RSASSA-PSS)",
        ),
        (b"\x06\x07\x2a\x86\x48\xce\x38\x04\x01", "DSA"),
    ];
    let known = OTHERS.iter().find(|(prefix, _)| id.starts_with(prefix));
    known.map_or("an unknown algorithm", |(_, name)| name)
}

fn damaged(kind: &'static str) -> KeyError {
    KeyError::import(
        format!("a damaged {kind} private key"),
        "make the file anew from its source",
    )
}

fn inconsistent(kind: &'static str) -> KeyError {
    KeyError::import(
        format!("an {kind} private key whose parts do not belong together"),
        "make the file anew from its source",
    )
}
