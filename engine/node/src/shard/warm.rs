//! Warm start: the keys that were hot in the previous run are loaded ahead of need, hottest first; and the keys that are
//! hot now are reported to the control thread, for the next start. Names only, never a secret.
//!
//! The core accepts a key if that delays no request, and answers *later* otherwise: keys that it has not accepted wait
//! here.

use std::collections::VecDeque;

use keyway_core::{Hottest, Instant, KeyspaceId, WarmAdmission};

use super::Shard;
use super::effect::Effect;
use super::port::Port;
use super::report::Report;
use crate::messages::{HotKey, ToControl};

/// Keys that a shard names as its hottest. Sorting and naming so many takes it about a millisecond, once in
/// [`SURVEY_PERIOD_US`].
pub const HOT_KEYS_MAX: usize = 4_096;

/// Time between two surveys: what a crash may leave out of date.
pub(crate) const SURVEY_PERIOD_US: u64 = 60_000_000;

/// Readiness waits for the warm start no longer than this.
const READY_WITHIN_US: u64 = 30_000_000;

/// Keys that one pass looks at: most of a list may be there already, since requests do not wait for it.
const KEYS_PER_PASS_MAX: usize = 1_024;

/// Time between two lines of progress in the log.
const PROGRESS_PERIOD_US: u64 = 1_000_000;

/// The keys that are still to be loaded, by keyspace.
pub(crate) struct WarmStart {
    lists: Vec<List>,
    keys_total: u64,
    began: Instant,
    said_at: Instant,
    settled: bool,
}

struct List {
    keyspace: u32,
    /// Hottest first.
    keys: VecDeque<Box<[u8]>>,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The KMS is being asked for the DEKs, for the first time since the start.
    Asked,
    /// There is a lease: core takes keys as it has room for them.
    Loading,
    /// There is none, being locked, denied, or cut off from the KMS; or nothing is to be loaded ahead. The next grant
    /// of a lease restarts it. Readiness does not wait for it: a locked keyspace does not make a server unready.
    Resting,
}

impl WarmStart {
    /// Of the keys of an earlier run, hottest first.
    pub fn new(now: Instant, keys: Vec<HotKey>) -> Self {
        let keys_total = keys.len() as u64;
        let mut lists: Vec<List> = Vec::new();
        for key in keys {
            let known = lists.iter_mut().find(|list| list.keyspace == key.keyspace);
            match known {
                Some(list) => list.keys.push_back(key.key_id),
                None => lists.push(List {
                    keyspace: key.keyspace,
                    keys: VecDeque::from([key.key_id]),
                    stage: Stage::Asked,
                }),
            }
        }
        WarmStart {
            lists,
            keys_total,
            began: now,
            said_at: now,
            settled: keys_total == 0,
        }
    }

    /// Keys of the earlier run.
    pub fn keys_total(&self) -> u64 {
        self.keys_total
    }

    /// Keys that core has not taken yet.
    pub fn keys_left(&self) -> u64 {
        self.lists.iter().map(|list| list.keys.len() as u64).sum()
    }

    /// Whether all is loaded that can be; once true, it stays so.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The KMS has answered for a keyspace.
    pub fn note_lease(&mut self, keyspace: u32, granted: bool) {
        let known = self.lists.iter_mut().find(|list| list.keyspace == keyspace);
        if let Some(list) = known {
            list.stage = match (granted, list.stage) {
                (true, _) => Stage::Loading,
                (false, Stage::Asked) => Stage::Resting,
                (false, stage) => stage,
            };
        }
    }

    /// Hands core what it takes. Once in [`keyway_core::SCAN_PERIOD_US`] is as often as it helps.
    pub fn pass<V>(&mut self, now: Instant, core: &mut keyway_core::Shard<V>) {
        let mut budget = KEYS_PER_PASS_MAX;
        for list in &mut self.lists {
            if list.stage == Stage::Loading {
                list.pass(now, core, &mut budget);
            }
        }
        self.lists.retain(|list| !list.keys.is_empty());
        if !self.settled {
            let loading = self.lists.iter().any(|list| list.stage != Stage::Resting);
            let late = now.saturating_since(self.began) >= READY_WITHIN_US;
            self.settled = late || !(loading || is_warming(now, core));
        }
    }

    /// Whether a line of progress is due; it is then said.
    fn is_progress_due(&mut self, now: Instant) -> bool {
        let due = now.saturating_since(self.said_at) >= PROGRESS_PERIOD_US;
        if due {
            self.said_at = now;
        }
        due
    }

    /// What is left of the earlier run's keys: still the best guess for the next one.
    fn rest(&self) -> impl Iterator<Item = HotKey> {
        self.lists.iter().flat_map(|list| {
            list.keys.iter().map(|key_id| HotKey {
                keyspace: list.keyspace,
                key_id: key_id.clone(),
            })
        })
    }
}

impl List {
    fn pass<V>(&mut self, now: Instant, core: &mut keyway_core::Shard<V>, budget: &mut usize) {
        let keyspace = KeyspaceId(self.keyspace);
        while let Some(key_id) = self.keys.front()
            && *budget > 0
        {
            *budget -= 1;
            if core.handle_warm_key(now, keyspace, key_id) == WarmAdmission::Later {
                let can_load = core.gauges(now, keyspace).is_some_and(|gauges| {
                    gauges.lease_left_us > 0 && !gauges.locked && gauges.max_in_flight_share > 0
                });
                if !can_load {
                    self.stage = Stage::Resting;
                }
                return;
            }
            self.keys.pop_front();
        }
    }
}

fn is_warming<V>(now: Instant, core: &keyway_core::Shard<V>) -> bool {
    core.keyspace_ids()
        .filter_map(|keyspace| core.gauges(now, keyspace))
        .any(|gauges| gauges.warming_keys > 0)
}

impl<P: Port> Shard<P> {
    /// Goes on with the warm start, and reports how far it is.
    pub(super) fn warm_up(&mut self) {
        let now = self.timed.now();
        let warm = &mut self.upkeep.warm;
        let was_settled = warm.is_settled();
        self.core.call(|core| warm.pass(now, core));
        if was_settled {
            return;
        }
        let (keys, left) = (warm.keys_total(), warm.keys_left());
        if warm.is_settled() {
            let took_ms = Some(now.saturating_since(warm.began) / 1_000);
            self.out.report(Report::WarmAdmission {
                keys,
                left,
                took_ms,
            });
            // Readiness need not wait for the next second.
            self.out.push(Effect::Publish);
        } else if warm.is_progress_due(now) {
            self.out.report(Report::WarmAdmission {
                keys,
                left,
                took_ms: None,
            });
        }
    }

    /// Takes one step of the survey of hot keys, and begins one when it is due.
    pub(super) fn go_on_surveying(&mut self) {
        let now = self.timed.now();
        if self.upkeep.survey.is_none() && now >= self.upkeep.survey_at {
            self.upkeep.survey_at = now.plus_us(SURVEY_PERIOD_US);
            self.upkeep.survey = Some(Hottest::new(HOT_KEYS_MAX));
        }
        if let Some(mut hottest) = self.upkeep.survey.take() {
            match self.core.view().collect_hottest(&mut hottest) {
                true => self.upkeep.survey = Some(hottest),
                false => self.name_hottest(hottest),
            }
        }
    }

    /// Makes the last survey, at the end.
    pub fn report_hot_keys(&mut self) {
        if self.core.is_broken() {
            return;
        }
        let mut hottest = Hottest::new(HOT_KEYS_MAX);
        while self.core.view().collect_hottest(&mut hottest) {}
        self.name_hottest(hottest);
    }

    fn name_hottest(&mut self, hottest: Hottest) {
        let hot = hottest
            .into_keys()
            .into_iter()
            .map(|(keyspace, key_id)| HotKey {
                keyspace: keyspace.0,
                key_id: Box::from(&*key_id),
            });
        let keys = hot.chain(self.upkeep.warm.rest());
        let keys = keys.take(HOT_KEYS_MAX).collect();
        // A full lane loses this list; the one before stays good enough.
        self.out.tell_control(ToControl::Hottest { keys });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

    use super::*;
    use keyway_core::{Action, LeaseEvent, Limits, Loaded, SCAN_PERIOD_US, Settings};

    const ONE: u32 = 1;
    const TWO: u32 = 2;

    struct Node {
        now: Instant,
        core: keyway_core::Shard<()>,
        warm: WarmStart,
        loaded: Vec<(u32, Vec<u8>)>,
    }

    impl Node {
        fn new(keys: &[(u32, &str)]) -> Node {
            let now = Instant::from_micros(1_000_000);
            let mut core = keyway_core::Shard::new(Limits::default(), 1).unwrap();
            for keyspace in [ONE, TWO] {
                let settings = Settings::default();
                core.handle_keyspace(now, KeyspaceId(keyspace), settings)
                    .unwrap();
            }
            let hot = |(keyspace, key): &(u32, &str)| HotKey {
                keyspace: *keyspace,
                key_id: Box::from(key.as_bytes()),
            };
            let keys = keys.iter().map(hot).collect();
            let warm = WarmStart::new(now, keys);
            Node {
                now,
                core,
                warm,
                loaded: Vec::new(),
            }
        }

        fn lease(&mut self, keyspace: u32, event: LeaseEvent) {
            let granted = matches!(event, LeaseEvent::Granted { .. });
            self.core
                .handle_lease(self.now, KeyspaceId(keyspace), event);
            self.warm.note_lease(keyspace, granted);
        }

        fn grant(&mut self, keyspace: u32) {
            let sent_at = self.now;
            self.lease(
                keyspace,
                LeaseEvent::Granted {
                    sent_at,
                    generation: 1,
                },
            );
        }

        /// Some scans, with every load answered at once.
        fn scans(&mut self, count: usize) {
            for _ in 0..count {
                self.warm.pass(self.now, &mut self.core);
                self.now = self.now.plus_us(SCAN_PERIOD_US);
                self.core.handle_tick(self.now);
                while let Some(action) = self.core.poll_action() {
                    if let Action::Load {
                        flight,
                        keyspace,
                        key_id,
                        ..
                    } = action
                    {
                        self.loaded.push((keyspace.0, key_id.to_vec()));
                        let loaded = Loaded {
                            version: 1,
                            dek_generation: 1,
                            key_bytes: 64,
                            not_after: None,
                            value: (),
                        };
                        assert!(self.core.begin_load(self.now, flight));
                        self.core.handle_loaded(self.now, flight, Ok(loaded));
                    }
                }
            }
            self.warm.pass(self.now, &mut self.core);
        }
    }

    #[test]
    fn without_hot_keys_there_is_nothing_to_wait_for() {
        assert!(Node::new(&[]).warm.is_settled());
    }

    #[test]
    fn every_keyspace_is_waited_for_until_its_kms_has_answered() {
        let mut node = Node::new(&[(ONE, "a"), (TWO, "b"), (ONE, "c")]);
        node.scans(3);
        assert!(!node.warm.is_settled());
        node.grant(ONE);
        node.scans(3);
        assert!(!node.warm.is_settled());
        assert_eq!(node.loaded, [(ONE, b"a".to_vec()), (ONE, b"c".to_vec())]);
        node.grant(TWO);
        node.scans(3);
        assert!(node.warm.is_settled());
        assert_eq!((node.warm.keys_total(), node.warm.keys_left()), (3, 0));
        assert_eq!(node.loaded.len(), 3);
    }

    #[test]
    fn a_locked_keyspace_is_not_waited_for_and_goes_on_when_it_is_unlocked() {
        let mut node = Node::new(&[(ONE, "a"), (TWO, "b")]);
        node.lease(ONE, LeaseEvent::Locked);
        node.grant(TWO);
        node.scans(3);
        assert!(node.warm.is_settled());
        let rest: Vec<HotKey> = node.warm.rest().collect();
        assert_eq!(rest.len(), 1, "what was not loaded is still named");
        assert_eq!((rest[0].keyspace, &*rest[0].key_id), (ONE, &b"a"[..]));
        node.core.handle_unlock(node.now, KeyspaceId(ONE));
        node.grant(ONE);
        node.scans(3);
        assert_eq!(node.warm.keys_left(), 0);
        assert_eq!(node.loaded, [(TWO, b"b".to_vec()), (ONE, b"a".to_vec())]);
    }

    #[test]
    fn readiness_waits_no_longer_than_its_limit() {
        let mut node = Node::new(&[(ONE, "a")]);
        node.scans((READY_WITHIN_US / SCAN_PERIOD_US) as usize - 1);
        assert!(!node.warm.is_settled());
        node.scans(1);
        assert!(node.warm.is_settled());
        assert_eq!(node.warm.keys_left(), 1);
    }
}
