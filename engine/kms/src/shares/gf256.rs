//! Arithmetic in GF(256) modulo x^8 + x^4 + x^3 + x + 1, as SLIP-39 and AES have it.
//!
//! Share values are secret, so no table is indexed by a byte and no branch depends on one: a product is eight masked
//! additions.

use zeroize::Zeroizing;

/// The representation of x^8, without the x^8.
const REDUCTION: u8 = 0x1b;

/// The value of each polynomial at `x`: one byte for each byte of the shared secret.
pub(super) struct Point<'a> {
    /// Public: the share's number.
    pub(super) x: u8,
    /// Secret.
    pub(super) y: &'a [u8],
}

/// Returns the values at `x` of the polynomials of least degree through `points`, which have distinct `x`, none equal to
/// the argument, and `y` of one length. Takes the same time for all values of one length.
pub(super) fn interpolate(points: &[Point<'_>], x: u8) -> Zeroizing<Vec<u8>> {
    let len = points.first().map_or(0, |point| point.y.len());
    let mut sum = Zeroizing::new(vec![0; len]);
    for (i, point) in points.iter().enumerate() {
        let others = || points.iter().enumerate().filter(|(j, _)| *j != i);
        let above = others().fold(1, |product, (_, other)| mul(product, x ^ other.x));
        let below = others().fold(1, |product, (_, other)| mul(product, point.x ^ other.x));
        let basis = mul(above, inverse(below));
        for (out, value) in sum.iter_mut().zip(point.y) {
            *out ^= mul(*value, basis);
        }
    }
    sum
}

fn mul(a: u8, b: u8) -> u8 {
    let mut shifted = a;
    let mut product = 0;
    for bit in 0..8 {
        product ^= shifted & mask(b >> bit);
        shifted = (shifted << 1) ^ (REDUCTION & mask(shifted >> 7));
    }
    product
}

/// Returns all ones if the lowest bit is set, otherwise zero. The black box keeps the compiler from turning it into a
/// branch.
fn mask(bit: u8) -> u8 {
    std::hint::black_box(0_u8.wrapping_sub(bit & 1))
}

/// Returns a^254, which is 1/a, and 0 for 0.
fn inverse(a: u8) -> u8 {
    let mut power = a;
    let mut result = 1;
    // 254 = 2 + 4 + .. + 128.
    for _ in 1..8 {
        power = mul(power, power);
        result = mul(result, power);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schoolbook multiplication: the product of two polynomials, then the remainder.
    fn slow_mul(a: u8, b: u8) -> u8 {
        let mut wide = 0_u16;
        for bit in 0..8 {
            if b >> bit & 1 == 1 {
                wide ^= u16::from(a) << bit;
            }
        }
        for bit in (8..16).rev() {
            if wide >> bit & 1 == 1 {
                wide ^= 0x11b << (bit - 8);
            }
        }
        wide as u8
    }

    #[test]
    fn every_product_is_the_schoolbook_one() {
        // FIPS 197, section 4.2.
        assert_eq!(mul(0x57, 0x83), 0xc1);
        for a in 0..=255 {
            for b in 0..=255 {
                assert_eq!(mul(a, b), slow_mul(a, b), "{a} times {b}");
            }
        }
    }

    #[test]
    fn every_inverse_is_one() {
        assert_eq!(inverse(0), 0);
        for a in 1..=255 {
            assert_eq!(mul(a, inverse(a)), 1, "{a}");
        }
    }

    #[test]
    fn a_parabola_goes_through_its_points() {
        let parabola = |x: u8| [0x2a ^ mul(0x11, x) ^ mul(0xc5, mul(x, x)), x];
        let (at_0, at_7, at_9) = (parabola(0), parabola(7), parabola(9));
        let points = [
            Point { x: 0, y: &at_0 },
            Point { x: 7, y: &at_7 },
            Point { x: 9, y: &at_9 },
        ];
        for x in (0..=255).filter(|x| ![0, 7, 9].contains(x)) {
            assert_eq!(*interpolate(&points, x), parabola(x), "at {x}");
        }
    }
}
