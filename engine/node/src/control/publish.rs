//! Publications: the state of each keyspace sent to every shard, and what each shard has acknowledged.
//!
//! A change carries the complete state, so each shard has at most one per keyspace and lane in flight. While one is not
//! acknowledged, later changes are merged and sent when it is. A lock does not wait for that. A shard that has stopped
//! holds no keys any longer, and counts as having acknowledged everything.

use std::collections::{BTreeMap, VecDeque};

use crate::ids::{Epoch, Revision, WorkId};
use crate::keyspace_change::KeyspaceChange;
use crate::messages::Lane;

/// A condition that every shard must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// It applies this revision.
    Acted(Revision),
    /// It holds nothing of the keyspace since the lock of this epoch.
    Wiped(Epoch),
    /// It seals under this DEK, or a later one.
    Confirmed(u32),
}

/// A change in flight to a shard.
pub(super) struct Told {
    pub shard: u16,
    pub lane: Lane,
    pub change: Box<KeyspaceChange>,
}

#[derive(Clone, Copy, Debug, Default)]
struct AtShard {
    /// In flight and not acknowledged, by lane.
    on_its_way: [Option<Revision>; 2],
    /// A newer change waits for the acknowledgement.
    due: Option<Lane>,
    acted: Revision,
    wiped: Epoch,
    confirmed: u32,
}

impl AtShard {
    fn is(&self, until: Until) -> bool {
        match until {
            Until::Acted(revision) => self.acted >= revision,
            Until::Wiped(epoch) => self.wiped >= epoch,
            Until::Confirmed(generation) => self.confirmed >= generation,
        }
    }
}

struct Published {
    latest: KeyspaceChange,
    shards: Vec<AtShard>,
    waiting: Vec<(WorkId, Until)>,
}

/// The publications of each keyspace.
pub(super) struct Publications {
    revision: Revision,
    running: Vec<bool>,
    of_keyspace: BTreeMap<u32, Published>,
    /// Works, and for how many keyspaces each waits.
    left: BTreeMap<WorkId, usize>,
    ready: VecDeque<WorkId>,
}

impl Publications {
    pub(super) fn new(shards: u16) -> Self {
        Publications {
            revision: Revision::default(),
            running: vec![true; usize::from(shards)],
            of_keyspace: BTreeMap::new(),
            left: BTreeMap::new(),
            ready: VecDeque::new(),
        }
    }

    /// Publishes a state to every shard and assigns its revision, unless it equals the last one published. Returns the
    /// revision, and the messages to send now.
    pub(super) fn publish(
        &mut self,
        mut change: KeyspaceChange,
        lane: Lane,
    ) -> (Revision, Vec<Told>) {
        let count = self.running.len();
        if let Some(earlier) = self.of_keyspace.get(&change.id) {
            change.revision = earlier.latest.revision;
            change.ticket = earlier.latest.ticket;
            if change == earlier.latest {
                return (change.revision, Vec::new());
            }
        }
        // A lock does not wait. There is one at a time: it is lifted only after every shard has wiped.
        let earlier = self.of_keyspace.get(&change.id);
        let was_locked = earlier.is_some_and(|earlier| earlier.latest.guard.locked);
        let locks = change.guard.locked && !was_locked;
        let revision = self.revision.count_up();
        change.revision = revision;
        let published = self
            .of_keyspace
            .entry(change.id)
            .or_insert_with(|| Published {
                latest: change.clone(),
                shards: vec![AtShard::default(); count],
                waiting: Vec::new(),
            });
        published.latest = change;
        let mut told = Vec::new();
        for (shard, at) in published.shards.iter_mut().enumerate() {
            if !self.running[shard] {
                continue;
            }
            let place = &mut at.on_its_way[lane as usize];
            if place.is_some() && !locks {
                // The more urgent change determines the lane.
                at.due = Some(at.due.map_or(lane, |due| due.min(lane)));
                continue;
            }
            *place = Some(revision);
            at.due = None;
            told.push(Told {
                shard: shard as u16,
                lane,
                change: Box::new(published.latest.clone()),
            });
        }
        (revision, told)
    }

    /// Records that a shard applies a change. Returns the next message to it.
    pub(super) fn note_acted(
        &mut self,
        shard: u16,
        keyspace: u32,
        revision: Revision,
    ) -> Option<Told> {
        let published = self.of_keyspace.get_mut(&keyspace)?;
        let at = published.shards.get_mut(usize::from(shard))?;
        for place in &mut at.on_its_way {
            if *place == Some(revision) {
                *place = None;
            }
        }
        at.acted = at.acted.max(revision);
        let mut told = None;
        if let Some(lane) = at.due
            && at.on_its_way[lane as usize].is_none()
        {
            at.due = None;
            at.on_its_way[lane as usize] = Some(published.latest.revision);
            told = Some(Told {
                shard,
                lane,
                change: Box::new(published.latest.clone()),
            });
        }
        self.settle(keyspace);
        told
    }

    /// Records that a shard holds nothing of a locked keyspace any longer.
    pub(super) fn note_wiped(&mut self, shard: u16, keyspace: u32, epoch: Epoch) {
        if let Some(at) = self.at(shard, keyspace) {
            at.wiped = at.wiped.max(epoch);
            self.settle(keyspace);
        }
    }

    /// Records that a shard seals under this DEK.
    pub(super) fn note_confirmed(&mut self, shard: u16, keyspace: u32, generation: u32) {
        if let Some(at) = self.at(shard, keyspace) {
            at.confirmed = at.confirmed.max(generation);
            self.settle(keyspace);
        }
    }

    /// Records that a shard has stopped. Returns the keyspaces that were published.
    pub(super) fn note_stopped(&mut self, shard: u16) -> Vec<u32> {
        if let Some(running) = self.running.get_mut(usize::from(shard)) {
            *running = false;
        }
        let keyspaces: Vec<u32> = self.of_keyspace.keys().copied().collect();
        for id in &keyspaces {
            self.settle(*id);
        }
        keyspaces
    }

    pub(super) fn is_running(&self, shard: u16) -> bool {
        self.running
            .get(usize::from(shard))
            .is_some_and(|running| *running)
    }

    /// Returns the shards that have not stopped.
    pub(super) fn running(&self) -> impl Iterator<Item = u16> + use<'_> {
        (0..self.shards()).filter(|shard| self.is_running(*shard))
    }

    pub(super) fn shards(&self) -> u16 {
        self.running.len() as u16
    }

    /// Returns `true` if every shard has reached the condition. A keyspace of which nothing was published is in its
    /// initial state.
    pub(super) fn is(&self, keyspace: u32, until: Until) -> bool {
        let Some(published) = self.of_keyspace.get(&keyspace) else {
            return true;
        };
        let mut shards = published.shards.iter().zip(&self.running);
        shards.all(|(at, running)| !running || at.is(until))
    }

    /// Returns `true` if every shard applies the latest change.
    pub(super) fn is_acted(&self, keyspace: u32) -> bool {
        let published = self.of_keyspace.get(&keyspace);
        published.is_none_or(|it| self.is(keyspace, Until::Acted(it.latest.revision)))
    }

    /// Resumes a work when all conditions are reached.
    pub(super) fn wait(&mut self, work: WorkId, what: impl IntoIterator<Item = (u32, Until)>) {
        let mut left = 0;
        for (keyspace, until) in what {
            if !self.is(keyspace, until)
                && let Some(published) = self.of_keyspace.get_mut(&keyspace)
            {
                published.waiting.push((work, until));
                left += 1;
            }
        }
        match left {
            0 => self.ready.push_back(work),
            _ => {
                self.left.insert(work, left);
            }
        }
    }

    /// Returns a work whose conditions are all reached.
    pub(super) fn next_ready(&mut self) -> Option<WorkId> {
        self.ready.pop_front()
    }

    fn at(&mut self, shard: u16, keyspace: u32) -> Option<&mut AtShard> {
        let published = self.of_keyspace.get_mut(&keyspace)?;
        published.shards.get_mut(usize::from(shard))
    }

    fn settle(&mut self, keyspace: u32) {
        let Some(published) = self.of_keyspace.get_mut(&keyspace) else {
            return;
        };
        let (shards, running) = (&published.shards, &self.running);
        let is_so = |(_, until): &mut (WorkId, Until)| {
            let mut shards = shards.iter().zip(running);
            shards.all(|(at, running)| !running || at.is(*until))
        };
        for (work, _) in published.waiting.extract_if(.., is_so) {
            let Some(left) = self.left.get_mut(&work) else {
                continue;
            };
            *left -= 1;
            if *left == 0 {
                self.left.remove(&work);
                self.ready.push_back(work);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Opening;
    use crate::keyspace_change::Guard;

    const PROD: u32 = 1;
    const WORK: WorkId = WorkId(7);

    fn change(locked: bool, seal_floor: u32) -> KeyspaceChange {
        KeyspaceChange {
            id: PROD,
            name: "prod".to_owned(),
            revision: Revision::default(),
            epoch: Epoch(u64::from(locked)),
            opening: Opening::default(),
            guard: Guard {
                locked,
                policy: Default::default(),
                settings: Default::default(),
            },
            seal_floor,
            oldest: 1,
            ticket: 5,
        }
    }

    fn shards(told: &[Told]) -> Vec<(u16, Lane)> {
        told.iter().map(|told| (told.shard, told.lane)).collect()
    }

    #[test]
    fn unchanged_state_is_not_published_again() {
        let mut published = Publications::new(2);
        let (first, told) = published.publish(change(false, 1), Lane::Ordinary);
        assert_eq!(shards(&told), [(0, Lane::Ordinary), (1, Lane::Ordinary)]);
        let again = KeyspaceChange {
            ticket: 9,
            ..change(false, 1)
        };
        let (second, told) = published.publish(again, Lane::Emergency);
        assert_eq!((second, told.len()), (first, 0));
    }

    #[test]
    fn one_change_is_in_flight_per_lane_and_the_latest_follows() {
        let mut published = Publications::new(1);
        let (first, _) = published.publish(change(false, 1), Lane::Ordinary);
        let (_, told) = published.publish(change(false, 2), Lane::Ordinary);
        assert!(told.is_empty());
        let (lock, told) = published.publish(change(true, 3), Lane::Emergency);
        assert_eq!(shards(&told), [(0, Lane::Emergency)]);
        let (last, told) = published.publish(change(false, 4), Lane::Ordinary);
        assert!(told.is_empty());
        assert!(published.note_acted(0, PROD, lock).is_none());
        let told = published.note_acted(0, PROD, first).unwrap();
        assert_eq!((told.lane, told.change.revision), (Lane::Ordinary, last));
        assert!(published.note_acted(0, PROD, last).is_none());
    }

    #[test]
    fn work_resumes_when_every_running_shard_has_acknowledged() {
        let mut published = Publications::new(3);
        let (revision, _) = published.publish(change(true, 1), Lane::Emergency);
        published.wait(WORK, [(PROD, Until::Acted(revision))]);
        published.note_acted(0, PROD, revision);
        published.note_acted(1, PROD, Revision(0));
        assert!(published.next_ready().is_none());
        published.note_stopped(2);
        assert!(published.next_ready().is_none());
        published.note_acted(1, PROD, revision);
        assert_eq!(published.next_ready(), Some(WORK));
        published.wait(WORK, [(PROD, Until::Wiped(Epoch(1)))]);
        published.note_wiped(0, PROD, Epoch(1));
        assert!(!published.is(PROD, Until::Wiped(Epoch(1))));
        published.note_wiped(1, PROD, Epoch(2));
        assert_eq!(published.next_ready(), Some(WORK));
        // Nothing was published of it, or every condition is reached.
        published.wait(WORK, [(9, Until::Confirmed(3))]);
        assert_eq!(published.next_ready(), Some(WORK));
    }
}
