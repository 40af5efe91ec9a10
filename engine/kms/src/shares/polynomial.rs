//! Shamir's scheme with SLIP-39's digest: `SplitSecret` and `RecoverSecret` of the standard.
//!
//! The polynomials have the secret at 255 and a digest of it at 254; share `i` is their value at `i`. The digest detects
//! shares that do not belong together; with one share too few, 2^224 secrets remain possible, not 2^256.

use ring::hmac;
use ring::rand::SystemRandom;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Quorum;
use super::gf256::{Point, interpolate};
use crate::KmsError;
use crate::secret::{fill_random, scrub_stack};

const SECRET_X: u8 = 255;
const DIGEST_X: u8 = 254;
const DIGEST_BYTES: usize = 4;

/// Returns the values of the shares 0 to `count - 1`, each as long as the secret, which has more than 4 bytes.
pub(super) fn split(
    random: &SystemRandom,
    quorum: Quorum,
    secret: &[u8],
) -> Result<Vec<Zeroizing<Vec<u8>>>, KmsError> {
    let count = quorum.count();
    // The standard has no digest here: one share is the secret.
    if quorum.threshold() == 1 {
        return Ok((0..count)
            .map(|_| Zeroizing::new(secret.to_vec()))
            .collect());
    }
    let mut digest_value = Zeroizing::new(vec![0; secret.len()]);
    let (digest_out, key) = digest_value.split_at_mut(DIGEST_BYTES);
    fill_random(random, key)?;
    digest_out.copy_from_slice(&digest(key, secret));
    scrub_stack();

    let free = quorum.threshold() - 2;
    let mut values = Vec::with_capacity(usize::from(count));
    for _ in 0..free {
        let mut value = Zeroizing::new(vec![0; secret.len()]);
        fill_random(random, &mut value)?;
        values.push(value);
    }
    for x in free..count {
        let mut points: Vec<Point<'_>> = (0..free)
            .zip(&values)
            .map(|(x, value)| Point { x, y: value })
            .collect();
        points.push(Point {
            x: DIGEST_X,
            y: &digest_value,
        });
        points.push(Point {
            x: SECRET_X,
            y: secret,
        });
        let value = interpolate(&points, x);
        values.push(value);
    }
    Ok(values)
}

/// Recovers the secret from exactly as many shares as the threshold, with distinct numbers below 16. Returns `None` if
/// they do not belong together.
pub(super) fn recover(points: &[Point<'_>]) -> Option<Zeroizing<Vec<u8>>> {
    if let [only] = points {
        return Some(Zeroizing::new(only.y.to_vec()));
    }
    let secret = interpolate(points, SECRET_X);
    let digest_value = interpolate(points, DIGEST_X);
    let (given, key) = digest_value.split_at_checked(DIGEST_BYTES)?;
    let is_right: bool = digest(key, &secret).ct_eq(given).into();
    scrub_stack();
    is_right.then_some(secret)
}

#[inline(never)]
fn digest(key: &[u8], secret: &[u8]) -> [u8; DIGEST_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), secret);
    let mut digest = [0; DIGEST_BYTES];
    digest.copy_from_slice(&tag.as_ref()[..DIGEST_BYTES]);
    digest
}

#[cfg(test)]
mod tests {
    use super::super::SHARES_MAX;
    use super::*;

    const SECRET: [u8; 32] = *b"thirty-two bytes make one secret";

    fn points<'a>(values: &'a [Zeroizing<Vec<u8>>], members: &[u8]) -> Vec<Point<'a>> {
        members
            .iter()
            .map(|&x| Point {
                x,
                y: &values[usize::from(x)],
            })
            .collect()
    }

    /// Returns all sets of `size` of the numbers below `count`.
    fn subsets(count: u8, size: u8) -> impl Iterator<Item = Vec<u8>> {
        (0_u32..1 << count)
            .filter(move |bits| bits.count_ones() == u32::from(size))
            .map(move |bits| (0..count).filter(|x| bits >> x & 1 == 1).collect())
    }

    #[test]
    fn any_threshold_of_the_shares_recover_and_one_fewer_do_not() {
        let random = SystemRandom::new();
        for count in 1..=SHARES_MAX {
            for threshold in 1..=count {
                let Ok(quorum) = Quorum::new(threshold, count) else {
                    assert!(threshold == 1 && count > 1);
                    continue;
                };
                let values = split(&random, quorum, &SECRET).unwrap();
                // All subsets of small sets, and some of each large one.
                let step = if count <= 8 { 1 } else { 97 };
                for members in subsets(count, threshold).step_by(step) {
                    let secret = recover(&points(&values, &members));
                    assert_eq!(
                        **secret.unwrap(),
                        SECRET,
                        "{threshold} of {count}: {members:?}"
                    );
                }
                for members in subsets(count, threshold - 1).step_by(step) {
                    if members.is_empty() {
                        continue;
                    }
                    let secret = recover(&points(&values, &members));
                    assert!(
                        secret.is_none_or(|secret| **secret != SECRET),
                        "{threshold} of {count}: {members:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_changed_share_is_noticed() {
        let random = SystemRandom::new();
        let mut values = split(&random, Quorum::new(3, 5).unwrap(), &SECRET).unwrap();
        for at in 0..SECRET.len() {
            values[4][at] ^= 0x40;
            assert!(recover(&points(&values, &[0, 2, 4])).is_none(), "byte {at}");
            assert!(recover(&points(&values, &[0, 2, 3])).is_some(), "byte {at}");
            values[4][at] ^= 0x40;
        }
    }
}
