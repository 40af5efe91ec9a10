//! Under which DEK a keyspace's blobs may be sealed.
//!
//! ```text
//! control thread                         shard
//!   the new DEK is written ──Keyspace───▶ raises the floor: nothing begins under an older DEK any more
//!                                         what has begun comes to its end in the log
//!   ROTATE is answered, and ◀─Confirmed── now nothing under an older DEK can come into the log
//!   blobs are counted, from here on
//! ```
//!
//! The confirmation says how the shard seals, not that it holds the DEK. A shard without it refuses writes until a lease
//! brings it.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// The floors of all keyspaces, the seals on their way into the log, and who waits for which. The control thread rotates
/// a keyspace's DEK once at a time, so that as many wait as there are keyspaces, at most.
#[derive(Clone, Default)]
pub struct SealFloors(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    floors: HashMap<u32, u32>,
    /// By keyspace and generation.
    under_way: BTreeMap<(u32, u32), usize>,
    /// Keyspaces and generations that are to be confirmed.
    waiting: Vec<(u32, u32)>,
    confirmed: Vec<(u32, u32)>,
}

/// A blob that is sealed and on its way into the log, until this is dropped.
pub struct SealUnderWay {
    of: SealFloors,
    key: (u32, u32),
}

impl SealFloors {
    /// Nothing of the keyspace is sealed below `generation` any more. A floor never goes down.
    pub fn raise(&self, keyspace: u32, generation: u32) {
        let mut state = self.0.borrow_mut();
        let floor = state.floors.entry(keyspace).or_default();
        *floor = generation.max(*floor);
    }

    /// Raises the floor; [`SealFloors::take_confirmed`] says so once nothing that was sealed below it is on its way into the
    /// log.
    pub fn confirm(&self, keyspace: u32, generation: u32) {
        self.raise(keyspace, generation);
        self.0.borrow_mut().waiting.push((keyspace, generation));
        self.settle();
    }

    /// Keyspaces and generations below which nothing is on its way any more, since the last call.
    pub fn take_confirmed(&self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.0.borrow_mut().confirmed)
    }

    /// The oldest generation that the keyspace's blobs may be sealed under.
    pub fn of(&self, keyspace: u32) -> u32 {
        self.0.borrow().floors.get(&keyspace).copied().unwrap_or(0)
    }

    /// A blob is being sealed under the DEK of `generation`. `None`: it may not be.
    pub fn begin(&self, keyspace: u32, generation: u32) -> Option<SealUnderWay> {
        if generation < self.of(keyspace) {
            return None;
        }
        let key = (keyspace, generation);
        *self.0.borrow_mut().under_way.entry(key).or_default() += 1;
        Some(SealUnderWay {
            of: self.clone(),
            key,
        })
    }

    fn settle(&self) {
        let mut state = self.0.borrow_mut();
        let State {
            under_way,
            waiting,
            confirmed,
            ..
        } = &mut *state;
        let is_over = |(keyspace, generation): &mut (u32, u32)| {
            let below = (*keyspace, 0)..(*keyspace, *generation);
            under_way.range(below).next().is_none()
        };
        confirmed.extend(waiting.extract_if(.., is_over));
    }
}

impl Drop for SealUnderWay {
    fn drop(&mut self) {
        {
            let mut state = self.of.0.borrow_mut();
            if let Some(count) = state.under_way.get_mut(&self.key) {
                *count -= 1;
                if *count == 0 {
                    state.under_way.remove(&self.key);
                }
            }
        }
        self.of.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blobs were counted while one that had been sealed under the older DEK was still on its way: the DEK was retired
    /// under it.
    #[test]
    fn a_floor_is_confirmed_when_the_last_older_seal_of_the_same_keyspace_is_in_the_log() {
        let floors = SealFloors::default();
        let (first, second) = (floors.begin(7, 1), floors.begin(7, 1));
        let _elsewhere = floors.begin(8, 1);
        floors.confirm(7, 2);
        let _newest = floors.begin(7, 2);
        drop(first);
        assert_eq!(floors.take_confirmed(), [], "one is still under way");
        drop(second);
        assert_eq!(floors.take_confirmed(), [(7, 2)]);
        floors.confirm(7, 2);
        assert_eq!(floors.take_confirmed(), [(7, 2)]);
    }

    #[test]
    fn nothing_begins_below_the_floor_even_before_it_is_confirmed() {
        let floors = SealFloors::default();
        let _older = floors.begin(7, 1);
        floors.confirm(7, 2);
        assert!(floors.begin(7, 1).is_none());
        assert!(floors.begin(7, 2).is_some());
        assert!(floors.begin(7, 3).is_some());
        assert!(floors.begin(8, 1).is_some());
    }

    #[test]
    fn a_floor_never_goes_down() {
        let floors = SealFloors::default();
        floors.raise(7, 3);
        floors.raise(7, 2);
        assert_eq!((floors.of(7), floors.of(8)), (3, 0));
    }
}
