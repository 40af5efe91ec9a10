//! Counts what a piece of work allocates, so that a property can bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counting per thread. Installed in every program that has this crate in
/// it: the tests and the fuzz targets.
struct Counting;

#[global_allocator]
static GLOBAL: Counting = Counting;

thread_local! {
    static LIVE_BYTES: Cell<usize> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<usize> = const { Cell::new(0) };
}

fn add(bytes: usize) {
    // A block may be freed on another thread than the one that asked for it, so the count wraps;
    // differences within one thread's own work are still right.
    let live = LIVE_BYTES.get().wrapping_add(bytes);
    LIVE_BYTES.set(live);
    if (live.wrapping_sub(PEAK_BYTES.get()) as isize) > 0 {
        PEAK_BYTES.set(live);
    }
}

fn subtract(bytes: usize) {
    LIVE_BYTES.set(LIVE_BYTES.get().wrapping_sub(bytes));
}

// SAFETY: every call goes to `System` as it is; the counters have constant initial values and no
// destructors, so touching them does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        subtract(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // Both blocks are there while the bytes move.
        add(new_size);
        subtract(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

/// Does `work` and gives its result, with the most bytes that were allocated at one time beyond
/// those at its start. Only this thread's allocations and Rust's count.
pub fn peak_bytes<R>(work: impl FnOnce() -> R) -> (R, usize) {
    let outer_peak = PEAK_BYTES.get();
    let start = LIVE_BYTES.get();
    PEAK_BYTES.set(start);
    let result = work();
    let peak = PEAK_BYTES.get();
    if (outer_peak.wrapping_sub(peak) as isize) > 0 {
        PEAK_BYTES.set(outer_peak);
    }
    (result, peak.wrapping_sub(start))
}

/// Does `work` and gives its result.
///
/// # Panics
/// If more than `bytes_max` bytes were allocated at one time.
pub fn within<R>(bytes_max: usize, what: &str, work: impl FnOnce() -> R) -> R {
    let (result, peak) = peak_bytes(work);
    assert!(
        peak <= bytes_max,
        "{what} allocated {peak} bytes, and {bytes_max} is the most"
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_counts_what_was_freed_again_and_moved() {
        let (kept, peak) = peak_bytes(|| {
            drop(vec![1_u8; 5_000]);
            vec![2_u8; 1_000]
        });
        assert_eq!((kept.len(), peak), (1_000, 5_000));
        let ((), peak) = peak_bytes(|| {
            let mut grown = vec![0_u8; 1_000];
            grown.reserve_exact(2_000);
        });
        assert_eq!(peak, 4_000);
        let (_, peak) = peak_bytes(|| vec![0_u8; 300].into_boxed_slice());
        assert_eq!(peak, 300);
        assert_eq!(peak_bytes(|| 7), (7, 0));
    }

    #[test]
    fn an_inner_count_leaves_the_outer_one_right() {
        let ((), peak) = peak_bytes(|| {
            drop(vec![0_u8; 9_000]);
            within(100, "a small vector", || drop(vec![0_u8; 100]));
        });
        assert_eq!(peak, 9_000);
    }

    #[test]
    #[should_panic(expected = "a large vector allocated 101 bytes, and 100 is the most")]
    fn more_than_the_bound_panics() {
        within(100, "a large vector", || drop(vec![0_u8; 101]));
    }
}
