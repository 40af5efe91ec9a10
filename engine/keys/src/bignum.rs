//! Whole numbers as long as RSA moduli, through AWS-LC: what an RSA key needs that came without
//! its CRT numbers.
//!
//! Used at imports only. The division is not in constant time: who could time one import could
//! learn little from it, and each key is imported once.

use core::ptr::{self, NonNull};

/// AWS-LC failed, or a divisor is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failed;

/// dP, dQ and qInv of an RSA key: `d mod (p - 1)`, `d mod (q - 1)` and `q^-1 mod p`, written
/// big-endian into slices that are as long as `p`, `q` and `p`. Fails unless `2 < q < p` and both
/// are odd. Should they be no primes, the results mean nothing, which the check of the whole key
/// finds.
pub(crate) fn crt([d, p, q]: [&[u8]; 3], [dp, dq, qinv]: [&mut [u8]; 3]) -> Result<(), Failed> {
    let is_odd = |digits: &[u8]| digits.last().is_some_and(|last| last % 2 == 1);
    if !is_odd(p) || !is_odd(q) || q == [1] || !is_less(q, p) {
        return Err(Failed);
    }
    let context = Context::new()?;
    let (d, p, q) = (Number::read(d)?, Number::read(p)?, Number::read(q)?);
    context.remainder(&d, &p.less(1)?)?.write(dp)?;
    context.remainder(&d, &q.less(1)?)?.write(dq)?;
    // Fermat: q^(p - 2) is the inverse of q.
    context.power(&q, &p.less(2)?, &p)?.write(qinv)
}

/// Whether a number is less than another; both big-endian without leading zeros.
pub(crate) fn is_less(a: &[u8], b: &[u8]) -> bool {
    (a.len(), a) < (b.len(), b)
}

/// A number on AWS-LC's heap, wiped when it is dropped.
struct Number(NonNull<aws_lc_sys::BIGNUM>);

impl Number {
    fn new() -> Result<Self, Failed> {
        // SAFETY: makes a number of its own; null is a failure.
        NonNull::new(unsafe { aws_lc_sys::BN_new() })
            .map(Self)
            .ok_or(Failed)
    }

    fn read(digits: &[u8]) -> Result<Self, Failed> {
        // SAFETY: reads the slice's own length; with a null target it makes a number of its own.
        let number =
            unsafe { aws_lc_sys::BN_bin2bn(digits.as_ptr(), digits.len(), ptr::null_mut()) };
        NonNull::new(number).map(Self).ok_or(Failed)
    }

    fn less(&self, by: u64) -> Result<Self, Failed> {
        // SAFETY: copies a live number; null is a failure.
        let copy = NonNull::new(unsafe { aws_lc_sys::BN_dup(self.0.as_ptr()) });
        let copy = Self(copy.ok_or(Failed)?);
        // SAFETY: changes a live number that is ours alone.
        check(unsafe { aws_lc_sys::BN_sub_word(copy.0.as_ptr(), by) })?;
        Ok(copy)
    }

    fn write(&self, out: &mut [u8]) -> Result<(), Failed> {
        // SAFETY: writes the slice's own length, or fails if the number is longer.
        check(unsafe { aws_lc_sys::BN_bn2bin_padded(out.as_mut_ptr(), out.len(), self.0.as_ptr()) })
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: the number is live and ours, and gone afterwards.
        unsafe { aws_lc_sys::BN_clear_free(self.0.as_ptr()) };
    }
}

/// Scratch numbers of AWS-LC, which wipes what it frees.
struct Context(NonNull<aws_lc_sys::BN_CTX>);

impl Context {
    fn new() -> Result<Self, Failed> {
        // SAFETY: makes a context of its own; null is a failure.
        NonNull::new(unsafe { aws_lc_sys::BN_CTX_new() })
            .map(Self)
            .ok_or(Failed)
    }

    fn remainder(&self, number: &Number, modulus: &Number) -> Result<Number, Failed> {
        let out = Number::new()?;
        // SAFETY: all are live; `out` is ours alone; no quotient is wanted. Fails for a modulus of
        // zero.
        check(unsafe {
            aws_lc_sys::BN_div(
                ptr::null_mut(),
                out.0.as_ptr(),
                number.0.as_ptr(),
                modulus.0.as_ptr(),
                self.0.as_ptr(),
            )
        })?;
        Ok(out)
    }

    /// `base^exponent mod modulus`, with `base < modulus`; fails for an even modulus.
    fn power(&self, base: &Number, exponent: &Number, modulus: &Number) -> Result<Number, Failed> {
        let out = Number::new()?;
        // SAFETY: all are live; `out` is ours alone; without a Montgomery context the call makes
        // one for itself.
        check(unsafe {
            aws_lc_sys::BN_mod_exp_mont_consttime(
                out.0.as_ptr(),
                base.0.as_ptr(),
                exponent.0.as_ptr(),
                modulus.0.as_ptr(),
                self.0.as_ptr(),
                ptr::null(),
            )
        })?;
        Ok(out)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is live and ours, and gone afterwards.
        unsafe { aws_lc_sys::BN_CTX_free(self.0.as_ptr()) };
    }
}

fn check(done: core::ffi::c_int) -> Result<(), Failed> {
    if done == 1 { Ok(()) } else { Err(Failed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_small_key_come_out() {
        // p = 61, q = 53, e = 17, d = 2753: the textbook's key.
        let (mut dp, mut dq, mut qinv) = ([0; 1], [0; 1], [0; 1]);
        let done = crt([&[0x0a, 0xc1], &[61], &[53]], [&mut dp, &mut dq, &mut qinv]);
        assert_eq!(done, Ok(()));
        assert_eq!((dp, dq, qinv), ([53], [49], [38]));
    }

    #[test]
    fn numbers_that_are_no_pair_of_primes_are_refused_or_do_no_harm() {
        let with = |p: &[u8], q: &[u8]| crt([&[7], p, q], [&mut [0; 1], &mut [0; 1], &mut [0; 1]]);
        for (p, q) in [(1, 1), (2, 1), (4, 2), (5, 1), (5, 4), (3, 5), (5, 5)] {
            assert_eq!(with(&[p], &[q]), Err(Failed), "{p} {q}");
        }
        assert_eq!(with(&[], &[]), Err(Failed));
        assert!(with(&[15], &[9]).is_ok());
    }
}
