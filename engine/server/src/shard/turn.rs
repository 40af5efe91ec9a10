//! A turn: a bounded piece of work on the shard's thread, between two polls of I/O.
//!
//! A turn reads the clock when it begins and after each unit of work (a frame, a message of another shard, a request
//! whose wait is over). The reading after one unit is the next unit's `now`, so that every key that is handed out is
//! checked against a fresh reading, and a unit costs one.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use keyway_core::{Instant, TICK_US};

use super::Shard;
use crate::clock;
use crate::runtime::tasks;

/// A turn under way.
pub struct Turn {
    now: Cell<Instant>,
    /// No work was done since `now` was read.
    is_fresh: Cell<bool>,
    began_at: Instant,
    began: quanta::Instant,
}

impl Turn {
    fn begin() -> Turn {
        let now = clock::now();
        Turn {
            now: Cell::new(now),
            is_fresh: Cell::new(true),
            began_at: now,
            began: quanta::Instant::now(),
        }
    }

    /// Returns the last reading of the clock.
    pub fn now(&self) -> Instant {
        self.now.get()
    }

    /// Reads the clock, after some work.
    pub fn read_clock(&self) -> Instant {
        let now = clock::now();
        self.now.set(now);
        self.is_fresh.set(true);
        now
    }

    /// Begins the next unit of work. Returns the time: the reading after the last unit, if it made one.
    pub fn next_unit(&self) -> Instant {
        if self.is_fresh.replace(false) {
            self.now.get()
        } else {
            let now = clock::now();
            self.now.set(now);
            now
        }
    }

    /// Returns whether the turn has done its share of work: what is left has to wait for the next one.
    pub fn is_over(&self) -> bool {
        self.now.get().saturating_since(self.began_at) >= tasks::TURN_WORK_US_MAX
    }
}

impl Shard {
    /// Begins a turn. What the control thread has said comes first, so that a lock or a withdrawn right is not held up by
    /// anything that queues here; then the core's tick, if it is due.
    pub fn begin_turn(self: &Rc<Self>) -> Turn {
        let turn = Turn::begin();
        self.guarded(|| self.hear_control(&turn));
        if turn.now() >= self.tick_at.get() {
            self.tick_at.set(turn.now().plus_us(TICK_US));
            self.guarded(|| self.core.borrow_mut().handle_tick(turn.now()));
            self.guarded(|| self.acknowledge());
            self.guarded(|| self.end_overdue(&turn));
            turn.is_fresh.set(false);
        }
        turn
    }

    /// Acts on what the core wants, answers requests that a handler left unanswered, sends what is queued for other
    /// shards, and counts the turn. Returns how long the turn took, in microseconds.
    pub fn end_turn(self: &Rc<Self>, turn: Turn) -> u64 {
        self.guarded(|| self.pump(&turn));
        self.serve_ready(&turn);
        self.answer_orphans();
        self.mesh.flush();
        let took_ns = turn.began.elapsed().as_nanos() as u64;
        self.figures.turn.borrow_mut().record_ns(took_ns);
        took_ns / 1_000
    }

    /// Runs `work`. A panic ends that work alone: it is counted and logged, and `None` is returned.
    pub fn guarded<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(work));
        if done.is_err() {
            self.figures.panics.set(self.figures.panics.get() + 1);
            match self.core.is_broken() {
                false => tracing::error!(shard = self.index, "a handler panicked; this is a bug"),
                true => tracing::error!(
                    shard = self.index,
                    "the core panicked: this shard answers nothing any more, and the server stops; this is a bug"
                ),
            }
        }
        done.ok()
    }
}
