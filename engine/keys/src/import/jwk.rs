//! JSON Web Keys (RFC 7517, 7518, 8037): one private key, or one secret.
//!
//! The JSON is read without copies: its texts are slices of the input, and what they encode goes
//! straight into the arena.

use super::rsa::RsaParts;
use super::{Importer, Material, inconsistent};
use crate::algorithm::Algorithm;
use crate::arena::{Arena, ArenaBytes};
use crate::der::without_zeros;
use crate::error::KeyError;
use crate::found::Found;
use crate::material::{P256, P384};
use crate::pem;
use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

/// base64url; padding is not allowed there, but seen.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, ANY_PADDING);
/// Not allowed either, but seen: `+` and `/` mean nothing in base64url, so a text with one of them is of this alphabet.
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, ANY_PADDING);
const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// The members that say what the key is. All others are passed over.
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    alg: Option<&'a str>,
    crv: Option<&'a str>,
    k: Option<&'a str>,
    d: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
    p: Option<&'a str>,
    q: Option<&'a str>,
    dp: Option<&'a str>,
    dq: Option<&'a str>,
    qi: Option<&'a str>,
    oth: Option<serde::de::IgnoredAny>,
}

/// A set of JWKs (RFC 7517, section 5), as many programs write even a single one.
#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<Jwk<'a>>,
}

/// Whether these bytes look like a JSON object.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii(), [b'{', .., b'}'])
}

/// The one JWK in `bytes`. The parser's message would quote what the file holds, and so is not shown.
fn parse(bytes: &[u8]) -> Result<Jwk<'_>, KeyError> {
    if let Ok(Set { mut keys }) = serde_json::from_slice(bytes) {
        return match (keys.len(), keys.pop()) {
            (1, Some(jwk)) => Ok(jwk),
            (len, _) => Err(KeyError::import(
                Found::from("a set of ").and(len).and(" JWKs"),
                "give one of them, the object with kty",
            )),
        };
    }
    serde_json::from_slice(bytes).map_err(|_| match pem::is_misplaced(bytes) {
        true => pem::misplaced("JSON that holds PEM"),
        false => KeyError::import(
            "JSON that is not a JWK",
            "give one key as a JWK (an object with kty), or the key itself as PEM or DER",
        ),
    })
}

/// The same JSON with characters in the place of escapes that stand for one of printable ASCII, in the arena: what is
/// lent out of the text must stand there as it is. `None` if it has no such escape.
fn unescaped(arena: &Arena, bytes: &[u8]) -> Result<Option<ArenaBytes>, KeyError> {
    let mut plain = ArenaBytes::zeroed(arena, bytes.len())?;
    let (mut rest, mut len) = (bytes, 0);
    while let [first, ..] = *rest {
        let (stands_for, taken) = match *rest {
            [b'\\', b'/', ..] => (Some(b'/'), 2),
            [b'\\', b'u', b'0', b'0', high, low, ..] => (character(high, low), 6),
            [b'\\', _, ..] => (None, 2),
            _ => (Some(first), 1),
        };
        match stands_for {
            Some(character) => {
                plain[len] = character;
                len += 1;
            }
            None => {
                plain[len..len + taken].copy_from_slice(&rest[..taken]);
                len += taken;
            }
        }
        rest = &rest[taken..];
    }
    plain.truncate(len);
    Ok((len < bytes.len()).then_some(plain))
}

/// The character of these two hexadecimal digits, if it means the same without an escape.
fn character(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let character = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
    let is_plain = matches!(character, b' '..=b'~') && !matches!(character, b'"' | b'\\');
    is_plain.then_some(character)
}

impl Importer<'_> {
    /// A key from a JWK. A secret is for `algorithm`, or else for what its own `alg` names.
    pub(super) fn jwk(
        &self,
        algorithm: Option<Algorithm>,
        bytes: &[u8],
    ) -> Result<Material, KeyError> {
        let plain;
        let jwk = match parse(bytes) {
            Ok(jwk) => jwk,
            Err(error) => match unescaped(self.arena, bytes)? {
                Some(bytes) => {
                    plain = bytes;
                    parse(&plain)?
                }
                None => return Err(error),
            },
        };
        match jwk.kty {
            "oct" => self.secret(algorithm, &jwk),
            "OKP" if jwk.crv == Some("Ed25519") => {
                let (seed, public) = (self.private("Ed25519", jwk.d)?, self.optional(jwk.x)?);
                self.ed25519(&seed, public.as_deref())
            }
            "OKP" => Err(super::document::unsupported("another kind of OKP")),
            "EC" => self.jwk_ec(&jwk),
            "RSA" => self.jwk_rsa(&jwk),
            _ => Err(super::document::unsupported("an unknown type of JWK")),
        }
    }

    fn secret(&self, named: Option<Algorithm>, jwk: &Jwk<'_>) -> Result<Material, KeyError> {
        let own = match jwk.alg {
            Some("HS256") => Some(Algorithm::HmacSha256),
            Some("HS384") => Some(Algorithm::HmacSha384),
            Some("HS512") => Some(Algorithm::HmacSha512),
            Some("A256GCM") => Some(Algorithm::Aes256Gcm),
            _ => None,
        };
        let Some(algorithm) = named.or(own) else {
            return Err(KeyError::import(
                "a JWK with a secret of no named algorithm",
                "name the algorithm, as in hmac-sha256",
            ));
        };
        if algorithm.is_asymmetric() {
            return Err(KeyError::import(
                Found::from("a JWK with a secret, for ").and(algorithm),
                "name the algorithm that the secret is for, as in hmac-sha256",
            ));
        }
        let secret = self.private("oct", jwk.k)?;
        let material = self.raw(Some(algorithm), &secret)?;
        match own {
            Some(found) if found != algorithm => Err(KeyError::AlgorithmMismatch {
                found,
                expected: algorithm,
            }),
            _ => Ok(material),
        }
    }

    fn jwk_ec(&self, jwk: &Jwk<'_>) -> Result<Material, KeyError> {
        let curve = match jwk.crv {
            Some("P-256") => P256,
            Some("P-384") => P384,
            _ => return Err(super::ec::other_curve("another curve")),
        };
        let scalar = self.private("EC", jwk.d)?;
        let (x, y) = (self.optional(jwk.x)?, self.optional(jwk.y)?);
        let point = match (&x, &y) {
            (Some(x), Some(y)) => {
                let len = (curve.point_len - 1) / 2;
                let mut point = vec![0; curve.point_len];
                point[0] = 4;
                let (low, high) = point[1..].split_at_mut(len);
                for (out, digits) in [(low, x), (high, y)] {
                    let digits = without_zeros(digits);
                    let zeros = len.checked_sub(digits.len());
                    let zeros = zeros.ok_or_else(|| inconsistent("EC"))?;
                    out[zeros..].copy_from_slice(digits);
                }
                Some(point)
            }
            _ => None,
        };
        self.ecdsa(curve, &scalar, point.as_deref())
    }

    fn jwk_rsa(&self, jwk: &Jwk<'_>) -> Result<Material, KeyError> {
        if jwk.oth.is_some() {
            return Err(KeyError::import(
                "an RSA key of more than two primes",
                "make a key of two primes",
            ));
        }
        let number = |text: Option<&str>| self.private("RSA", text);
        let (n, e, d) = (number(jwk.n)?, number(jwk.e)?, number(jwk.d)?);
        let (p, q) = (self.optional(jwk.p)?, self.optional(jwk.q)?);
        let crt = match (
            self.optional(jwk.dp)?,
            self.optional(jwk.dq)?,
            self.optional(jwk.qi)?,
        ) {
            (Some(dp), Some(dq), Some(qi)) => Some([dp, dq, qi]),
            _ => None,
        };
        let [n, e, d] = [&n, &e, &d].map(|digits| without_zeros(digits));
        self.rsa(RsaParts {
            n,
            e,
            d,
            p: p.as_deref().map_or(&[], without_zeros),
            q: q.as_deref().map_or(&[], without_zeros),
            crt: crt
                .as_ref()
                .map(|crt| crt.each_ref().map(|digits| without_zeros(digits))),
        })
    }

    /// A member that a private key must have.
    fn private(&self, kind: &'static str, text: Option<&str>) -> Result<ArenaBytes, KeyError> {
        match self.optional(text)? {
            Some(bytes) => Ok(bytes),
            None => Err(KeyError::import(
                Found::from("a JWK of kind ")
                    .and(kind)
                    .and(" without its private members"),
                "give the private key's JWK",
            )),
        }
    }

    fn optional(&self, text: Option<&str>) -> Result<Option<ArenaBytes>, KeyError> {
        let Some(text) = text else {
            return Ok(None);
        };
        let mut bytes = ArenaBytes::zeroed(self.arena, base64::decoded_len_estimate(text.len()))?;
        let alphabet = match text.contains(['+', '/']) {
            true => BASE64,
            false => BASE64URL,
        };
        let len = alphabet.decode_slice(text, &mut bytes).map_err(|_| {
            KeyError::import(
                "a JWK with a member that is not base64url",
                "write its members as unbroken base64url (A-Z, a-z, 0-9, - and _), or give the key as PEM",
            )
        })?;
        bytes.truncate(len);
        Ok(Some(bytes))
    }
}
