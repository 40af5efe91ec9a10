//! The short version of `make fuzz`: the committed corpus, and mutations of it.

use keyway_fuzz::{Check, TARGETS};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

/// Mutations of each file of the corpus.
const MUTATIONS: u64 = 60;
/// What decoding may hold at a time, as a multiple of a frame's limit: a client's buffer is two, and
/// a stream that is decoded twice holds its frames.
const FRAMES_HELD_MAX: usize = 8;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static HELD_MAX: Cell<usize> = const { Cell::new(0) };
}

/// Counts what this thread holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(more: usize, less: usize) {
    // A thread that is going away counts no more.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(more).saturating_sub(less));
        let _ = HELD_MAX.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every call is the system allocator's own, with the arguments as they came; counting
// touches thread-local cells only, and does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("libfuzzer/corpus")
        .join(target);
    let listing = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = listing.map(|file| file.expect("readable").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has an empty corpus");
    files
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// Changes a byte, cuts, repeats or inserts, a few times.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        match dice.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, dice.below(256) as u8),
            2 => bytes.extend_from_within(at..),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << dice.below(8);
                }
            }
        }
        bytes.truncate(1 << 14);
    }
}

/// Tells which input broke the property.
struct Input<'a> {
    path: &'a Path,
    mutation: u64,
}

impl Drop for Input<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "the input was mutation {} of {}",
                self.mutation,
                self.path.display()
            );
        }
    }
}

fn run(target: &str, check: Check) {
    for path in corpus(target) {
        let whole = std::fs::read(&path).expect("readable");
        for mutation in 0..=MUTATIONS {
            let _input = Input {
                path: &path,
                mutation,
            };
            let mut bytes = whole.clone();
            if mutation > 0 {
                mutate(
                    &mut bytes,
                    &mut Dice(mutation.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                );
            }
            check(&bytes);
        }
    }
}

#[test]
fn the_corpus_and_its_mutations_keep_every_property() {
    for (target, check) in TARGETS {
        run(target, check);
    }
}

#[test]
fn decoding_holds_a_few_frames_at_most() {
    let most = FRAMES_HELD_MAX * keyway_protocol::limits::FRAME_LEN_MAX;
    for (target, check) in TARGETS {
        if ["envelope", "recovery"].contains(&target) {
            continue;
        }
        for path in corpus(target) {
            let bytes = std::fs::read(&path).expect("readable");
            let before = HELD.with(Cell::get);
            HELD_MAX.with(|held| held.set(before));
            check(&bytes);
            let held = HELD_MAX.with(Cell::get) - before;
            assert!(
                held <= most,
                "{target}: {} holds {held} bytes",
                path.display()
            );
        }
    }
}
