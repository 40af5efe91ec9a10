//! A global allocator that wipes what it takes back.
//!
//! ring keeps RSA limbs and a few temporaries on the heap and does not wipe them; so do parsers.
//! With this allocator installed no freed heap block keeps its contents.

use crate::wipe::wipe_raw;
use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, wiping every block when it is freed, shrunk or moved.
///
/// ```
/// #[global_allocator]
/// static GLOBAL: keyway_keys::ZeroingAllocator = keyway_keys::ZeroingAllocator;
/// # fn main() {}
/// ```
///
/// Costs one `memset` per freed block. `realloc` always allocates, copies, wipes and frees unless
/// the block shrinks or keeps its size: the system's own `realloc` would leave the old copy behind.
#[derive(Debug, Default, Clone, Copy)]
pub struct ZeroingAllocator;

// SAFETY: every method hands the same pointer and layout on to `System`, which upholds the
// contract; what is written lies inside blocks that the caller gives up or has given up.
unsafe impl GlobalAlloc for ZeroingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises about `layout` are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is live until the next line, `layout.size()` bytes long, and the
        // caller may not look at it again.
        unsafe { wipe_raw(block, layout.size()) };
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, old: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `new_size`, rounded up to the alignment, does not
        // overflow, and that it is not zero.
        let new_layout = unsafe { Layout::from_size_align_unchecked(new_size, old.align()) };
        // SAFETY: `new_layout` has a size other than zero.
        let new_block = unsafe { self.alloc(new_layout) };
        if !new_block.is_null() {
            let kept = new_size.min(old.size());
            // SAFETY: both blocks are live, distinct and at least `kept` bytes long.
            unsafe { new_block.copy_from_nonoverlapping(block, kept) };
            // SAFETY: `block` came from `System` with layout `old`; it is given up here.
            unsafe { self.dealloc(block, old) };
        }
        new_block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::own_memory;

    const LEN: usize = 512;
    const LAYOUT: Layout = match Layout::from_size_align(LEN, 16) {
        Ok(layout) => layout,
        Err(_) => panic!("512 and 16 are a valid layout"),
    };

    /// The bytes 32.. of a block after `release` gave it up. glibc writes its own list pointers
    /// into the first 32 bytes of a freed block.
    fn left_behind(release: unsafe fn(*mut u8)) -> Vec<u8> {
        // SAFETY: a block of LAYOUT is allocated, filled, and released once. What it holds
        // afterwards is read through the kernel, not through the dangling pointer.
        unsafe {
            let block = System.alloc(LAYOUT);
            assert!(!block.is_null());
            block.write_bytes(0xa5, LEN);
            std::hint::black_box(block);
            release(block);
            own_memory(block as usize + 32, LEN - 32)
        }
    }

    #[test]
    fn without_wiping_a_freed_block_keeps_its_contents() {
        // SAFETY: called once with a block from `System` of that layout.
        let left = left_behind(|block| unsafe { System.dealloc(block, LAYOUT) });
        assert!(left.contains(&0xa5), "the check below would prove nothing");
    }

    #[test]
    fn freed_blocks_are_wiped() {
        // SAFETY: as above.
        let left = left_behind(|block| unsafe { ZeroingAllocator.dealloc(block, LAYOUT) });
        assert!(!left.contains(&0xa5));
    }

    #[test]
    fn moved_blocks_are_wiped_and_keep_their_contents() {
        for new_len in [LEN / 8, LEN - 1, LEN * 64] {
            // SAFETY: the block is reallocated once, read within its new size, and freed.
            unsafe {
                let block = ZeroingAllocator.alloc(LAYOUT);
                assert!(!block.is_null());
                block.write_bytes(0xa5, LEN);
                let moved = ZeroingAllocator.realloc(block, LAYOUT, new_len);
                assert!(!moved.is_null());
                let kept = std::slice::from_raw_parts(moved, new_len.min(LEN));
                assert!(kept.iter().all(|b| *b == 0xa5));
                assert!(!own_memory(block as usize + 32, LEN - 32).contains(&0xa5));
                let layout = Layout::from_size_align(new_len, 16).unwrap();
                ZeroingAllocator.dealloc(moved, layout);
            }
        }
    }
}
