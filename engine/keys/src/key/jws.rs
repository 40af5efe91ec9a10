//! ECDSA signatures in the form of JWS (RFC 7518, 3.4): r and s one after the other, each as long as
//! the curve's field. The providers write and read ASN.1 DER.

use crate::algorithm::Algorithm;
use crate::der::{self, Reader};
use crate::error::OpError;
use crate::material::Curve;

/// Replaces the DER signature that `out` ends with, from `start` on, by its form in JWS.
pub(super) fn from_der(
    algorithm: Algorithm,
    start: usize,
    out: &mut Vec<u8>,
) -> Result<(), OpError> {
    let len = number_len(algorithm)?;
    let mut both = [0; 2 * NUMBER_LEN_MAX];
    let both = &mut both[..2 * len];
    let fields = Reader::only(&out[start..], der::SEQUENCE);
    let mut fields = Reader::new(fields.map_err(|_| OpError::Internal)?);
    for number in both.chunks_mut(len) {
        let digits = fields.read_unsigned().map_err(|_| OpError::Internal)?;
        let zeros = len.checked_sub(digits.len()).ok_or(OpError::Internal)?;
        number[zeros..].copy_from_slice(digits);
    }
    out.truncate(start);
    out.extend_from_slice(both);
    Ok(())
}

/// The DER form of a signature in the form of JWS; `None` if it has another length, and so cannot
/// verify.
pub(super) fn to_der(algorithm: Algorithm, signature: &[u8]) -> Result<Option<Vec<u8>>, OpError> {
    let len = number_len(algorithm)?;
    if signature.len() != 2 * len {
        return Ok(None);
    }
    let numbers = signature.chunks(len).map(der::without_zeros);
    let fields_len = numbers
        .clone()
        .map(|digits| der::element_len(der::unsigned_len(digits)))
        .sum();
    let mut out = Vec::with_capacity(der::element_len(fields_len));
    der::write_head(&mut out, der::SEQUENCE, fields_len);
    numbers.for_each(|digits| der::write_unsigned(&mut out, digits));
    Ok(Some(out))
}

/// Length of a number modulo the order of P-384, in bytes.
const NUMBER_LEN_MAX: usize = 48;

fn number_len(algorithm: Algorithm) -> Result<usize, OpError> {
    Curve::of(algorithm)
        .map(|curve| curve.scalar_len)
        .ok_or(OpError::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_forms_are_of_the_same_numbers(
            bytes in prop::collection::vec(any::<u8>(), 64),
            zeros in (0..33_usize, 0..33_usize),
        ) {
            let mut jws = bytes;
            jws[..zeros.0].fill(0);
            jws[32..32 + zeros.1].fill(0);
            let algorithm = Algorithm::EcdsaP256;
            let mut out = b"before".to_vec();
            out.extend(to_der(algorithm, &jws).unwrap().unwrap());
            from_der(algorithm, 6, &mut out).unwrap();
            prop_assert_eq!(&out[..6], b"before");
            prop_assert_eq!(&out[6..], jws);
        }
    }

    #[test]
    fn another_length_is_no_signature() {
        for len in [0, 63, 65, 96] {
            let der = to_der(Algorithm::EcdsaP256, &vec![1; len]);
            assert_eq!(der, Ok(None));
        }
    }
}
