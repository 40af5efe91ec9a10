//! Numbered slots that are used again: how everything in a shard refers to everything else.

use alloc::vec::Vec;
use core::ops::{Index, IndexMut};

/// "No slot", in links.
pub(crate) const NONE: u32 = u32::MAX;

/// Values under small numbers. Freed numbers are handed out again, the latest first, so that the
/// order of numbers depends on the history only. Each reuse has a new generation.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    body: Body<T>,
}

#[derive(Debug)]
enum Body<T> {
    Used(T),
    Free { next: u32 },
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: NONE,
            len: 0,
        }
    }

    /// How many values there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One past the highest number that was ever used.
    pub(crate) fn high_water(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free == NONE {
            let at = u32::try_from(self.slots.len()).expect("limits keep slabs below 2^32 slots");
            assert!(at != NONE, "limits keep slabs below 2^32 - 1 slots");
            self.slots.push(Slot {
                generation: 0,
                body: Body::Used(value),
            });
            return at;
        }
        let at = self.free;
        let slot = &mut self.slots[at as usize];
        let Body::Free { next } = slot.body else {
            unreachable!("the free list names free slots only");
        };
        self.free = next;
        slot.body = Body::Used(value);
        at
    }

    pub(crate) fn remove(&mut self, at: u32) -> T {
        let slot = &mut self.slots[at as usize];
        let body = core::mem::replace(&mut slot.body, Body::Free { next: self.free });
        let Body::Used(value) = body else {
            unreachable!("a slot is freed once");
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free = at;
        self.len -= 1;
        value
    }

    pub(crate) fn generation(&self, at: u32) -> u32 {
        self.slots[at as usize].generation
    }

    pub(crate) fn get(&self, at: u32) -> Option<&T> {
        match &self.slots.get(at as usize)?.body {
            Body::Used(value) => Some(value),
            Body::Free { .. } => None,
        }
    }

    /// All values with their numbers, in the order of the numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| match &slot.body {
                Body::Used(value) => Some((at as u32, value)),
                Body::Free { .. } => None,
            })
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, at: u32) -> &T {
        match &self.slots[at as usize].body {
            Body::Used(value) => value,
            Body::Free { .. } => unreachable!("links name used slots only"),
        }
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        match &mut self.slots[at as usize].body {
            Body::Used(value) => value,
            Body::Free { .. } => unreachable!("links name used slots only"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_numbers_come_back_with_a_new_generation() {
        let mut slab = Slab::new();
        let one = slab.insert('a');
        let two = slab.insert('b');
        let before = slab.generation(one);
        assert_eq!(slab.remove(one), 'a');
        assert_eq!(slab.get(one), None);
        assert_eq!(slab.insert('c'), one);
        assert_ne!(slab.generation(one), before);
        assert_eq!((slab[one], slab[two], slab.len()), ('c', 'b', 2));
    }

    #[test]
    fn values_come_in_the_order_of_their_numbers() {
        let mut slab = Slab::new();
        for value in 0..5 {
            slab.insert(value);
        }
        slab.remove(1);
        slab.remove(3);
        let left: alloc::vec::Vec<_> = slab.iter().map(|(at, value)| (at, *value)).collect();
        assert_eq!(left, [(0, 0), (2, 2), (4, 4)]);
        assert_eq!(slab.high_water(), 5);
    }
}
