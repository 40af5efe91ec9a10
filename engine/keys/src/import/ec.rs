//! ECDSA keys: which curve it is, and whether public and private part belong together.

use super::document::Sec1;
use super::{Importer, Material, damaged, inconsistent, ring_ecdsa};
use crate::algorithm::Algorithm;
use crate::arena::ArenaBytes;
use crate::der::{self, NotDer, Reader, without_zeros};
use crate::error::KeyError;
use crate::found::Found;
use crate::material::{Curve, P256, P384};
use crate::providers::ProviderChoice;
use aws_lc_rs::signature as aws;
use ring::rand::SystemRandom;
use ring::signature as ring_signature;

/// What a curve is when it is spelled out (RFC 3279, `ECParameters`). All of it is compared: with
/// another generator, the same name would stand for another curve (CVE-2020-0601).
struct Explicit {
    curve: Curve,
    oid: &'static [u8],
    prime: &'static str,
    a: &'static str,
    b: &'static str,
    generator_x: &'static str,
    generator_y: &'static str,
    order: &'static str,
}

const CURVES: [Explicit; 2] = [
    Explicit {
        curve: P256,
        oid: b"\x2a\x86\x48\xce\x3d\x03\x01\x07",
        prime: "FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF",
        a: "FFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFC",
        b: "5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B",
        generator_x: "6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296",
        generator_y: "4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5",
        order: "FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551",
    },
    Explicit {
        curve: P384,
        oid: b"\x2b\x81\x04\x00\x22",
        prime: "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFE\
                FFFFFFFF0000000000000000FFFFFFFF",
        a: "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFE\
            FFFFFFFF0000000000000000FFFFFFFC",
        b: "B3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875A\
            C656398D8A2ED19D2A85C8EDD3EC2AEF",
        generator_x: "AA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A38\
                      5502F25DBF55296C3A545E3872760AB7",
        generator_y: "3617DE4A96262C6F5D9E98BF9292DC29F8F41DBD289A147CE9DA3113B5F0B8C0\
                      0A60B1CE1D7E819D7A431D7C90EA0E5F",
        order: "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF\
                581A0DB248B0A77AECEC196ACCC52973",
    },
];

/// The curve that parameters name or spell out; `None` if they say nothing.
pub(super) fn curve_of(mut parameters: Reader<'_>) -> Result<Option<Curve>, KeyError> {
    let damaged = |NotDer| damaged("EC");
    let (known, name) = match parameters.tag() {
        // The NULL of writers who think that all algorithms have one.
        None | Some(der::NULL) => return Ok(None),
        Some(der::OID) => {
            let oid = parameters.read(der::OID).map_err(damaged)?;
            let known = CURVES.iter().find(|known| known.oid == oid);
            let other = OTHERS.iter().find(|(other, _)| *other == oid);
            (known, other.map(|(_, name)| *name))
        }
        Some(_) => {
            let fields = parameters.enter(der::SEQUENCE);
            let found = fields.and_then(SpelledOut::parse).map_err(damaged)?;
            (CURVES.iter().find(|known| found.is(known)), None)
        }
    };
    match known {
        Some(known) => Ok(Some(known.curve)),
        None => Err(other_curve(name.unwrap_or("another curve"))),
    }
}

/// The refusal of a key on a curve that is none of Keyway's.
pub(super) fn other_curve(name: &'static str) -> KeyError {
    KeyError::import(
        Found::from("an EC key on ").and(name),
        "the supported curves are P-256 (prime256v1) and P-384 (secp384r1)",
    )
}

/// Curves that a message may name.
const OTHERS: [(&[u8], &str); 6] = [
    (b"\x2b\x81\x04\x00\x21", "P-224"),
    (b"\x2b\x81\x04\x00\x23", "P-521"),
    (b"\x2b\x81\x04\x00\x0a", "secp256k1"),
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x07", "brainpoolP256r1"),
    (b"\x2b\x24\x03\x03\x02\x08\x01\x01\x0b", "brainpoolP384r1"),
    (b"\x2a\x81\x1c\xcf\x55\x01\x82\x2d", "SM2"),
];

struct SpelledOut<'a> {
    prime: &'a [u8],
    a: &'a [u8],
    b: &'a [u8],
    generator: &'a [u8],
    order: &'a [u8],
    cofactor: Option<&'a [u8]>,
}

impl<'a> SpelledOut<'a> {
    fn parse(mut fields: Reader<'a>) -> Result<Self, NotDer> {
        fields.read_unsigned()?;
        let mut field = fields.enter(der::SEQUENCE)?;
        field.read(der::OID)?;
        // Fields of characteristic 2 have a SEQUENCE here: not a supported curve.
        let prime = match field.tag() {
            Some(der::INTEGER) => field.read_unsigned()?,
            _ => &[],
        };
        let mut curve = fields.enter(der::SEQUENCE)?;
        let (a, b) = (
            curve.read(der::OCTET_STRING)?,
            curve.read(der::OCTET_STRING)?,
        );
        Ok(Self {
            prime,
            a,
            b,
            generator: fields.read(der::OCTET_STRING)?,
            order: fields.read_unsigned()?,
            cofactor: match fields.tag() {
                Some(der::INTEGER) => Some(fields.read_unsigned()?),
                _ => None,
            },
        })
    }

    fn is(&self, known: &Explicit) -> bool {
        let generator = match *self.generator {
            [2 | 3, ref x @ ..] => {
                is_number(x, known.generator_x)
                    && self.generator[0] == 2 + known.generator_y_parity()
            }
            [4 | 6 | 7, ref both @ ..] => {
                let (x, y) = both.split_at(both.len() / 2);
                x.len() == y.len()
                    && is_number(x, known.generator_x)
                    && is_number(y, known.generator_y)
            }
            _ => false,
        };
        generator
            && is_number(self.prime, known.prime)
            && is_number(self.a, known.a)
            && is_number(self.b, known.b)
            && is_number(self.order, known.order)
            && self.cofactor.is_none_or(|cofactor| cofactor == [1])
    }
}

impl Explicit {
    fn generator_y_parity(&self) -> u8 {
        let last = self.generator_y.as_bytes().last().copied();
        last.and_then(|digit| char::from(digit).to_digit(16))
            .map_or(0, |digit| (digit % 2) as u8)
    }
}

/// Whether big-endian bytes are the number that these digits write.
fn is_number(bytes: &[u8], hexadecimal: &str) -> bool {
    let bytes = without_zeros(bytes);
    let digits = hexadecimal.trim_start_matches('0').as_bytes();
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let nibbles = nibbles.skip_while(|nibble| *nibble == 0);
    nibbles.eq(digits.iter().map(|digit| {
        char::from(*digit)
            .to_digit(16)
            .map_or(16, |digit| digit as u8)
    }))
}

impl Importer<'_> {
    /// A key from an `ECPrivateKey` inside something that says `outer` of its curve. Where neither
    /// names one, the algorithm that the caller named does, or the public key.
    pub(super) fn sec1(
        &self,
        key: &Sec1<'_>,
        outer: Option<Curve>,
        algorithm: Option<Algorithm>,
    ) -> Result<Material, KeyError> {
        let inner = match key.parameters {
            Some(parameters) => curve_of(parameters)?,
            None => None,
        };
        if let (Some(outer), Some(inner)) = (outer, inner)
            && outer.algorithm != inner.algorithm
        {
            return Err(inconsistent("EC"));
        }
        let named = outer.or(inner);
        let named = named.or_else(|| algorithm.and_then(Curve::of));
        let named = named.or_else(|| key.point.and_then(curve_of_point));
        let Some(curve) = named else {
            return Err(KeyError::import(
                "an EC key that does not say which curve it is on",
                "name the algorithm, ecdsa-p256 or ecdsa-p384",
            ));
        };
        self.ecdsa(curve, key.scalar, key.point)
    }

    /// A key of `curve` from its scalar, with or without leading zeros, and its public point, if
    /// there is one, in any encoding.
    pub(super) fn ecdsa(
        &self,
        curve: Curve,
        scalar: &[u8],
        point: Option<&[u8]>,
    ) -> Result<Material, KeyError> {
        let digits = without_zeros(scalar);
        let mut scalar = ArenaBytes::zeroed(self.arena, curve.scalar_len)?;
        if digits.is_empty() || digits.len() > scalar.len() {
            return Err(damaged("EC"));
        }
        let zeros = scalar.len() - digits.len();
        scalar[zeros..].copy_from_slice(digits);
        let point = match point {
            // 4 marks an uncompressed point.
            Some(point) if point.len() == curve.point_len && point[0] == 4 => point.to_vec(),
            given => {
                let derived = self.derive_point(curve, &scalar)?;
                if given.is_some_and(|given| !is_same_point(given, &derived)) {
                    return Err(inconsistent("EC"));
                }
                derived
            }
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
                "an EC key without an uncompressed public key, which ring cannot derive",
                "add it: openssl ec -in FILE -conv_form uncompressed -out NEW",
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
}

/// The curve that a point may be on, by its length; that it is, the check of the pair shows.
fn curve_of_point(point: &[u8]) -> Option<Curve> {
    [P256, P384].into_iter().find(|curve| {
        let compressed = (curve.point_len - 1) / 2 + 1;
        [curve.point_len, compressed].contains(&point.len())
    })
}

/// Whether `point`, compressed (2, 3) or hybrid (6, 7), is the uncompressed one.
fn is_same_point(point: &[u8], uncompressed: &[u8]) -> bool {
    let (x, y) = uncompressed[1..].split_at((uncompressed.len() - 1) / 2);
    let odd = y.last().is_some_and(|last| last % 2 == 1);
    match point {
        [form @ (2 | 3), rest @ ..] => (*form == 3) == odd && rest == x,
        [form @ (6 | 7), rest @ ..] => (*form == 7) == odd && rest == &uncompressed[1..],
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_without_their_leading_zeros() {
        assert!(is_number(&[0, 0x0a, 0xbc], "0ABC"));
        assert!(is_number(&[0x0a, 0xbc], "ABC"));
        assert!(!is_number(&[0x0a, 0xbd], "ABC"));
        assert!(!is_number(&[0xab], "ABC"));
        assert!(!is_number(&[0xab, 0xc0], "ABC"));
        assert!(is_number(&[], "0"));
    }
}
