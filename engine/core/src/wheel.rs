//! A hierarchical timing wheel (Varghese and Lauck 1987): 1 ms ticks, seven levels of 64 slots.
//!
//! The cost of a tick is proportional to what is due, not to what is armed: occupancy bitmaps find the next slot without
//! visiting empty ones, and a timer moves down at most six times in its life. Cancelling removes the timer immediately; a
//! [`TimerId`] identifies one use of its slot, so cancelling a timer that has fired has no effect.

use crate::list::{Link, Linked, List};
use crate::slots::{At, Handle, Slots};
use crate::time::{Instant, TICK_US};
use alloc::vec::Vec;
use core::fmt;

const LEVELS: usize = 7;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 2^42 ms, 139 years after the origin: timers beyond it fire then.
const TICK_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
const IN_WHEEL: u8 = 0;

/// A timer that was armed in a [`Wheel`] of the same type. It may have fired since.
pub struct TimerId<T>(Handle<Node<T>>);

/// Timers, each with an item that is returned when it fires.
#[derive(Debug)]
pub struct Wheel<T> {
    nodes: Slots<Node<T>>,
    /// `LEVELS * SLOTS` lists, level by level.
    slots: Vec<List<Node<T>, IN_WHEEL>>,
    /// One bit for each slot that has timers.
    occupied: [u64; LEVELS],
    /// Timers whose tick has been reached, in the order of firing.
    due: List<Node<T>, IN_WHEEL>,
    /// Every timer of this tick and before is in `due` or gone.
    tick: u64,
}

#[derive(Debug)]
struct Node<T> {
    item: T,
    tick: u64,
    place: Place,
    link: Link<Self>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Slot { level: u8, slot: u8 },
    Due,
}

impl<T> Linked<IN_WHEEL> for Node<T> {
    type Slot = Self;

    fn link(&mut self) -> &mut Link<Self> {
        &mut self.link
    }
    fn next(&self) -> Option<At<Self>> {
        self.link.next()
    }
}

impl<T> Clone for TimerId<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for TimerId<T> {}

impl<T> fmt::Debug for TimerId<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timer {:?}", self.0)
    }
}

impl<T> Default for Wheel<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Wheel<T> {
    /// Creates a wheel without timers, at the origin of time.
    #[must_use]
    pub fn new() -> Self {
        let mut slots = Vec::with_capacity(LEVELS * SLOTS);
        slots.resize_with(LEVELS * SLOTS, List::default);
        Self {
            nodes: Slots::new(),
            slots,
            occupied: [0; LEVELS],
            due: List::default(),
            tick: 0,
        }
    }

    /// Returns the number of armed timers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Returns `true` if no timer is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Arms a timer. It fires at the first tick at or after `at`, but not in the tick that is being processed: a handler
    /// that arms a timer in the past cannot keep the loop going.
    pub fn arm(&mut self, at: Instant, item: T) -> TimerId<T> {
        let tick = at
            .as_micros()
            .div_ceil(TICK_US)
            .clamp(self.tick + 1, TICK_MAX);
        let node = self.nodes.insert(Node {
            item,
            tick,
            place: Place::Due,
            link: Link::UNLINKED,
        });
        self.place(node);
        TimerId(self.nodes.handle(node))
    }

    /// Removes a timer. Has no effect on one that has fired.
    pub fn cancel(&mut self, id: TimerId<T>) {
        if let Some(node) = self.nodes.find(id.0) {
            self.take_out(node);
            self.nodes.remove(node);
        }
    }

    /// Returns `true` if a timer has not fired, and was not cancelled.
    #[must_use]
    pub fn is_armed(&self, id: TimerId<T>) -> bool {
        self.nodes.find(id.0).is_some()
    }

    /// Advances the wheel to `now`: afterwards [`Wheel::pop`] returns what is due by then.
    pub fn advance(&mut self, now: Instant) {
        let target = (now.as_micros() / TICK_US).min(TICK_MAX - 1);
        while let Some((level, slot, starts)) = self.first_occupied() {
            if starts > target {
                break;
            }
            self.tick = starts;
            self.empty(level, slot);
        }
        self.tick = self.tick.max(target);
    }

    /// Returns the next timer that is due.
    pub fn pop(&mut self) -> Option<T> {
        let node = self.due.pop_front(&mut self.nodes)?;
        Some(self.nodes.remove(node).item)
    }

    /// Returns the first occupied slot, and the tick at which it begins. Within a level, all timers are ahead of the
    /// level's current slot and share the higher digits of `tick`, so the lowest occupied level has the first slot.
    fn first_occupied(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = SLOT_BITS * level as u32;
        let above = self.tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some((level, slot as usize, above | u64::from(slot) << shift))
    }

    /// Moves the timers of a slot that begins at the current tick to their present levels.
    fn empty(&mut self, level: usize, slot: usize) {
        self.occupied[level] &= !(1 << slot);
        let mut list = core::mem::take(&mut self.slots[level * SLOTS + slot]);
        while let Some(node) = list.pop_front(&mut self.nodes) {
            self.place(node);
        }
    }

    fn place(&mut self, node: At<Node<T>>) {
        let tick = self.nodes[node].tick;
        if tick <= self.tick {
            self.nodes[node].place = Place::Due;
            self.due.push_back(&mut self.nodes, node);
            return;
        }
        // The highest digit in which the two differ determines the level.
        let level = (63 - (tick ^ self.tick).leading_zeros()) / SLOT_BITS;
        let slot = (tick >> (SLOT_BITS * level)) as usize % SLOTS;
        self.nodes[node].place = Place::Slot {
            level: level as u8,
            slot: slot as u8,
        };
        self.slots[level as usize * SLOTS + slot].push_back(&mut self.nodes, node);
        self.occupied[level as usize] |= 1 << slot;
    }

    fn take_out(&mut self, node: At<Node<T>>) {
        match self.nodes[node].place {
            Place::Due => self.due.remove(&mut self.nodes, node),
            Place::Slot { level, slot } => {
                let list = &mut self.slots[usize::from(level) * SLOTS + usize::from(slot)];
                list.remove(&mut self.nodes, node);
                if list.is_empty() {
                    self.occupied[usize::from(level)] &= !(1 << slot);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
