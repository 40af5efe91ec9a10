//! The yardstick of S1: the library call that the server makes for SIGN, in a loop, with nothing
//! around it.

use std::time::{Duration, Instant};

use crate::cpu::thread_cpu_time;
use crate::error::Result;

const SEED_LEN: usize = 32;
const PUBLIC_KEY_LEN: usize = 32;
const PRIVATE_KEY_LEN: usize = 64;
const SIGNATURE_LEN: usize = 64;

/// Calls between two looks at the clock, so that the clock costs nothing.
const CALLS_PER_LOOK: u64 = 256;

/// CPU time in µs of one Ed25519 signature over `message`, by AWS-LC's `ED25519_sign`, measured on
/// the calling thread for about `duration`.
pub fn ed25519_sign_us(message: &[u8], duration: Duration) -> Result<f64> {
    let key = PrivateKey::from_seed(&[7; SEED_LEN]);
    let start = Instant::now();
    let cpu_start = thread_cpu_time();
    let mut calls = 0;
    while start.elapsed() < duration {
        for _ in 0..CALLS_PER_LOOK {
            std::hint::black_box(key.sign(std::hint::black_box(message))?);
        }
        calls += CALLS_PER_LOOK;
    }
    let cpu = thread_cpu_time().saturating_sub(cpu_start);
    Ok(cpu.as_secs_f64() * 1e6 / calls as f64)
}

/// A key for measuring: its seed is no secret.
struct PrivateKey([u8; PRIVATE_KEY_LEN]);

impl PrivateKey {
    fn from_seed(seed: &[u8; SEED_LEN]) -> Self {
        let mut public = [0; PUBLIC_KEY_LEN];
        let mut private = [0; PRIVATE_KEY_LEN];
        // SAFETY: the three pointers are to arrays of exactly the lengths that the function's
        // contract names (32, 64 and 32 bytes); it writes the first two and reads the third.
        unsafe {
            aws_lc_sys::ED25519_keypair_from_seed(
                public.as_mut_ptr(),
                private.as_mut_ptr(),
                seed.as_ptr(),
            );
        }
        Self(private)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN]> {
        let mut signature = [0; SIGNATURE_LEN];
        // SAFETY: `signature` has the 64 bytes that are written, `self.0` the 64 bytes that are
        // read, and the message is read for its own length.
        let done = unsafe {
            aws_lc_sys::ED25519_sign(
                signature.as_mut_ptr(),
                message.as_ptr(),
                message.len(),
                self.0.as_ptr(),
            )
        };
        if done == 1 {
            Ok(signature)
        } else {
            Err("ED25519_sign failed".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_rfc_8032_does() {
        // RFC 8032, section 7.1, test 1: the empty message.
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let signature = PrivateKey::from_seed(&seed).sign(b"").unwrap();
        assert_eq!(signature[..4], [0xe5, 0x56, 0x43, 0x00]);
        assert_eq!(signature[60..], [0x8e, 0x7a, 0x10, 0x0b]);
    }

    #[test]
    fn takes_some_time() {
        assert!(ed25519_sign_us(&[0; 32], Duration::from_millis(5)).unwrap() > 0.0);
    }
}
