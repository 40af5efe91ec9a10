//! Overwriting memory in a way that the optimiser may not leave out.

use core::mem::MaybeUninit;

/// How much stack below its caller [`scrub_stack`] overwrites, in bytes.
///
/// The deepest secret that the providers leave behind is ring's window table of an RSA private
/// operation (32 entries of up to 256 bytes, plus the frames around it).
pub const STACK_SCRUB_BYTES: usize = 32 * 1024;

/// How much stack the cheaper scrub after a MAC or an AEAD operation overwrites, in bytes.
///
/// Hash and cipher contexts are a few hundred bytes each, a handful of them in nested frames.
const STACK_SCRUB_SHALLOW_BYTES: usize = 4 * 1024;

const _: () = assert!(STACK_SCRUB_SHALLOW_BYTES < STACK_SCRUB_BYTES);

/// Overwrites the stack below the caller's frame with zeros, [`STACK_SCRUB_BYTES`] of it.
///
/// Call it from a frame that stays (not from the one that held the secret) after a key was
/// loaded or used. Costs about half a microsecond.
#[inline(never)]
pub fn scrub_stack() {
    scrub_below::<STACK_SCRUB_BYTES>();
}

/// [`scrub_stack`] for operations with shallow frames.
#[inline(never)]
pub(crate) fn scrub_stack_shallow() {
    scrub_below::<STACK_SCRUB_SHALLOW_BYTES>();
}

#[inline(always)]
fn scrub_below<const LEN: usize>() {
    let mut area = MaybeUninit::<[u8; LEN]>::uninit();
    // SAFETY: `area` is LEN writable bytes of this very frame.
    unsafe { wipe_raw(area.as_mut_ptr().cast(), LEN) };
}

/// Overwrites `bytes` with zeros.
#[inline]
pub fn wipe(bytes: &mut [u8]) {
    // SAFETY: an exclusive slice is writable for its whole length.
    unsafe { wipe_raw(bytes.as_mut_ptr(), bytes.len()) };
}

/// Overwrites `len` bytes at `at` with zeros, whatever they held.
///
/// # Safety
/// `at` must be valid for writes of `len` bytes.
#[inline]
pub(crate) unsafe fn wipe_raw(at: *mut u8, len: usize) {
    // SAFETY: the caller promises that the range is writable.
    unsafe { at.write_bytes(0, len) };
    // An empty assembly block that takes the address and may read all memory: the compiler has to
    // have done the stores above, and they stay plain (vectorised) stores, unlike byte-wise
    // volatile ones.
    // SAFETY: the block is empty; it touches neither memory, stack nor flags.
    unsafe {
        core::arch::asm!("/* {0} */", in(reg) at, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn wiping_leaves_only_zeros() {
        let mut bytes = vec![0xa5_u8; 1000];
        wipe(black_box(&mut bytes[10..990]));
        assert!(bytes[10..990].iter().all(|b| *b == 0));
        assert!(bytes[..10].iter().chain(&bytes[990..]).all(|b| *b == 0xa5));
    }
}
