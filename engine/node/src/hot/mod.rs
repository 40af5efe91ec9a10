//! Which keys are hot: by requests, by requests that waited, by the time that their loads took.
//!
//! ```text
//!  request ──▶ sampler ──▶ ┐
//!  wait ─────────────────▶ ├─ a sketch each, of this minute and of the last ──▶ share ──▶ control thread
//!  load ended ───────────▶ ┘
//! ```
//!
//! Each keyspace of a shard has a tally of its own, so that a busy keyspace does not hide another's keys. Minutes are
//! those of the clock, the same for all shards and keyspaces: what they tell is of the same time.

mod sampler;
mod space_saving;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use keyway_core::Instant;
use keyway_protocol::HotBy;
use keyway_protocol::limits::KEYSPACE_COUNT_MAX;

use sampler::Sampler;
pub use space_saving::{Estimate, SpaceSaving};

/// How long a window is, µs. Reports cover the current one and the previous one.
pub const WINDOW_US: u64 = 60_000_000;

/// Keys that a sketch holds, at most.
pub const PLACES_MAX: usize = 256;

/// Keys that a sketch holds, at least, however many keyspaces there are.
pub const PLACES_MIN: usize = 16;

/// Places that the sketches of one kind and window share, of all keyspaces, while they have more than the least.
pub const PLACES_OF_ALL_MAX: usize = 64 * PLACES_MAX;

// As many keyspaces as HELLO names have the least without going over the bound; a sketch takes room for keys it has seen.
const _: () = assert!(PLACES_MIN * KEYSPACE_COUNT_MAX <= PLACES_OF_ALL_MAX);

/// What is counted: one sketch for each order.
const MEASURES: usize = HotBy::ALL.len();

/// Estimates, at the place of each order's code.
pub type Figures = [Estimate; MEASURES];

/// Places of a sketch, among so many keyspaces: the memory of all of them together is bounded.
pub fn places_among(keyspaces: usize) -> usize {
    (PLACES_OF_ALL_MAX / keyspaces.max(1)).clamp(PLACES_MIN, PLACES_MAX)
}

/// A shard's part of the answer to KEYSPACE_HOT.
#[derive(Debug)]
pub struct HotShare {
    /// Which shard.
    pub shard: u16,
    /// Hottest first.
    pub keys: Vec<RankedKey>,
    /// The most that a key of this shard which is not among them can have.
    pub unlisted_max: u64,
    /// Of all keys, at the place of each order's code.
    pub totals: [u64; MEASURES],
    /// How long the windows have been, µs, at least 1.
    pub window_us: u64,
    /// One of how many requests was counted, at worst.
    pub requests_counted_one_in: u32,
}

/// A key and its estimates.
#[derive(Debug)]
pub struct RankedKey {
    /// Its id.
    pub key_id: Box<[u8]>,
    /// Its estimates.
    pub figures: Figures,
}

impl RankedKey {
    /// What keys are ordered by, hottest first: by count, of equal ones the more certain, then by name.
    pub fn rank(&self, by: HotBy) -> (Reverse<u64>, u64, &[u8]) {
        let Estimate { count, excess_max } = self.figures[at(by)];
        (Reverse(count), excess_max, &self.key_id)
    }
}

/// The hot keys of one keyspace on one shard.
#[derive(Debug)]
pub struct HotKeyCounter {
    began: Instant,
    /// End of the current window.
    ends_at: Instant,
    places: usize,
    sampler: Sampler,
    current: Window,
    last: Window,
}

#[derive(Debug)]
struct Window {
    sketches: [SpaceSaving; MEASURES],
    one_in: u32,
}

impl Window {
    fn new(places: usize) -> Window {
        Window {
            sketches: std::array::from_fn(|_| SpaceSaving::new(places)),
            one_in: 1,
        }
    }
}

impl Default for HotKeyCounter {
    fn default() -> Self {
        HotKeyCounter::new(Instant::ZERO)
    }
}

impl HotKeyCounter {
    /// Of nothing, from now on.
    pub fn new(now: Instant) -> HotKeyCounter {
        let places = PLACES_MAX;
        HotKeyCounter {
            began: now,
            ends_at: end_of_window(now),
            places,
            sampler: Sampler::new(now.as_micros()),
            current: Window::new(places),
            last: Window::new(places),
        }
    }

    /// Has sketches hold so many keys, from the next window on.
    pub fn set_capacity(&mut self, places: usize) {
        self.places = places;
    }

    /// An operation asked for a key.
    #[inline]
    pub fn request(&mut self, now: Instant, key_id: &[u8]) {
        self.turn(now);
        if let Some(weight) = self.sampler.sample() {
            self.current.one_in = self.sampler.one_in();
            self.add(HotBy::Requests, key_id, weight);
        }
    }

    /// It has to wait for a load.
    pub fn wait(&mut self, now: Instant, key_id: &[u8]) {
        self.turn(now);
        self.add(HotBy::Waiters, key_id, 1);
    }

    /// Counts a load of a key that ended, successfully or not, after `took_us`.
    pub fn load(&mut self, now: Instant, key_id: &[u8], took_us: u64) {
        self.turn(now);
        self.add(HotBy::RehydrateTime, key_id, took_us);
    }

    /// The hottest keys of the current window and the last, at most `keys_max`; the tally is that of `shard`.
    pub fn share(&mut self, shard: u16, now: Instant, by: HotBy, keys_max: usize) -> HotShare {
        self.turn(now);
        let windows = [&self.current, &self.last];
        let floors = windows.map(|window| window.sketches.each_ref().map(SpaceSaving::floor));
        let estimate = |measure: usize, key_id: &[u8]| {
            let parts = windows.iter().zip(floors).map(|(window, floors)| {
                let held = window.sketches[measure].held(key_id);
                held.unwrap_or(Estimate::at_most(floors[measure]))
            });
            parts.fold(Estimate::default(), Estimate::plus)
        };
        let held: BTreeSet<&[u8]> = windows
            .iter()
            .flat_map(|window| window.sketches[at(by)].keys().map(|key_id| &**key_id))
            .collect();
        let mut keys: Vec<_> = held
            .into_iter()
            .map(|key_id| RankedKey {
                key_id: key_id.into(),
                figures: std::array::from_fn(|measure| estimate(measure, key_id)),
            })
            .collect();
        keys.sort_unstable_by(|a, b| a.rank(by).cmp(&b.rank(by)));
        let first_left_out = keys
            .get(keys_max)
            .map_or(0, |key| key.figures[at(by)].count);
        keys.truncate(keys_max);
        let floor = floors.iter().map(|floors| floors[at(by)]).sum();
        HotShare {
            shard,
            keys,
            unlisted_max: first_left_out.max(floor),
            totals: std::array::from_fn(|measure| {
                let totals = windows.map(|window| window.sketches[measure].total());
                totals.iter().sum()
            }),
            window_us: now.saturating_since(self.covers_since()).max(1),
            requests_counted_one_in: self.current.one_in.max(self.last.one_in),
        }
    }

    fn add(&mut self, by: HotBy, key_id: &[u8], weight: u64) {
        self.current.sketches[at(by)].add(key_id, weight);
    }

    fn covers_since(&self) -> Instant {
        self.ends_at.minus_us(2 * WINDOW_US).max(self.began)
    }

    /// Begins another window if the current one is over. Every input calls it: an idle keyspace costs no timer.
    #[inline]
    fn turn(&mut self, now: Instant) {
        if now >= self.ends_at {
            self.begin_window(now);
        }
    }

    #[cold]
    fn begin_window(&mut self, now: Instant) {
        let ends_at = end_of_window(now);
        let follows = ends_at == self.ends_at.plus_us(WINDOW_US);
        let finished = std::mem::replace(&mut self.current, Window::new(self.places));
        self.last = match follows {
            true => finished,
            false => Window::new(self.places),
        };
        self.ends_at = ends_at;
        self.sampler.restart();
    }
}

fn at(by: HotBy) -> usize {
    usize::from(by.code())
}

fn end_of_window(now: Instant) -> Instant {
    let window = now.as_micros() / WINDOW_US;
    Instant::from_micros((window + 1) * WINDOW_US)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_micros(100 * WINDOW_US);

    fn names(share: &HotShare) -> Vec<&str> {
        let keys = share.keys.iter();
        keys.map(|key| std::str::from_utf8(&key.key_id).unwrap())
            .collect()
    }

    fn count(share: &HotShare, key: &str, by: HotBy) -> u64 {
        let of_name = |ranked: &&RankedKey| &*ranked.key_id == key.as_bytes();
        share.keys.iter().find(of_name).unwrap().figures[at(by)].count
    }

    #[test]
    fn each_order_has_its_own_first_and_tells_the_other_figures_too() {
        let mut tally = HotKeyCounter::new(START);
        for _ in 0..5 {
            tally.request(START, b"asked");
        }
        for _ in 0..2 {
            tally.request(START, b"waited");
            tally.wait(START, b"waited");
        }
        tally.load(START, b"waited", 10);
        tally.load(START, b"slow", 900);
        for (by, expected) in [
            (HotBy::Requests, vec!["asked", "waited"]),
            (HotBy::Waiters, vec!["waited"]),
            (HotBy::RehydrateTime, vec!["slow", "waited"]),
        ] {
            let share = tally.share(0, START, by, 10);
            assert_eq!(names(&share), expected, "{by}");
            assert_eq!(share.totals, [7, 2, 910]);
            assert_eq!(share.unlisted_max, 0);
        }
        let share = tally.share(0, START, HotBy::Requests, 10);
        assert_eq!(count(&share, "waited", HotBy::RehydrateTime), 10);
        let share = tally.share(0, START, HotBy::Requests, 1);
        assert_eq!((names(&share), share.unlisted_max), (vec!["asked"], 2));
    }

    #[test]
    fn a_key_is_told_of_for_one_to_two_minutes() {
        let mut tally = HotKeyCounter::new(START);
        tally.request(START, b"early");
        let late = START.plus_us(WINDOW_US - 1);
        tally.request(late, b"late");
        assert_eq!(
            tally.share(0, late, HotBy::Requests, 9).window_us,
            WINDOW_US - 1
        );

        let next = START.plus_us(WINDOW_US);
        tally.request(next, b"late");
        let share = tally.share(0, next.plus_us(WINDOW_US - 1), HotBy::Requests, 9);
        assert_eq!(names(&share), ["late", "early"]);
        assert_eq!(count(&share, "late", HotBy::Requests), 2);
        assert_eq!(share.window_us, 2 * WINDOW_US - 1);

        let share = tally.share(0, next.plus_us(WINDOW_US), HotBy::Requests, 9);
        assert_eq!(count(&share, "late", HotBy::Requests), 1);
        assert_eq!((names(&share), share.window_us), (vec!["late"], WINDOW_US));
        let share = tally.share(0, next.plus_us(9 * WINDOW_US), HotBy::Requests, 9);
        assert_eq!((names(&share), share.totals), (vec![], [0; 3]));
    }

    /// The bounds of both windows add up, also if a key is in only one of them.
    #[test]
    fn over_two_windows_the_true_count_lies_within_the_bounds() {
        let mut tally = HotKeyCounter::new(START);
        tally.set_capacity(16);
        let next = START.plus_us(WINDOW_US);
        // The second window has the sketch of 16 places, and more keys than that.
        for (now, asked) in [(START, 0..40_u32), (next, 20..60)] {
            for key in asked {
                for _ in 0..=key {
                    tally.request(now, format!("key-{key}").as_bytes());
                }
            }
        }
        let share = tally.share(0, next, HotBy::Requests, usize::MAX);
        let exact = |key: u32| match key {
            20..40 => 2 * u64::from(key + 1),
            _ => u64::from(key + 1),
        };
        for key in 0..60 {
            let name = format!("key-{key}");
            let of_name = |ranked: &&RankedKey| *ranked.key_id == *name.as_bytes();
            match share.keys.iter().find(of_name) {
                Some(ranked) => {
                    let Estimate { count, excess_max } = ranked.figures[0];
                    assert!((count - excess_max..=count).contains(&exact(key)), "{name}");
                }
                None => assert!(exact(key) <= share.unlisted_max, "{name}"),
            }
        }
    }

    #[test]
    fn a_busy_keyspace_says_that_it_was_sampled() {
        let mut tally = HotKeyCounter::new(START);
        for n in 0..100_000 {
            tally.request(START, if n % 4 == 0 { b"quiet" } else { b"loud!" });
        }
        let share = tally.share(0, START, HotBy::Requests, 9);
        assert_eq!(share.requests_counted_one_in, sampler::SAMPLING_PERIOD);
        assert_eq!(names(&share), ["loud!", "quiet"]);
        let loud = count(&share, "loud!", HotBy::Requests);
        assert!(loud.abs_diff(75_000) < 6 * 4 * 274, "{loud}");
        let next = START.plus_us(2 * WINDOW_US);
        let share = tally.share(0, next, HotBy::Requests, 9);
        assert_eq!(share.requests_counted_one_in, 1);
    }

    #[test]
    fn places_are_shared_out_among_the_keyspaces() {
        assert_eq!(places_among(0), PLACES_MAX);
        assert_eq!(places_among(64), PLACES_MAX);
        assert_eq!(places_among(128), PLACES_MAX / 2);
        assert_eq!(places_among(usize::MAX), PLACES_MIN);
    }
}
