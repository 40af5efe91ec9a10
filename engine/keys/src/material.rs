//! How the secret of one key version is kept: in the blob, and in the arena while unlocked.
//!
//! | algorithm | form |
//! |---|---|
//! | Ed25519 | 64 bytes: seed, then public key; checked at import to belong together |
//! | ECDSA | PKCS#8 v1 DER, named curve, public key included, no parameters inside: one fixed layout per curve |
//! | RSA | PKCS#8 v1 DER around an `RSAPrivateKey` with two primes |
//! | HMAC, HKDF | the secret itself, 16 to 1024 bytes |
//! | AEAD | 32 bytes |

use crate::algorithm::{AEAD_KEY_LEN, Algorithm, Family, SECRET_LEN_MAX, SECRET_LEN_MIN};
use crate::der::{self, NotDer, Reader};
use crate::ed25519::{PAIR_LEN, PUBLIC_LEN, SEED_LEN};

/// Greatest length of one version's material, in bytes: a PKCS#8 document of RSA-4096 has up to
/// 2,378, and a public exponent longer than three bytes adds a few.
pub(crate) const MATERIAL_LEN_MAX: usize = 2432;

const _: () = assert!(SECRET_LEN_MAX <= MATERIAL_LEN_MAX);

/// The contents of an AlgorithmIdentifier for each kind of asymmetric key.
pub(crate) mod algorithm_id {
    /// id-Ed25519.
    pub(crate) const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
    /// id-ecPublicKey with prime256v1.
    pub(crate) const P256: &[u8] =
        b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
    /// id-ecPublicKey with secp384r1.
    pub(crate) const P384: &[u8] =
        b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
    /// rsaEncryption with its NULL.
    pub(crate) const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
}

/// A curve's one PKCS#8 layout: `before`, scalar, `between`, point.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Curve {
    pub(crate) algorithm: Algorithm,
    before: &'static [u8],
    pub(crate) scalar_len: usize,
    between: &'static [u8],
    /// Length of an uncompressed point.
    pub(crate) point_len: usize,
}

pub(crate) const P256: Curve = Curve {
    algorithm: Algorithm::EcdsaP256,
    before: b"\x30\x81\x87\x02\x01\x00\x30\x13\
        \x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\
        \x04\x6d\x30\x6b\x02\x01\x01\x04\x20",
    scalar_len: 32,
    between: b"\xa1\x44\x03\x42\x00",
    point_len: 65,
};

pub(crate) const P384: Curve = Curve {
    algorithm: Algorithm::EcdsaP384,
    before: b"\x30\x81\xb6\x02\x01\x00\x30\x10\
        \x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\
        \x04\x81\x9e\x30\x81\x9b\x02\x01\x01\x04\x30",
    scalar_len: 48,
    between: b"\xa1\x64\x03\x62\x00",
    point_len: 97,
};

impl Curve {
    /// The curve of an ECDSA algorithm.
    pub(crate) fn of(algorithm: Algorithm) -> Option<Self> {
        match algorithm {
            Algorithm::EcdsaP256 => Some(P256),
            Algorithm::EcdsaP384 => Some(P384),
            _ => None,
        }
    }

    /// Length of a key's PKCS#8 document, in bytes.
    pub(crate) const fn document_len(&self) -> usize {
        self.before.len() + self.scalar_len + self.between.len() + self.point_len
    }

    /// Writes a key's PKCS#8 document. All three slices have the curve's lengths.
    pub(crate) fn write_document(&self, scalar: &[u8], point: &[u8], out: &mut [u8]) {
        let parts = [self.before, scalar, self.between, point];
        let mut rest = out;
        for part in parts {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
        assert!(
            rest.is_empty(),
            "the parts of a document make up its length"
        );
    }

    fn point<'a>(&self, document: &'a [u8]) -> Result<&'a [u8], NotDer> {
        if document.len() != self.document_len() {
            return Err(NotDer);
        }
        let (_, point) = document.split_at(document.len() - self.point_len);
        Ok(point)
    }
}

const _: () = assert!(P256.document_len() == 138 && P384.document_len() == 185);

/// The public part of a key version.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Public<'a> {
    Ed25519(&'a [u8; PUBLIC_LEN]),
    /// An uncompressed point.
    Ecdsa(&'a [u8]),
    /// Modulus and exponent, big-endian, no leading zeros.
    Rsa {
        n: &'a [u8],
        e: &'a [u8],
    },
}

/// Whether material of `algorithm` can be `len` bytes long.
pub(crate) fn len_is_valid(algorithm: Algorithm, len: usize) -> bool {
    match algorithm.family() {
        Family::Ed25519 => len == PAIR_LEN,
        Family::Ecdsa => Curve::of(algorithm).is_some_and(|curve| curve.document_len() == len),
        Family::Rsa => (1..=MATERIAL_LEN_MAX).contains(&len),
        Family::Hmac | Family::Hkdf => (SECRET_LEN_MIN..=SECRET_LEN_MAX).contains(&len),
        Family::Aead => len == AEAD_KEY_LEN,
    }
}

/// The public part of `material`; an error for symmetric keys.
pub(crate) fn public_part(algorithm: Algorithm, material: &[u8]) -> Result<Public<'_>, NotDer> {
    match algorithm.family() {
        Family::Ed25519 => {
            let (_, public) = material.split_at_checked(SEED_LEN).ok_or(NotDer)?;
            public.try_into().map(Public::Ed25519).map_err(|_| NotDer)
        }
        Family::Ecdsa => {
            let curve = Curve::of(algorithm).ok_or(NotDer)?;
            curve.point(material).map(Public::Ecdsa)
        }
        Family::Rsa => {
            let mut fields = Reader::new(Reader::only(material, der::SEQUENCE)?);
            fields.read(der::INTEGER)?;
            fields.read(der::SEQUENCE)?;
            rsa_public_part(fields.read(der::OCTET_STRING)?)
        }
        Family::Hmac | Family::Aead | Family::Hkdf => Err(NotDer),
    }
}

/// The public part of an `RSAPrivateKey`.
pub(crate) fn rsa_public_part(rsa_private_key: &[u8]) -> Result<Public<'_>, NotDer> {
    let mut fields = Reader::new(Reader::only(rsa_private_key, der::SEQUENCE)?);
    fields.read(der::INTEGER)?;
    let n = fields.read_unsigned()?;
    let e = fields.read_unsigned()?;
    Ok(Public::Rsa { n, e })
}

/// A SubjectPublicKeyInfo, DER, of a key that could have been imported: the algorithm and the public
/// key. Whether a point lies on its curve is left to the provider.
pub(crate) fn read_spki(spki: &[u8]) -> Result<(Algorithm, Public<'_>), NotDer> {
    let mut fields = Reader::new(Reader::only(spki, der::SEQUENCE)?);
    let algorithm_id = fields.read(der::SEQUENCE)?;
    let key = fields.read(der::BIT_STRING)?;
    fields.end()?;
    let (unused_bits, key) = key.split_first().ok_or(NotDer)?;
    if *unused_bits != 0 {
        return Err(NotDer);
    }
    let point = |curve: Curve| match key.first() {
        // 4 marks an uncompressed point.
        Some(4) if key.len() == curve.point_len => Ok((curve.algorithm, Public::Ecdsa(key))),
        _ => Err(NotDer),
    };
    match algorithm_id {
        algorithm_id::ED25519 => {
            let key = key.try_into().map_err(|_| NotDer)?;
            Ok((Algorithm::Ed25519, Public::Ed25519(key)))
        }
        algorithm_id::P256 => point(P256),
        algorithm_id::P384 => point(P384),
        algorithm_id::RSA => {
            let mut fields = Reader::new(Reader::only(key, der::SEQUENCE)?);
            let n = fields.read_unsigned()?;
            let e = fields.read_unsigned()?;
            fields.end()?;
            if !exponent_is_importable(e) {
                return Err(NotDer);
            }
            let algorithm = Algorithm::rsa_of_bits(bit_len(n)).ok_or(NotDer)?;
            Ok((algorithm, Public::Rsa { n, e }))
        }
        _ => Err(NotDer),
    }
}

/// Whether ring takes private keys with this exponent: 65537 to 2^33 - 1.
fn exponent_is_importable(e: &[u8]) -> bool {
    e.len() <= 5 && {
        let e = e.iter().fold(0_u64, |e, byte| e << 8 | u64::from(*byte));
        (65537..1 << 33).contains(&e)
    }
}

/// Bits of a number without leading zeros, big-endian.
pub(crate) fn bit_len(digits: &[u8]) -> usize {
    match digits.first() {
        Some(first) => digits.len() * 8 - first.leading_zeros() as usize,
        None => 0,
    }
}

impl Public<'_> {
    /// Appends the SubjectPublicKeyInfo of a key of `algorithm`, DER.
    pub(crate) fn write_spki(&self, algorithm: Algorithm, out: &mut Vec<u8>) {
        let mut write = |algorithm_id: &[u8], key: &[u8]| {
            let len = der::element_len(algorithm_id.len()) + der::element_len(key.len() + 1);
            der::write_head(out, der::SEQUENCE, len);
            der::write(out, der::SEQUENCE, algorithm_id);
            der::write_head(out, der::BIT_STRING, key.len() + 1);
            // No unused bits.
            out.push(0);
            out.extend_from_slice(key);
        };
        match self {
            Self::Ed25519(public) => write(algorithm_id::ED25519, &public[..]),
            Self::Ecdsa(point) if algorithm == Algorithm::EcdsaP256 => {
                write(algorithm_id::P256, point);
            }
            Self::Ecdsa(point) => write(algorithm_id::P384, point),
            Self::Rsa { n, e } => {
                let mut key = Vec::with_capacity(n.len() + e.len() + 16);
                let len =
                    der::element_len(der::unsigned_len(n)) + der::element_len(der::unsigned_len(e));
                der::write_head(&mut key, der::SEQUENCE, len);
                der::write_unsigned(&mut key, n);
                der::write_unsigned(&mut key, e);
                write(algorithm_id::RSA, &key);
            }
        }
    }
}

/// Appends what leaves with an exported key: PKCS#8 DER, or the secret itself.
pub(crate) fn export(algorithm: Algorithm, material: &[u8], out: &mut Vec<u8>) {
    match algorithm.family() {
        Family::Ed25519 => {
            // Version 1, without the public key: the form that every reader knows.
            out.extend_from_slice(b"\x30\x2e\x02\x01\x00\x30\x05");
            out.extend_from_slice(algorithm_id::ED25519);
            out.extend_from_slice(b"\x04\x22\x04\x20");
            out.extend_from_slice(&material[..SEED_LEN]);
        }
        _ => out.extend_from_slice(material),
    }
}
