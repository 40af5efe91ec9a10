//! RSA keys: their numbers, and whether they belong together.

use super::{Importer, Material, damaged, inconsistent};
use crate::algorithm::Algorithm;
use crate::arena::ArenaBytes;
use crate::bignum::{self, is_less};
use crate::der::{self, NotDer, Reader, without_zeros};
use crate::error::KeyError;
use crate::found::Found;
use crate::material::{MATERIAL_LEN_MAX, algorithm_id, bit_len};
use crate::providers::{Provider, Task, provider};
use aws_lc_rs::signature as aws;
use ring::rand::SystemRandom;
use ring::signature as ring_signature;

/// ring's limits of the public exponent's length: 65537 has 17 bits.
const EXPONENT_BITS_MIN: usize = 17;
const EXPONENT_BITS_MAX: usize = 33;

/// How ring says that the numbers of a key do not belong together (`KeyRejected`).
const INCONSISTENT: &str = "InconsistentComponents";

/// The numbers of a private key, big-endian without leading zeros.
#[derive(Clone, Copy)]
pub(super) struct RsaParts<'a> {
    pub(super) n: &'a [u8],
    pub(super) e: &'a [u8],
    pub(super) d: &'a [u8],
    pub(super) p: &'a [u8],
    pub(super) q: &'a [u8],
    /// dP, dQ and qInv, if the file has them.
    pub(super) crt: Option<[&'a [u8]; 3]>,
}

impl<'a> RsaParts<'a> {
    /// From the fields of an `RSAPrivateKey`.
    pub(super) fn parse(mut fields: Reader<'a>) -> Result<Self, NotDer> {
        fields.read_unsigned()?;
        let mut next = || fields.read_unsigned();
        let (n, e, d, p, q) = (next()?, next()?, next()?, next()?, next()?);
        let crt = Some([next()?, next()?, next()?]);
        fields.end()?;
        Ok(Self { n, e, d, p, q, crt })
    }

    /// In the order of an `RSAPrivateKey`, behind its version.
    fn numbers(&self, crt: [&'a [u8]; 3]) -> [&'a [u8]; 8] {
        let [dp, dq, qinv] = crt;
        [self.n, self.e, self.d, self.p, self.q, dp, dq, qinv]
    }
}

impl Importer<'_> {
    /// A key from its numbers, with the larger prime first, as ring wants it.
    pub(super) fn rsa(&self, parts: RsaParts<'_>) -> Result<Material, KeyError> {
        let bits = bit_len(parts.n);
        let Some(algorithm) = Algorithm::rsa_of_bits(bits) else {
            return Err(KeyError::import(
                Found::from("an RSA key of ").and(bits).and(" bits"),
                "RSA keys have 2048, 3072 or 4096 bits",
            ));
        };
        // What ring takes.
        if !(EXPONENT_BITS_MIN..=EXPONENT_BITS_MAX).contains(&bit_len(parts.e)) {
            return Err(KeyError::import(
                Found::from("an RSA key with a public exponent of ")
                    .and(bit_len(parts.e))
                    .and(" bits"),
                "the public exponent is from 65537 to 2^33 - 1: make a new key",
            ));
        }
        let RsaParts { d, p, q, .. } = parts;
        if p.is_empty() || q.is_empty() {
            return Err(KeyError::import(
                "an RSA key without its primes",
                "give the key with its two primes",
            ));
        }
        if bit_len(p) != bit_len(q) {
            return Err(KeyError::import(
                Found::from("an RSA key with primes of different lengths"),
                "its primes must have the same length: make a new key",
            ));
        }
        let bytes = match parts.crt {
            Some(crt) if is_less(q, p) => self.write_rsa(&parts.numbers(crt))?,
            _ => {
                let (p, q) = if is_less(q, p) { (p, q) } else { (q, p) };
                let mut dp = ArenaBytes::zeroed(self.arena, p.len())?;
                let mut dq = ArenaBytes::zeroed(self.arena, q.len())?;
                let mut qinv = ArenaBytes::zeroed(self.arena, p.len())?;
                bignum::crt([d, p, q], [&mut dp, &mut dq, &mut qinv])
                    .map_err(|bignum::Failed| damaged("RSA"))?;
                let crt = [&dp[..], &dq, &qinv].map(without_zeros);
                let parts = RsaParts { p, q, ..parts };
                self.write_rsa(&parts.numbers(crt))?
            }
        };
        self.check_rsa(algorithm, &bytes)?;
        Ok(Material { algorithm, bytes })
    }

    /// The PKCS#8 document of these numbers, in the one form that is kept.
    fn write_rsa(&self, numbers: &[&[u8]]) -> Result<ArenaBytes, KeyError> {
        let integer_len = |digits: &[u8]| der::element_len(der::unsigned_len(digits));
        let fields_len = 3 + numbers.iter().copied().map(integer_len).sum::<usize>();
        let head = pkcs8_head(der::element_len(fields_len));
        let len = head.len() + der::element_len(fields_len);
        if len > MATERIAL_LEN_MAX {
            return Err(damaged("RSA"));
        }
        let mut bytes = ArenaBytes::zeroed(self.arena, len)?;
        let mut at = 0;
        let mut write = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        write(&head);
        let mut small = Vec::with_capacity(8);
        der::write_head(&mut small, der::SEQUENCE, fields_len);
        der::write(&mut small, der::INTEGER, &[0]);
        write(&small);
        for digits in numbers {
            small.clear();
            der::write_unsigned_head(&mut small, digits);
            write(&small);
            write(digits);
        }
        Ok(bytes)
    }

    /// That ring takes the key (it verifies, and may be chosen to sign later on), and that its
    /// parts belong together.
    fn check_rsa(&self, algorithm: Algorithm, document: &[u8]) -> Result<(), KeyError> {
        let key = ring_signature::RsaKeyPair::from_pkcs8(document).map_err(|error| {
            // The exponents of the two primes exchanged, for instance: which check finds that depends on the numbers.
            if error.to_string() == INCONSISTENT {
                return inconsistent("RSA");
            }
            KeyError::import(
                "an RSA key that was rejected",
                "the key needs two primes of equal length that make up its modulus, and an odd public \
                 exponent",
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
}

/// What comes before an `RSAPrivateKey` of that length in a PKCS#8 document.
fn pkcs8_head(document_len: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(32);
    let id_len = der::element_len(algorithm_id::RSA.len());
    let len = 3 + id_len + der::element_len(document_len);
    der::write_head(&mut head, der::SEQUENCE, len);
    der::write(&mut head, der::INTEGER, &[0]);
    der::write(&mut head, der::SEQUENCE, algorithm_id::RSA);
    der::write_head(&mut head, der::OCTET_STRING, document_len);
    head
}
