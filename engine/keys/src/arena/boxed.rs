//! One value in an arena.

use super::slots::SLOT_ALIGN;
use super::{Arena, ArenaError, OwnedSlot, SLOT_BYTES_MAX};
use core::marker::PhantomData;
use core::{fmt, ops};

/// A value in an arena slot. On drop the value is dropped and then the whole slot is wiped, padding
/// included, which is what types need that do not wipe themselves. `Debug` prints the type only.
pub struct ArenaBox<T> {
    /// Holds an initialised `T` at its start.
    slot: OwnedSlot,
    value: PhantomData<T>,
}

impl<T> ArenaBox<T> {
    const FITS: () = assert!(
        align_of::<T>() <= SLOT_ALIGN && size_of::<T>() <= SLOT_BYTES_MAX,
        "the type needs a larger or more aligned slot than an arena has"
    );

    /// Puts what `build` returns into a slot. The slot is taken first: with a full arena nothing is
    /// built.
    ///
    /// Most values are built straight into the slot, but the language does not promise it: scrub
    /// the stack afterwards ([`scrub_stack`](crate::scrub_stack)).
    #[inline]
    pub fn try_build<E: From<ArenaError>>(
        arena: &Arena,
        build: impl FnOnce() -> Result<T, E>,
    ) -> Result<Self, E> {
        const { Self::FITS };
        let slot = arena.take(size_of::<T>())?;
        let value = build()?;
        // SAFETY: the slot is ours alone, at least `size_of::<T>()` bytes long, and aligned to
        // SLOT_ALIGN: the region starts at a page, spans and classes are multiples of SLOT_ALIGN.
        unsafe { slot.start.cast::<T>().write(value) };
        Ok(Self {
            slot,
            value: PhantomData,
        })
    }

    /// Bytes of arena memory that this value holds on to.
    pub fn slot_bytes(&self) -> usize {
        self.slot.len()
    }
}

impl<T> ops::Deref for ArenaBox<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: an initialised `T` lies there until drop; the borrow of `self` rules out writers.
        unsafe { self.slot.start.cast::<T>().as_ref() }
    }
}

impl<T> Drop for ArenaBox<T> {
    fn drop(&mut self) {
        // SAFETY: the value is initialised and dropped here, once; `slot` wipes its bytes next.
        unsafe { self.slot.start.cast::<T>().drop_in_place() };
    }
}

impl<T> fmt::Debug for ArenaBox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArenaBox<{}>", core::any::type_name::<T>())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::small;
    use super::*;
    use crate::testing::contains;
    use std::cell::Cell;
    use std::rc::Rc;

    struct Secret {
        bytes: [u8; 40],
        drops: Rc<Cell<usize>>,
    }

    impl Drop for Secret {
        fn drop(&mut self) {
            self.drops.set(self.drops.get() + 1);
        }
    }

    fn build<T>(arena: &Arena, value: T) -> ArenaBox<T> {
        ArenaBox::try_build(arena, || Ok::<_, ArenaError>(value)).unwrap()
    }

    #[test]
    fn a_value_is_dropped_once_and_its_slot_wiped() {
        let arena = small();
        let drops = Rc::new(Cell::new(0));
        let bytes = [0x5a; 40];
        let secret = build(
            &arena,
            Secret {
                bytes,
                drops: Rc::clone(&drops),
            },
        );
        assert_eq!(secret.bytes, bytes);
        assert!(contains(&arena.snapshot(), &bytes));
        assert_eq!(drops.get(), 0);
        drop(secret);
        assert_eq!(drops.get(), 1);
        assert!(arena.snapshot().iter().all(|b| *b == 0));
    }

    #[test]
    fn a_failed_build_gives_the_slot_back() {
        let arena = small();
        let failed = ArenaBox::<u64>::try_build(&arena, || Err(ArenaError::TooLarge { asked: 0 }));
        assert!(failed.is_err());
        assert_eq!(arena.usage().used_bytes, 0);
    }

    #[test]
    fn every_class_keeps_the_strictest_alignment() {
        #[repr(align(32))]
        struct Aligned<const LEN: usize>([u8; LEN]);
        fn check<const LEN: usize>(arena: &Arena) {
            let boxes: Vec<_> = (0..5).map(|_| build(arena, Aligned([1; LEN]))).collect();
            for one in &boxes {
                let address = std::ptr::from_ref::<Aligned<LEN>>(one) as usize;
                assert!(address.is_multiple_of(32));
                assert!(one.0.iter().all(|b| *b == 1));
            }
        }
        check::<32>(&small());
        check::<96>(&small());
        check::<160>(&small());
        check::<320>(&small());
        check::<1500>(&small());
        check::<6000>(&small());
    }

    #[test]
    fn debug_shows_the_type_only() {
        let text = format!("{:?}", build(&small(), 0x5a5a_5a5a_u32));
        assert_eq!(text, "ArenaBox<u32>");
    }
}
