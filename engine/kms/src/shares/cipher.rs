//! SLIP-39's encryption of the secret before it is split: a Feistel network of four rounds over PBKDF2-HMAC-SHA-256.
//!
//! With the empty passphrase it hides nothing. It is part of the standard, so that any tool that implements SLIP-39
//! recovers the same secret.

use std::num::NonZeroU32;

use ring::pbkdf2;
use zeroize::Zeroizing;

use super::Terms;
use crate::secret::scrub_stack;

/// Iterations of one round, at exponent 0.
const ROUND_ITERATIONS: NonZeroU32 = NonZeroU32::new(2500).expect("2500 is not zero");
const ROUNDS: [u8; 4] = [0, 1, 2, 3];
/// Begins the salt of a set that is not extendable.
const SALT_PREFIX: &[u8] = b"shamir";

/// Encrypts `block` in place; its length is even.
pub(super) fn encrypt(terms: Terms, passphrase: &[u8], block: &mut [u8]) {
    feistel(terms, passphrase, block, ROUNDS.into_iter());
}

/// Undoes [`encrypt`].
pub(super) fn decrypt(terms: Terms, passphrase: &[u8], block: &mut [u8]) {
    feistel(terms, passphrase, block, ROUNDS.into_iter().rev());
}

fn feistel(terms: Terms, passphrase: &[u8], block: &mut [u8], rounds: impl Iterator<Item = u8>) {
    let half = block.len() / 2;
    for round in rounds {
        let (left, right) = block.split_at_mut(half);
        let stream = round_function(terms, passphrase, round, right);
        for (byte, key) in left.iter_mut().zip(stream.iter()) {
            *byte ^= key;
        }
        block.rotate_left(half);
    }
    // The halves are not swapped in the last round.
    block.rotate_left(half);
    scrub_stack();
}

/// Returns as many bytes as `right` has.
#[inline(never)]
fn round_function(terms: Terms, passphrase: &[u8], round: u8, right: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut password = Zeroizing::new(Vec::with_capacity(1 + passphrase.len()));
    password.push(round);
    password.extend_from_slice(passphrase);
    let mut salt = Zeroizing::new(Vec::with_capacity(SALT_PREFIX.len() + 2 + right.len()));
    if !terms.is_extendable {
        salt.extend_from_slice(SALT_PREFIX);
        salt.extend_from_slice(&terms.identifier.to_be_bytes());
    }
    salt.extend_from_slice(right);
    let mut out = Zeroizing::new(vec![0; right.len()]);
    // The exponent has 4 bits, so this stays far from the type's end.
    let factor = NonZeroU32::MIN.saturating_add((1 << (terms.iteration_exponent & 0x0f)) - 1);
    let iterations = ROUND_ITERATIONS.saturating_mul(factor);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        iterations,
        &salt,
        &password,
        &mut out,
    );
    out
}
