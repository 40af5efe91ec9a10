//! Which part of an arena is taken: plain book-keeping, no memory access.
//!
//! The region is cut into spans of [`SPAN_BYTES`]. A span in use belongs to one size class and is
//! cut into slots of that class; when its last slot is given back, it can serve any class again.
//! So a class that is no longer used does not hold on to memory.
//!
//! What is longer than a span takes a run of neighbouring free spans: only a key with very many
//! versions does.

/// Size of a span and of the largest slot of a class, in bytes.
pub(crate) const SPAN_BYTES: usize = 32 * 1024;

/// Most spans that one slot takes.
pub(crate) const RUN_SPANS_MAX: usize = 3;

/// Every slot's address is a multiple of this, in bytes.
pub(crate) const SLOT_ALIGN: usize = 32;

/// The slot sizes, in bytes, ascending.
pub(crate) const CLASS_BYTES: [usize; 18] = [
    64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384,
    32768,
];

const BITMAP_WORDS: usize = SPAN_BYTES / CLASS_BYTES[0] / 64;

const _: () = {
    assert!(CLASS_BYTES[CLASS_BYTES.len() - 1] == SPAN_BYTES);
    assert!(BITMAP_WORDS * 64 * CLASS_BYTES[0] == SPAN_BYTES);
    let mut i = 0;
    while i < CLASS_BYTES.len() {
        assert!(CLASS_BYTES[i].is_multiple_of(SLOT_ALIGN));
        assert!(i == 0 || CLASS_BYTES[i - 1] < CLASS_BYTES[i]);
        i += 1;
    }
};

/// A taken slot: `offset` bytes into the region, `len` bytes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// The book-keeping of one region.
#[derive(Debug)]
pub(crate) struct Slots {
    spans: Vec<Span>,
    spans_free: Vec<usize>,
    /// Per class, the spans that have at least one free slot.
    spans_open: [Vec<usize>; CLASS_BYTES.len()],
    bytes_taken: usize,
}

#[derive(Debug, Clone)]
struct Span {
    /// Index into `CLASS_BYTES`; meaningless while the span is free.
    class: usize,
    slots_taken: usize,
    /// Part of a slot longer than a span.
    is_run: bool,
    /// Bit i set: slot i is taken.
    taken: [u64; BITMAP_WORDS],
}

impl Slots {
    /// Book-keeping for `span_count` spans, all free.
    pub(crate) fn new(span_count: usize) -> Self {
        let free = Span {
            class: 0,
            slots_taken: 0,
            is_run: false,
            taken: [0; BITMAP_WORDS],
        };
        Self {
            spans: vec![free; span_count],
            spans_free: (0..span_count).rev().collect(),
            spans_open: Default::default(),
            bytes_taken: 0,
        }
    }

    /// Takes a slot of at least `len` bytes; `None` if `len` is above [`RUN_SPANS_MAX`] spans or
    /// nothing is free.
    pub(crate) fn take(&mut self, len: usize) -> Option<Slot> {
        if len > SPAN_BYTES {
            return self.take_run(len.div_ceil(SPAN_BYTES));
        }
        let class = CLASS_BYTES.iter().position(|bytes| *bytes >= len)?;
        let span_index = match self.spans_open[class].last() {
            Some(index) => *index,
            None => {
                let index = self.spans_free.pop()?;
                self.spans[index].class = class;
                self.spans_open[class].push(index);
                index
            }
        };
        let span = &mut self.spans[span_index];
        let slot_len = CLASS_BYTES[class];
        let index = span.first_free(slots_per_span(class));
        assert!(
            index < slots_per_span(class),
            "an open span has a free slot"
        );
        span.taken[index / 64] |= 1 << (index % 64);
        span.slots_taken += 1;
        if span.slots_taken == slots_per_span(class) {
            self.spans_open[class].pop();
        }
        self.bytes_taken += slot_len;
        Some(Slot {
            offset: span_index * SPAN_BYTES + index * slot_len,
            len: slot_len,
        })
    }

    /// Takes `count` neighbouring spans. Linear in the free spans, and rare.
    fn take_run(&mut self, count: usize) -> Option<Slot> {
        if count > RUN_SPANS_MAX {
            return None;
        }
        self.spans_free.sort_unstable_by(|a, b| b.cmp(a));
        let run = self
            .spans_free
            .windows(count)
            .position(|run| run[0] - run[count - 1] == count - 1)?;
        let first = self.spans_free[run + count - 1];
        self.spans_free.drain(run..run + count);
        for span in &mut self.spans[first..first + count] {
            span.slots_taken = 1;
            span.is_run = true;
        }
        let len = count * SPAN_BYTES;
        self.bytes_taken += len;
        Some(Slot {
            offset: first * SPAN_BYTES,
            len,
        })
    }

    fn give_back_run(&mut self, slot: Slot) {
        let first = slot.offset / SPAN_BYTES;
        let run = first..first + slot.len / SPAN_BYTES;
        assert!(
            self.spans[run.clone()].iter().all(|span| span.is_run),
            "a slot is given back once, by its owner"
        );
        for span in run {
            self.spans[span].slots_taken = 0;
            self.spans[span].is_run = false;
            self.spans_free.push(span);
        }
        self.bytes_taken -= slot.len;
    }

    /// Frees a slot that `take` returned. Panics if it is not taken: that would be two owners
    /// of one key's memory.
    pub(crate) fn give_back(&mut self, slot: Slot) {
        if slot.len > SPAN_BYTES {
            return self.give_back_run(slot);
        }
        let span_index = slot.offset / SPAN_BYTES;
        let span = &mut self.spans[span_index];
        let class = span.class;
        let index = slot.offset % SPAN_BYTES / slot.len;
        let bit = 1 << (index % 64);
        assert!(
            CLASS_BYTES[class] == slot.len && span.taken[index / 64] & bit != 0,
            "a slot is given back once, by its owner"
        );
        let was_full = span.slots_taken == slots_per_span(class);
        span.taken[index / 64] &= !bit;
        span.slots_taken -= 1;
        self.bytes_taken -= slot.len;
        let empty = span.slots_taken == 0;
        let open = &mut self.spans_open[class];
        if was_full && !empty {
            open.push(span_index);
        } else if empty {
            // Linear in the class's open spans, and only when a span empties.
            if let Some(at) = open.iter().position(|open| *open == span_index) {
                open.swap_remove(at);
            }
            self.spans_free.push(span_index);
        }
    }

    /// Bytes in taken slots, whole slots counted.
    pub(crate) fn bytes_taken(&self) -> usize {
        self.bytes_taken
    }

    /// Spans that any class can still claim.
    pub(crate) fn spans_free(&self) -> usize {
        self.spans_free.len()
    }
}

impl Span {
    /// Index of the first free slot; `slot_count` or more if there is none.
    fn first_free(&self, slot_count: usize) -> usize {
        for (word_index, word) in self.taken.iter().enumerate() {
            if *word != u64::MAX {
                return word_index * 64 + word.trailing_ones() as usize;
            }
        }
        slot_count
    }
}

fn slots_per_span(class: usize) -> usize {
    SPAN_BYTES / CLASS_BYTES[class]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_fitting_class_is_taken() {
        let mut slots = Slots::new(32);
        for (asked, given) in [(0, 64), (1, 64), (64, 64), (65, 96), (20_000, SPAN_BYTES)] {
            assert_eq!(slots.take(asked).map(|slot| slot.len), Some(given));
        }
        assert_eq!(slots.take(RUN_SPANS_MAX * SPAN_BYTES + 1), None);
    }

    #[test]
    fn a_long_slot_takes_neighbouring_spans_and_gives_them_back() {
        let mut slots = Slots::new(6);
        let first = slots.take(64).unwrap();
        let long = slots.take(2 * SPAN_BYTES + 1).unwrap();
        assert_eq!(long.len, 3 * SPAN_BYTES);
        assert_eq!(slots.spans_free(), 2);
        assert_eq!(slots.take(2 * SPAN_BYTES + 1), None);
        assert!(slots.take(2 * SPAN_BYTES).is_some());
        slots.give_back(first);
        assert_eq!(slots.take(SPAN_BYTES + 1), None, "no two are neighbours");
        slots.give_back(long);
        assert!(slots.take(3 * SPAN_BYTES).is_some());
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn giving_back_a_long_slot_twice_is_a_bug_that_shows() {
        let mut slots = Slots::new(3);
        let slot = slots.take(2 * SPAN_BYTES).unwrap();
        slots.give_back(slot);
        slots.give_back(slot);
    }

    #[test]
    fn a_full_region_refuses_and_serves_again_after_a_release() {
        let mut slots = Slots::new(1);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take(96)).collect();
        assert_eq!(taken.len(), SPAN_BYTES / 96);
        assert_eq!(
            slots.take(64),
            None,
            "the only span belongs to another class"
        );
        slots.give_back(taken[7]);
        assert_eq!(slots.take(90), Some(taken[7]));
    }

    #[test]
    fn an_emptied_span_serves_another_class() {
        let mut slots = Slots::new(1);
        let small = slots.take(64).unwrap();
        assert_eq!(slots.take(SPAN_BYTES), None);
        slots.give_back(small);
        assert!(slots.take(SPAN_BYTES).is_some());
    }

    #[test]
    #[should_panic(expected = "given back once")]
    fn giving_back_twice_is_a_bug_that_shows() {
        let mut slots = Slots::new(1);
        let slot = slots.take(64).unwrap();
        slots.give_back(slot);
        slots.give_back(slot);
    }

    proptest! {
        #[test]
        fn live_slots_never_overlap_and_all_memory_comes_back(
            steps in prop::collection::vec((0..100_000_usize, any::<u16>(), any::<bool>()), 0..400),
        ) {
            const SPANS: usize = 12;
            let mut slots = Slots::new(SPANS);
            let mut live: Vec<Slot> = Vec::new();
            for (len, pick, release) in steps {
                if release && !live.is_empty() {
                    let slot = live.swap_remove(usize::from(pick) % live.len());
                    slots.give_back(slot);
                } else if let Some(slot) = slots.take(len) {
                    prop_assert!(slot.len >= len);
                    prop_assert!(slot.offset % SLOT_ALIGN == 0);
                    prop_assert!(slot.offset + slot.len <= SPANS * SPAN_BYTES);
                    for other in &live {
                        prop_assert!(
                            slot.offset + slot.len <= other.offset
                                || other.offset + other.len <= slot.offset
                        );
                    }
                    live.push(slot);
                }
                let expected: usize = live.iter().map(|slot| slot.len).sum();
                prop_assert_eq!(slots.bytes_taken(), expected);
            }
            for slot in live.drain(..) {
                slots.give_back(slot);
            }
            prop_assert_eq!(slots.bytes_taken(), 0);
            prop_assert_eq!(slots.spans_free(), SPANS);
        }
    }
}
