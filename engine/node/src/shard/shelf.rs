//! DEKs by keyspace and generation, and under which of them blobs may be sealed.
//!
//! ```text
//! control                                shard
//!   the new DEK is written ──change──▶ raises the floor: nothing begins under an older DEK
//!                                      what has begun ends in the log
//!   ROTATE is answered, and the ◀─Confirmed─ now nothing under an older DEK can be written to the log
//!   blobs are counted after this
//! ```
//!
//! The confirmation says how the shard seals, not that it holds the DEK. A shard without it refuses writes until a lease
//! brings it.

use std::collections::{BTreeMap, BTreeSet};

/// Retired DEKs that are asked for at a time; blobs that need others ask again.
const RETIRED_WANTED_MAX: usize = 64;

/// What a blob is sealed under, and which keyspace it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SealUnder {
    pub(crate) keyspace: u32,
    pub(crate) generation: u32,
}

/// The DEKs of a shard.
pub(crate) struct Shelf<D> {
    deks: BTreeMap<u32, BTreeMap<u32, D>>,
    /// The oldest generations that blobs may be sealed under.
    floors: BTreeMap<u32, u32>,
    /// Blobs that are sealed and being written to the log.
    under_way: BTreeMap<SealUnder, usize>,
    /// Keyspaces whose floor was raised, and has yet to be confirmed.
    unconfirmed: BTreeSet<u32>,
    /// DEKs that blobs are sealed under and that the KMS's last answer did not bring.
    retired_wanted: BTreeSet<SealUnder>,
}

impl<D> Default for Shelf<D> {
    fn default() -> Self {
        Shelf {
            deks: BTreeMap::new(),
            floors: BTreeMap::new(),
            under_way: BTreeMap::new(),
            unconfirmed: BTreeSet::new(),
            retired_wanted: BTreeSet::new(),
        }
    }
}

impl<D> Shelf<D> {
    /// Keeps a DEK until it is dropped.
    pub(crate) fn hold(&mut self, keyspace: u32, generation: u32, dek: D) {
        let deks = self.deks.entry(keyspace).or_default();
        deks.insert(generation, dek);
    }

    /// Wipes a keyspace's DEKs.
    pub(crate) fn drop_all(&mut self, keyspace: u32) {
        self.deks.remove(&keyspace);
    }

    /// Wipes the DEKs of generations below `oldest`: no blob needs them any more.
    pub(crate) fn retire(&mut self, keyspace: u32, oldest: u32) {
        if let Some(deks) = self.deks.get_mut(&keyspace) {
            deks.retain(|generation, _| *generation >= oldest);
        }
    }

    /// Returns whether a DEK of the keyspace is held.
    pub(crate) fn has_dek(&self, keyspace: u32) -> bool {
        self.deks
            .get(&keyspace)
            .is_some_and(|deks| !deks.is_empty())
    }

    /// Returns a DEK. One that is older than those that are held is asked for.
    pub(crate) fn find(&mut self, keyspace: u32, generation: u32) -> Option<&D> {
        let deks = self.deks.get(&keyspace)?;
        let is_retired = deks.keys().next_back() > Some(&generation);
        if !deks.contains_key(&generation) && is_retired {
            self.want_retired(keyspace, generation);
        }
        self.deks.get(&keyspace)?.get(&generation)
    }

    /// Returns the newest DEK that the keyspace's blobs may be sealed under, and the one of `opener`.
    pub(crate) fn pair(&self, keyspace: u32, opener: u32) -> Option<(u32, &D, &D)> {
        let (generation, sealer) = self.sealer(keyspace)?;
        let opener = self.deks.get(&keyspace)?.get(&opener)?;
        Some((generation, sealer, opener))
    }

    /// Returns the newest DEK, if the keyspace's blobs may be sealed under it.
    pub(crate) fn sealer(&self, keyspace: u32) -> Option<(u32, &D)> {
        let (generation, dek) = self.deks.get(&keyspace)?.last_key_value()?;
        (*generation >= self.floor(keyspace)).then_some((*generation, dek))
    }

    /// Notes that a blob is sealed under a DEK that is not in use any more.
    pub(crate) fn want_retired(&mut self, keyspace: u32, generation: u32) {
        if self.retired_wanted.len() < RETIRED_WANTED_MAX {
            self.retired_wanted.insert(SealUnder {
                keyspace,
                generation,
            });
        }
    }

    /// Takes the DEKs that are to be asked for since the last call.
    pub(crate) fn take_retired_wanted(&mut self) -> BTreeSet<SealUnder> {
        std::mem::take(&mut self.retired_wanted)
    }

    /// Returns the oldest generation that the keyspace's blobs may be sealed under.
    pub(crate) fn floor(&self, keyspace: u32) -> u32 {
        self.floors.get(&keyspace).copied().unwrap_or(0)
    }

    /// Raises the floor; it never goes down. It is confirmed later, also the first one: a new keyspace may have been rotated
    /// before the shard received it.
    pub(crate) fn raise_floor(&mut self, keyspace: u32, generation: u32) {
        if generation > self.floor(keyspace) {
            self.floors.insert(keyspace, generation);
            self.unconfirmed.insert(keyspace);
        }
    }

    /// Leaves the floors of the start unconfirmed: control does not wait for them.
    pub(crate) fn confirm_none(&mut self) {
        self.unconfirmed.clear();
    }

    /// Notes that a blob is being written to the log.
    pub(crate) fn begin(&mut self, under: SealUnder) {
        *self.under_way.entry(under).or_default() += 1;
    }

    /// Records that it has ended there.
    pub(crate) fn end(&mut self, under: SealUnder) {
        if let Some(count) = self.under_way.get_mut(&under) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&under);
            }
        }
    }

    /// Takes a keyspace below whose floor nothing is in flight, with the floor.
    pub(crate) fn next_confirmed(&mut self) -> Option<SealUnder> {
        let is_over = |keyspace: &&u32| {
            let at = |generation| SealUnder {
                keyspace: **keyspace,
                generation,
            };
            let below = at(0)..at(self.floor(**keyspace));
            self.under_way.range(below).next().is_none()
        };
        let keyspace = *self.unconfirmed.iter().find(is_over)?;
        self.unconfirmed.remove(&keyspace);
        Some(SealUnder {
            keyspace,
            generation: self.floor(keyspace),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn under(keyspace: u32, generation: u32) -> SealUnder {
        SealUnder {
            keyspace,
            generation,
        }
    }

    /// Blobs were counted while one that had been sealed under the older DEK was still in flight: the DEK was retired
    /// although it was needed.
    #[test]
    fn a_floor_is_confirmed_when_the_last_older_seal_of_the_same_keyspace_is_in_the_log() {
        let mut shelf = Shelf::<()>::default();
        shelf.raise_floor(7, 1);
        assert_eq!(shelf.next_confirmed(), Some(under(7, 1)));
        shelf.begin(under(7, 1));
        shelf.begin(under(7, 1));
        shelf.begin(under(8, 1));
        shelf.raise_floor(7, 2);
        shelf.begin(under(7, 2));
        shelf.end(under(7, 1));
        assert_eq!(shelf.next_confirmed(), None, "one is still in flight");
        shelf.end(under(7, 1));
        assert_eq!(shelf.next_confirmed(), Some(under(7, 2)));
        assert_eq!(shelf.next_confirmed(), None);
    }

    #[test]
    fn nothing_is_sealed_below_the_floor_which_never_goes_down() {
        let mut shelf = Shelf::default();
        shelf.hold(7, 1, "one");
        assert_eq!(shelf.sealer(7), Some((1, &"one")));
        shelf.raise_floor(7, 2);
        shelf.raise_floor(7, 1);
        assert_eq!((shelf.sealer(7), shelf.floor(7)), (None, 2));
        shelf.hold(7, 2, "two");
        assert_eq!(shelf.pair(7, 1), Some((2, &"two", &"one")));
        shelf.retire(7, 2);
        assert_eq!(shelf.pair(7, 1), None);
        assert_eq!(shelf.find(7, 1), None);
        assert_eq!(shelf.take_retired_wanted(), [under(7, 1)].into());
    }
}
