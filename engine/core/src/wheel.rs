//! A hierarchical timing wheel (Varghese and Lauck 1987): 1 ms ticks, seven levels of 64 slots.
//!
//! A tick costs in proportion to what is due, not to what is armed: occupancy bitmaps find the
//! next slot without looking at empty ones, and a timer moves down at most six times in its life.
//! Cancelling takes the timer out at once; a [`TimerId`] carries a generation, so that cancelling
//! what already fired does nothing.

use crate::list::{Link, Linked, List};
use crate::slots::Slab;
use crate::time::{Instant, TICK_US};
use alloc::vec::Vec;

const LEVELS: usize = 7;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 2^42 ms, 139 years after the origin: timers beyond it fire then.
const TICK_MAX: u64 = (1 << (SLOT_BITS * LEVELS as u32)) - 1;
const IN_WHEEL: u8 = 0;

/// A timer that was armed. It may have fired since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerId {
    node: u32,
    generation: u32,
}

impl TimerId {
    /// Names no timer.
    pub(crate) const UNSET: Self = Self {
        node: u32::MAX,
        generation: 0,
    };
}

#[derive(Debug)]
pub(crate) struct Wheel<T> {
    nodes: Slab<Node<T>>,
    /// `LEVELS * SLOTS` lists, level by level.
    slots: Vec<List<IN_WHEEL>>,
    /// One bit for each slot that has timers.
    occupied: [u64; LEVELS],
    /// Timers whose tick has come, in the order of firing.
    due: List<IN_WHEEL>,
    /// Every timer of this tick and before is in `due` or gone.
    tick: u64,
}

#[derive(Debug)]
struct Node<T> {
    item: T,
    tick: u64,
    place: Place,
    link: Link,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    Slot { level: u8, slot: u8 },
    Due,
}

impl<T> Linked<IN_WHEEL> for Node<T> {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
    fn next(&self) -> u32 {
        self.link.next()
    }
}

impl<T: Copy> Wheel<T> {
    pub(crate) fn new() -> Self {
        let mut slots = Vec::with_capacity(LEVELS * SLOTS);
        slots.resize_with(LEVELS * SLOTS, List::default);
        Self {
            nodes: Slab::new(),
            slots,
            occupied: [0; LEVELS],
            due: List::default(),
            tick: 0,
        }
    }

    /// How many timers are armed.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Arms a timer. It fires at the first tick at or after `at`, but not in the tick that is
    /// being worked on: a handler that arms a timer in the past cannot keep the loop going.
    pub(crate) fn arm(&mut self, at: Instant, item: T) -> TimerId {
        let tick = at
            .as_micros()
            .div_ceil(TICK_US)
            .clamp(self.tick + 1, TICK_MAX);
        let node = self.nodes.insert(Node {
            item,
            tick,
            place: Place::Due,
            link: Link::LOOSE,
        });
        self.place(node);
        TimerId {
            node,
            generation: self.nodes.generation(node),
        }
    }

    /// Takes a timer out. Without effect on one that has fired.
    pub(crate) fn cancel(&mut self, id: TimerId) {
        if self.is_armed(id) {
            self.take_out(id.node);
            self.nodes.remove(id.node);
        }
    }

    pub(crate) fn is_armed(&self, id: TimerId) -> bool {
        self.nodes.get(id.node).is_some() && self.nodes.generation(id.node) == id.generation
    }

    /// Brings the wheel to `now`: from here on [`Wheel::pop`] hands out what is due by then.
    pub(crate) fn advance(&mut self, now: Instant) {
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

    /// The next timer that is due.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let node = self.due.pop_front(&mut self.nodes)?;
        Some(self.nodes.remove(node).item)
    }

    /// The occupied slot that comes first, and the tick at which it begins. Within a level, all
    /// timers are ahead of the level's present slot and share the higher digits of `tick`: so the
    /// lowest occupied level has the first slot.
    fn first_occupied(&self) -> Option<(usize, usize, u64)> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let shift = SLOT_BITS * level as u32;
        let above = self.tick >> (shift + SLOT_BITS) << (shift + SLOT_BITS);
        Some((level, slot as usize, above | u64::from(slot) << shift))
    }

    /// Moves the timers of a slot that begins at the present tick to where they belong now.
    fn empty(&mut self, level: usize, slot: usize) {
        self.occupied[level] &= !(1 << slot);
        let mut list = core::mem::take(&mut self.slots[level * SLOTS + slot]);
        while let Some(node) = list.pop_front(&mut self.nodes) {
            self.place(node);
        }
    }

    fn place(&mut self, node: u32) {
        let tick = self.nodes[node].tick;
        if tick <= self.tick {
            self.nodes[node].place = Place::Due;
            self.due.push_back(&mut self.nodes, node);
            return;
        }
        // The highest digit in which the two differ names the level.
        let level = (63 - (tick ^ self.tick).leading_zeros()) / SLOT_BITS;
        let slot = (tick >> (SLOT_BITS * level)) as usize % SLOTS;
        self.nodes[node].place = Place::Slot {
            level: level as u8,
            slot: slot as u8,
        };
        self.slots[level as usize * SLOTS + slot].push_back(&mut self.nodes, node);
        self.occupied[level as usize] |= 1 << slot;
    }

    fn take_out(&mut self, node: u32) {
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
