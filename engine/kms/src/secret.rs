//! 32 secret bytes with empty `Debug` output that wipe themselves.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{Class, KmsError};

/// Length of a DEK and of a KEK.
pub const SECRET_BYTES: usize = 32;

/// Stack that one wrap or unwrap may have used: `ring`'s key schedule and HMAC states are below 2 KiB, and a build
/// without optimisation spreads them over several frames.
const STACK_SCRUB_BYTES: usize = 16 * 1024;

/// A DEK or a KEK. The bytes are in one heap allocation, so that moving the value leaves no copies; they are wiped when
/// it is dropped. Share it as `Arc<SecretKey>`: the last holder wipes.
pub struct SecretKey(Box<[u8; SECRET_BYTES]>);

impl SecretKey {
    /// Creates a secret whose bytes `fill` writes in place. If `fill` fails, what it wrote is wiped.
    pub fn try_fill<E>(
        fill: impl FnOnce(&mut [u8; SECRET_BYTES]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; SECRET_BYTES]));
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Moves the bytes out of `source`, which is wiped.
    pub fn take(source: &mut [u8; SECRET_BYTES]) -> Self {
        let mut secret = Self(Box::new([0; SECRET_BYTES]));
        secret.0.copy_from_slice(source);
        source.zeroize();
        secret
    }

    /// Generates a secret from the operating system's random numbers.
    pub fn generate(random: &SystemRandom) -> Result<Self, KmsError> {
        Self::try_fill(|bytes| fill_random(random, bytes))
    }

    /// Returns the bytes for the duration of the borrow.
    pub fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// Compares in constant time.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

/// Fills `bytes` from the operating system's random numbers.
pub(crate) fn fill_random(random: &SystemRandom, bytes: &mut [u8]) -> Result<(), KmsError> {
    random.fill(bytes).map_err(|_| {
        KmsError::new(
            Class::Unavailable { retry_after: None },
            "the operating system gave no random numbers",
            "check that getrandom(2) is allowed by the service's system call filter",
        )
    })
}

/// Overwrites the stack below the caller. `ring` wipes neither key schedules nor HMAC states; this covers the remains of
/// a KEK in frames that have returned.
#[inline(never)]
pub(crate) fn scrub_stack() {
    let mut pad = [0_u8; STACK_SCRUB_BYTES];
    pad.zeroize();
    std::hint::black_box(&mut pad);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_nothing_of_the_secret() {
        let secret = SecretKey::take(&mut [0xa7; 32]);
        let printed = format!("{secret:?}");
        assert_eq!(printed, "SecretKey(redacted)");
    }

    #[test]
    fn taking_wipes_the_source() {
        let mut source = [0xa7; 32];
        let secret = SecretKey::take(&mut source);
        assert_eq!(source, [0; 32]);
        assert_eq!(secret.expose(), &[0xa7; 32]);
    }

    #[test]
    fn generated_secrets_differ() {
        let random = SystemRandom::new();
        let first = SecretKey::generate(&random).unwrap();
        let second = SecretKey::generate(&random).unwrap();
        assert!(!first.is_same(&second));
        assert!(first.is_same(&first));
    }
}
