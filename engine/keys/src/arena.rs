//! Locked memory for key bytes.
//!
//! ```text
//!  guard │ span 0            │ span 1            │ …            │ guard
//!  page  │ slots of a class  │ slots of a class  │ free span    │ page
//! ```
//!
//! One arena per shard. Every owner of a slot ([`ArenaBox`], [`ArenaBytes`]) wipes it before
//! giving it back, so a free slot holds zeros only. Clones share the memory through an `Rc`: an
//! arena and everything in it stay on the shard's thread.

mod boxed;
mod bytes;
mod error;
mod region;
mod slots;

pub use boxed::ArenaBox;
pub use bytes::ArenaBytes;
pub use error::ArenaError;

use crate::wipe::wipe_raw;
use region::Region;
use slots::{RUN_SPANS_MAX, SPAN_BYTES, Slot, Slots};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::rc::Rc;

/// The largest number of bytes that one slot holds.
pub const SLOT_BYTES_MAX: usize = RUN_SPANS_MAX * SPAN_BYTES;

/// Least capacity of an arena, in bytes.
const CAPACITY_BYTES_MIN: usize = 2 * SPAN_BYTES;
/// Greatest capacity of an arena, in bytes: far above any machine's lockable memory, and far from
/// where adding the guard pages would overflow.
const CAPACITY_BYTES_MAX: usize = 1 << 40;

/// How to make an [`Arena`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaOptions {
    /// Usable bytes, rounded up to whole spans of 32 KiB; 64 KiB to 1 TiB.
    pub capacity_bytes: usize,
    /// Lock the pages into memory, and refuse to work without. Off only where the operator
    /// accepts that keys may reach the swap device.
    pub lock: bool,
}

/// A shard's locked memory. Cloning is cheap and shares it.
#[derive(Debug, Clone)]
pub struct Arena {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    region: Region,
    slots: RefCell<Slots>,
}

/// How full an arena is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaUsage {
    /// Usable bytes in all.
    pub capacity_bytes: usize,
    /// Bytes in slots that are in use, whole slots counted.
    pub used_bytes: usize,
    /// Bytes in spans that belong to no size class now, and so can serve any.
    pub unclaimed_bytes: usize,
}

impl Arena {
    /// Maps and locks an arena.
    pub fn new(options: ArenaOptions) -> Result<Self, ArenaError> {
        let asked = options.capacity_bytes;
        if !(CAPACITY_BYTES_MIN..=CAPACITY_BYTES_MAX).contains(&asked) {
            return Err(ArenaError::Capacity { bytes: asked });
        }
        let span_count = asked.div_ceil(SPAN_BYTES);
        // Pages may be larger than a span on some machines.
        let len = (span_count * SPAN_BYTES).next_multiple_of(region::page_bytes());
        let region = Region::map(len, options.lock)?;
        Ok(Self {
            inner: Rc::new(Inner {
                region,
                slots: RefCell::new(Slots::new(span_count)),
            }),
        })
    }

    /// How full the arena is.
    pub fn usage(&self) -> ArenaUsage {
        let slots = self.inner.slots.borrow();
        ArenaUsage {
            capacity_bytes: self.inner.region.len(),
            used_bytes: slots.bytes_taken(),
            unclaimed_bytes: slots.spans_free() * SPAN_BYTES,
        }
    }

    fn take(&self, len: usize) -> Result<OwnedSlot, ArenaError> {
        if len > SLOT_BYTES_MAX {
            return Err(ArenaError::TooLarge { asked: len });
        }
        let taken = self.inner.slots.borrow_mut().take(len);
        let Some(slot) = taken else {
            let usage = self.usage();
            return Err(ArenaError::Full {
                asked: len,
                used: usage.used_bytes,
                capacity: usage.capacity_bytes,
            });
        };
        assert!(slot.offset + slot.len <= self.inner.region.len());
        // SAFETY: the slot lies inside the region, as just checked.
        let start = unsafe { self.inner.region.base().add(slot.offset) };
        Ok(OwnedSlot {
            arena: self.clone(),
            slot,
            start,
        })
    }

    /// All usable bytes, as the kernel sees them.
    #[cfg(test)]
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        let region = &self.inner.region;
        crate::testing::own_memory(region.base().as_ptr() as usize, region.len())
    }
}

/// A slot that belongs to its holder alone, wiped and given back on drop.
///
/// Invariants: `start` points at `slot.len` mapped, initialised bytes that no other slot overlaps,
/// for as long as this value lives (it keeps the region mapped); they were zeros when taken.
#[derive(Debug)]
struct OwnedSlot {
    arena: Arena,
    slot: Slot,
    start: NonNull<u8>,
}

impl OwnedSlot {
    fn len(&self) -> usize {
        self.slot.len
    }
}

impl Drop for OwnedSlot {
    fn drop(&mut self) {
        // SAFETY: by the invariant the range is writable and exclusively owned.
        unsafe { wipe_raw(self.start.as_ptr(), self.slot.len) };
        self.arena.inner.slots.borrow_mut().give_back(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn small() -> Arena {
        Arena::new(ArenaOptions {
            capacity_bytes: CAPACITY_BYTES_MIN,
            lock: true,
        })
        .unwrap()
    }

    #[test]
    fn capacities_out_of_range_are_refused_with_the_range() {
        for bytes in [0, CAPACITY_BYTES_MIN - 1, CAPACITY_BYTES_MAX + 1] {
            let refused = Arena::new(ArenaOptions {
                capacity_bytes: bytes,
                lock: false,
            });
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("64 KiB"), "{message}");
        }
    }

    #[test]
    fn an_arena_that_cannot_be_locked_names_the_limit_and_the_remedy() {
        const LIMIT: u64 = 4096;
        const NOBODY: libc::uid_t = 65534;
        const REFUSED_AS_IT_SHOULD: i32 = 42;
        // In a child, since a process cannot take back what it gives up here: the limit, and with
        // root's identity the privilege to ignore it.
        // SAFETY: the child runs on the only thread it has, and leaves through `_exit`; glibc
        // keeps its allocator usable in the child. The parent waits for that child alone.
        let status = unsafe {
            let child = libc::fork();
            assert!(child >= 0);
            if child == 0 {
                let limit = libc::rlimit {
                    rlim_cur: LIMIT,
                    rlim_max: LIMIT,
                };
                libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit);
                libc::seteuid(NOBODY);
                let refused = Arena::new(ArenaOptions {
                    capacity_bytes: CAPACITY_BYTES_MIN,
                    lock: true,
                });
                let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
                let good = message.contains("RLIMIT_MEMLOCK is 4096 bytes")
                    && message.contains("LimitMEMLOCK=");
                libc::_exit(if good { REFUSED_AS_IT_SHOULD } else { 1 });
            }
            let mut status = 0;
            assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
            status
        };
        assert!(libc::WIFEXITED(status));
        assert_eq!(libc::WEXITSTATUS(status), REFUSED_AS_IT_SHOULD);
    }

    #[test]
    fn a_full_arena_says_so_and_recovers() {
        let arena = small();
        let one = ArenaBytes::zeroed(&arena, SPAN_BYTES).unwrap();
        let _two = ArenaBytes::zeroed(&arena, SPAN_BYTES).unwrap();
        let refused = ArenaBytes::zeroed(&arena, 1).unwrap_err();
        assert!(matches!(refused, ArenaError::Full { asked: 1, .. }));
        drop(one);
        assert!(ArenaBytes::zeroed(&arena, 1).is_ok());
        assert!(matches!(
            ArenaBytes::zeroed(&arena, SLOT_BYTES_MAX + 1),
            Err(ArenaError::TooLarge { .. })
        ));
    }

    #[test]
    fn usage_counts_whole_slots_and_returns_to_zero() {
        let arena = small();
        let empty = arena.usage();
        assert_eq!(
            (empty.used_bytes, empty.unclaimed_bytes),
            (0, 2 * SPAN_BYTES)
        );
        let bytes = ArenaBytes::zeroed(&arena, 65).unwrap();
        assert_eq!(arena.usage().used_bytes, 96);
        drop(bytes);
        assert_eq!(arena.usage(), empty);
    }

    #[test]
    fn slots_outlive_the_arena_handle() {
        let arena = small();
        let mut bytes = ArenaBytes::zeroed(&arena, 100).unwrap();
        drop(arena);
        bytes.fill(7);
        assert!(bytes.iter().all(|b| *b == 7));
    }
}
