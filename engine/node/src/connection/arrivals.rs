//! When the bytes of a connection arrived. A deadline counts from the arrival of its frame's last byte, however long the
//! frame waits for its turn, and whatever arrives after it.

use std::collections::VecDeque;

use keyway_core::Instant;

/// Reads whose times are kept apart. Beyond them, bytes count as having arrived with the newest read.
const MARKS_MAX: usize = 64;

/// What arrived up to a place in the buffer, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    end: usize,
    at: Instant,
}

/// Arrivals of what has not been taken. Nearly always one read brought all of it: that case looks at no list.
#[derive(Debug)]
pub(crate) struct Arrivals {
    newest: Mark,
    /// Those before it, oldest first.
    earlier: VecDeque<Mark>,
}

impl Default for Arrivals {
    fn default() -> Arrivals {
        let newest = Mark {
            end: 0,
            at: Instant::ZERO,
        };
        Arrivals {
            newest,
            earlier: VecDeque::new(),
        }
    }
}

impl Arrivals {
    /// Notes that bytes up to `end` have arrived, of which those up to `taken` are taken.
    pub fn note(&mut self, taken: usize, end: usize, at: Instant) {
        let is_full = self.earlier.len() + 1 >= MARKS_MAX;
        if self.newest.end > taken && self.newest.at != at && !is_full {
            self.earlier.push_back(self.newest);
        }
        self.newest = Mark { end, at };
    }

    /// Returns when the byte before `end` arrived.
    pub fn of(&self, end: usize) -> Instant {
        if self.earlier.is_empty() {
            return self.newest.at;
        }
        let mark = self.earlier.iter().find(|mark| mark.end >= end);
        mark.unwrap_or(&self.newest).at
    }

    /// Forgets what was taken.
    pub fn take(&mut self, taken: usize) {
        while self.earlier.front().is_some_and(|mark| mark.end <= taken) {
            self.earlier.pop_front();
        }
    }

    /// Takes `len` bytes out of the middle.
    pub fn cut(&mut self, from: usize, len: usize) {
        for mark in self.earlier.iter_mut().chain([&mut self.newest]) {
            if mark.end > from {
                mark.end = from.max(mark.end.saturating_sub(len));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    #[test]
    fn a_frame_arrived_with_its_last_byte_also_when_others_are_taken_before_it() {
        let mut arrivals = Arrivals::default();
        arrivals.note(0, 10, at(1));
        arrivals.note(0, 30, at(2));
        arrivals.note(0, 40, at(3));
        assert_eq!(
            [5, 10, 11, 30, 40].map(|end| arrivals.of(end)),
            [1, 1, 2, 2, 3].map(at)
        );
        // A frame of 15 bytes from 12 on.
        arrivals.cut(12, 15);
        assert_eq!(
            [10, 15, 16, 25].map(|end| arrivals.of(end)),
            [1, 2, 3, 3].map(at)
        );
        arrivals.take(15);
        arrivals.cut(0, 15);
        assert_eq!(arrivals.newest, Mark { end: 10, at: at(3) });
        assert!(arrivals.earlier.is_empty());
        // All of it is taken: what comes next is alone again.
        arrivals.note(10, 25, at(4));
        assert!(arrivals.earlier.is_empty());
        assert_eq!(arrivals.of(11), at(4));
    }

    #[test]
    fn no_more_reads_are_kept_apart_than_the_maximum() {
        let mut arrivals = Arrivals::default();
        for number in 1..=MARKS_MAX as u64 + 5 {
            arrivals.note(0, number as usize, at(number));
        }
        assert_eq!(arrivals.earlier.len() + 1, MARKS_MAX);
        assert_eq!(arrivals.of(1), at(1));
        assert_eq!(arrivals.of(MARKS_MAX + 5), at(MARKS_MAX as u64 + 5));
    }
}
