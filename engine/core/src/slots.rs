//! Numbered, reusable slots: how everything in a shard refers to everything else.
//!
//! ```text
//! At<T>       which slot. An At<Flight> cannot index waiters: the compiler says no.
//! Handle<T>   which slot, and which use of it: for a slot that may have been used again since.
//! Slots<T>    values that come and go.         slots[at], slots.get(handle)
//! Table<T>    values that come and stay.       table[at]
//! ```

use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::ops::{Index, IndexMut};

/// The slot of a `T`. It does not show whether the slot is in use: its owner drops it together with the value, or stores
/// a [`Handle`].
pub struct At<T> {
    /// The number plus 1, so that an `Option` of it takes no extra space.
    number_plus_1: NonZeroU32,
    of: PhantomData<fn() -> T>,
}

/// A slot of a `T`, and how often it had been used when this was created: finds the value while it is there, and never a
/// later one in the same slot.
pub struct Handle<T> {
    at: At<T>,
    generation: u32,
}

/// Values under small numbers. Freed numbers are reused, the latest first, so that the order of numbers depends on the
/// history only. Each reuse has a new generation; generations repeat after 2^32 reuses of one slot.
///
/// `M` is the type that an [`At`] names, if it differs from the type of the values.
#[derive(Debug)]
pub struct Slots<T, M = T> {
    slots: Vec<Slot<T>>,
    free: Option<At<M>>,
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
    /// The number of the next free slot plus 1; 0 if there is none.
    Free {
        next_plus_1: u32,
    },
}

/// Values that are added and never removed.
#[derive(Debug)]
pub struct Table<T> {
    values: Vec<T>,
}

impl<T> At<T> {
    /// Creates the slot of a valid number: below 2^32 - 1.
    #[inline]
    fn numbered(number: usize) -> Self {
        Self {
            number_plus_1: NonZeroU32::MIN.saturating_add(number as u32),
            of: PhantomData,
        }
    }

    /// Returns the place after the last of `count`.
    ///
    /// # Panics
    /// There are 2^32 - 1 places already.
    fn after(count: usize) -> Self {
        assert!(count < u32::MAX as usize, "limits keep slots below 2^32");
        Self::numbered(count)
    }

    #[inline]
    fn number(self) -> usize {
        self.number_plus_1.get().wrapping_sub(1) as usize
    }
}

impl<T> Handle<T> {
    /// Returns the slot, whatever it contains now.
    #[must_use]
    pub fn at(self) -> At<T> {
        self.at
    }

    /// Returns the handle as one number, never 0.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.at.number_plus_1.get())
    }

    /// Parses the number returned by [`Handle::to_bits`]. Returns `None` if it cannot be one.
    #[must_use]
    pub fn from_bits(bits: u64) -> Option<Self> {
        Some(Self {
            at: At {
                number_plus_1: NonZeroU32::new(bits as u32)?,
                of: PhantomData,
            },
            generation: (bits >> 32) as u32,
        })
    }
}

impl<T, M> Default for Slots<T, M> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T, M> Slots<T, M> {
    /// Creates an empty set of slots.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: None,
            len: 0,
        }
    }

    /// Returns the number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if there is no value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of slots that were ever used: their numbers are `0..high_water()`.
    #[must_use]
    pub fn high_water(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Stores a value in a free slot.
    ///
    /// # Panics
    /// There are 2^32 - 1 values already.
    pub fn insert(&mut self, value: T) -> At<M> {
        self.len += 1;
        let Some(at) = self.free else {
            let at = At::after(self.slots.len());
            self.slots.push(Slot {
                generation: 0,
                body: Body::Used(value),
            });
            return at;
        };
        let slot = &mut self.slots[at.number()];
        let Body::Free { next_plus_1 } = slot.body else {
            unreachable!("the free list names free slots only");
        };
        self.free = NonZeroU32::new(next_plus_1).map(|number_plus_1| At {
            number_plus_1,
            of: PhantomData,
        });
        slot.body = Body::Used(value);
        at
    }

    /// Returns the handle of the value that is inserted next.
    #[must_use]
    pub fn vacant(&self) -> Handle<M> {
        match self.free {
            Some(at) => self.handle(at),
            None => Handle {
                at: At::after(self.slots.len()),
                generation: 0,
            },
        }
    }

    /// Removes the value of a slot that is in use.
    ///
    /// # Panics
    /// It is not.
    pub fn remove(&mut self, at: At<M>) -> T {
        let slot = &mut self.slots[at.number()];
        let next_plus_1 = self.free.map_or(0, |free| free.number_plus_1.get());
        let body = core::mem::replace(&mut slot.body, Body::Free { next_plus_1 });
        let Body::Used(value) = body else {
            unreachable!("a slot is freed once");
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free = Some(at);
        self.len -= 1;
        value
    }

    /// Returns the handle of the current value of a slot.
    #[must_use]
    pub fn handle(&self, at: At<M>) -> Handle<M> {
        Handle {
            at,
            generation: self.slots[at.number()].generation,
        }
    }

    /// Returns the slot that a handle names, if its value is still there.
    #[must_use]
    pub fn find(&self, handle: Handle<M>) -> Option<At<M>> {
        let slot = self.slots.get(handle.at.number())?;
        let is_there = slot.generation == handle.generation && matches!(slot.body, Body::Used(_));
        is_there.then_some(handle.at)
    }

    /// Returns the value that a handle names, if it is still there.
    #[must_use]
    pub fn get(&self, handle: Handle<M>) -> Option<&T> {
        let at = self.find(handle)?;
        Some(&self[at])
    }

    /// Returns the value that a handle names for modification, if it is still there.
    #[must_use]
    pub fn get_mut(&mut self, handle: Handle<M>) -> Option<&mut T> {
        let at = self.find(handle)?;
        Some(&mut self[at])
    }

    /// Removes the value that a handle names, if it is still there.
    pub fn take(&mut self, handle: Handle<M>) -> Option<T> {
        let at = self.find(handle)?;
        Some(self.remove(at))
    }

    /// Returns the value of a slot, if the slot is in use.
    #[must_use]
    pub fn used(&self, at: At<M>) -> Option<&T> {
        match &self.slots.get(at.number())?.body {
            Body::Used(value) => Some(value),
            Body::Free { .. } => None,
        }
    }

    /// Returns the slot of a number, with its value, if it is in use: for iterations that stop and continue.
    #[must_use]
    pub fn nth(&self, number: u32) -> Option<(At<M>, &T)> {
        match &self.slots.get(number as usize)?.body {
            Body::Used(value) => Some((At::numbered(number as usize), value)),
            Body::Free { .. } => None,
        }
    }

    /// Iterates over all values with their slots, in the order of the slots' numbers.
    pub fn iter(&self) -> impl Iterator<Item = (At<M>, &T)> {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(number, slot)| match &slot.body {
            Body::Used(value) => Some((At::numbered(number), value)),
            Body::Free { .. } => None,
        })
    }
}

impl<T, M> Index<At<M>> for Slots<T, M> {
    type Output = T;

    #[inline]
    fn index(&self, at: At<M>) -> &T {
        match &self.slots[at.number()].body {
            Body::Used(value) => value,
            Body::Free { .. } => unreachable!("links name used slots only"),
        }
    }
}

impl<T, M> IndexMut<At<M>> for Slots<T, M> {
    #[inline]
    fn index_mut(&mut self, at: At<M>) -> &mut T {
        match &mut self.slots[at.number()].body {
            Body::Used(value) => value,
            Body::Free { .. } => unreachable!("links name used slots only"),
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    /// Creates an empty table.
    #[must_use]
    pub const fn new() -> Self {
        Self { values: Vec::new() }
    }

    /// Returns the number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Returns `true` if there is no value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds a value.
    ///
    /// # Panics
    /// There are 2^32 - 1 values already.
    pub fn push(&mut self, value: T) -> At<T> {
        let at = At::after(self.values.len());
        self.values.push(value);
        at
    }

    /// Iterates over the places of all current values. Does not borrow the table.
    pub fn places(&self) -> impl Iterator<Item = At<T>> + use<T> {
        (0..self.values.len()).map(At::numbered)
    }

    /// Iterates over all values with their places.
    pub fn iter(&self) -> impl Iterator<Item = (At<T>, &T)> {
        let numbered = self.values.iter().enumerate();
        numbered.map(|(number, value)| (At::numbered(number), value))
    }
}

impl<T> Index<At<T>> for Table<T> {
    type Output = T;

    #[inline]
    fn index(&self, at: At<T>) -> &T {
        &self.values[at.number()]
    }
}

impl<T> IndexMut<At<T>> for Table<T> {
    #[inline]
    fn index_mut(&mut self, at: At<T>) -> &mut T {
        &mut self.values[at.number()]
    }
}

// Implemented by hand: derives would require the same of `T`, of which no value is stored here.

impl<T> Clone for At<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for At<T> {}

impl<T> PartialEq for At<T> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.number_plus_1 == other.number_plus_1
    }
}

impl<T> Eq for At<T> {}

impl<T> PartialOrd for At<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for At<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number_plus_1.cmp(&other.number_plus_1)
    }
}

impl<T> Hash for At<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number_plus_1.hash(state);
    }
}

impl<T> fmt::Debug for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

impl<T> fmt::Display for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

impl<T> PartialEq for Handle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.to_bits() == other.to_bits()
    }
}

impl<T> Eq for Handle<T> {}

impl<T> PartialOrd for Handle<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Handle<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.generation).cmp(&(other.at, other.generation))
    }
}

impl<T> Hash for Handle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_bits().hash(state);
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.at, self.generation)
    }
}

#[cfg(test)]
mod tests;
