//! The clock of one shard's thread. Every reading and every operation takes time, so that what happens within a turn
//! happens at different times.

use crate::dice::Dice;
use std::cell::{Cell, RefCell};

/// A reading takes up to this, µs.
const READING_US_MAX: u64 = 2;
const FAST_US: (u64, u64) = (1, 120);
const SLOW_US: (u64, u64) = (200, 5_000);
/// How long the processor may be taken away, µs.
const LOST_US: u64 = 300_000;
/// How long the machine may sleep, µs.
const SLEPT_US: u64 = 7_000_000;

/// One thread's clock, which counts on while the machine sleeps.
#[derive(Debug)]
pub(super) struct Clock {
    now: Cell<u64>,
    dice: RefCell<Dice>,
    /// One in this number of operations loses the processor; 0: none.
    lost_one_in: Cell<u64>,
    turn: Cell<Turn>,
}

/// What a turn has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// Time that operations took, µs.
    pub(super) worked_us: u64,
    pub(super) slow: u32,
}

impl Clock {
    pub(super) fn new(now: u64, dice: Dice, lost_one_in: u64) -> Self {
        Self {
            now: Cell::new(now),
            dice: RefCell::new(dice),
            lost_one_in: Cell::new(lost_one_in),
            turn: Cell::default(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The world's time, which this clock does not go behind.
    pub(super) fn set(&self, now: u64) {
        self.now.set(now.max(self.now.get()));
    }

    /// From now on no processor is lost.
    pub(super) fn calm_down(&self) {
        self.lost_one_in.set(0);
    }

    pub(super) fn begin_turn(&self) {
        self.turn.set(Turn::default());
    }

    /// Reads the clock.
    pub(super) fn read(&self) -> u64 {
        let us = self.dice.borrow_mut().below(READING_US_MAX + 1);
        self.now.set(self.now.get() + us);
        self.now.get()
    }

    /// An operation. Returns what the turn had done before it.
    pub(super) fn work(&self, is_slow: bool) -> Turn {
        let mut dice = self.dice.borrow_mut();
        let (least, most) = if is_slow { SLOW_US } else { FAST_US };
        let mut us = dice.range(least, most);
        let lost_one_in = self.lost_one_in.get();
        if lost_one_in > 0 && dice.one_in(lost_one_in) {
            us += if dice.one_in(10) { SLEPT_US } else { LOST_US };
        }
        let before = self.turn.get();
        self.now.set(self.now.get() + us);
        self.turn.set(Turn {
            worked_us: before.worked_us + us,
            slow: before.slow + u32::from(is_slow),
        });
        before
    }
}
