//! Bytes in an arena.

use super::{Arena, ArenaError, OwnedSlot};
use core::{fmt, ops};

/// A fixed number of bytes in an arena slot; the whole slot is wiped on drop. `Debug` prints the
/// length only.
pub struct ArenaBytes {
    slot: OwnedSlot,
    /// `len <= slot.len()`
    len: usize,
}

impl ArenaBytes {
    /// `len` zero bytes.
    pub fn zeroed(arena: &Arena, len: usize) -> Result<Self, ArenaError> {
        let slot = arena.take(len)?;
        assert!(len <= slot.len());
        Ok(Self { slot, len })
    }

    /// A copy of `bytes`.
    pub fn copied(arena: &Arena, bytes: &[u8]) -> Result<Self, ArenaError> {
        let mut copy = Self::zeroed(arena, bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// Keeps the first `len` bytes; does nothing if there are fewer. What lies behind stays in the
    /// slot until the slot is wiped.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of arena memory that this value holds on to.
    pub fn slot_bytes(&self) -> usize {
        self.slot.len()
    }
}

impl ops::Deref for ArenaBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot holds at least `len` initialised bytes, ours alone; the borrow of
        // `self` keeps the slot and rules out writers.
        unsafe { core::slice::from_raw_parts(self.slot.start.as_ptr(), self.len) }
    }
}

impl ops::DerefMut for ArenaBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.slot.start.as_ptr(), self.len) }
    }
}

impl fmt::Debug for ArenaBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaBytes({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ArenaOptions;
    use super::super::tests::small;
    use super::*;
    use crate::testing::contains;

    #[test]
    fn bytes_are_in_the_arena_while_live_and_wiped_after() {
        let arena = small();
        let secret = [0x5a; 77];
        let bytes = ArenaBytes::copied(&arena, &secret).unwrap();
        assert_eq!(&*bytes, &secret);
        assert!(contains(&arena.snapshot(), &secret));
        drop(bytes);
        assert!(arena.snapshot().iter().all(|b| *b == 0));
    }

    #[test]
    fn the_truncated_tail_is_wiped_with_the_rest() {
        let arena = small();
        let mut bytes = ArenaBytes::copied(&arena, &[0x5a; 300]).unwrap();
        bytes.truncate(3);
        assert_eq!(&*bytes, &[0x5a; 3]);
        drop(bytes);
        assert!(arena.snapshot().iter().all(|b| *b == 0));
    }

    #[test]
    fn neighbours_do_not_touch_each_other() {
        let arena = Arena::new(ArenaOptions {
            capacity_bytes: 1 << 18,
            lock: false,
        })
        .unwrap();
        let mut all: Vec<_> = (1..=60_u8)
            .map(|i| ArenaBytes::copied(&arena, &vec![i; usize::from(i)]).unwrap())
            .collect();
        for (i, bytes) in (1..=60_u8).zip(&mut all) {
            assert!(bytes.iter().all(|b| *b == i));
            bytes.fill(!i);
        }
        for (i, bytes) in (1..=60_u8).zip(&all) {
            assert!(bytes.iter().all(|b| *b == !i));
        }
    }

    #[test]
    fn debug_shows_no_contents() {
        let bytes = ArenaBytes::copied(&small(), &[0x5a; 5]).unwrap();
        assert_eq!(format!("{bytes:?}"), "ArenaBytes(5 bytes)");
    }
}
