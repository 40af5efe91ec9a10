//! The surroundings of the shard: clients, a store and a KMS that fail, and time.

use crate::rig::{Key, MS, S};
use keyway_core::{
    Action, Admission, Counters, Event, FlightId, Instant, KeyspaceId, LeaseEvent, Limits,
    LoadError, Loaded, OnSoftExpiry, Outcome, Request, Settings, Shard, TICK_US, Token, Verdict,
    WarmAdmission,
};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) const KEYSPACES: [KeyspaceId; 2] = [KeyspaceId(1), KeyspaceId(7)];
const KEYS: usize = 30;
pub(super) const MAX_IN_FLIGHT: u32 = 4;

/// Xorshift64*: independent of the generator of the crate.
pub(super) struct Dice(u64);

impl Dice {
    fn below(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(super) type Name = (KeyspaceId, Vec<u8>);

/// The state of a key in the store.
#[derive(Clone, Copy, Default)]
pub(super) struct Stored {
    pub(super) version: u32,
    pub(super) corrupt: bool,
    pub(super) revoked: bool,
}

/// A load in progress: its result was fixed when it began.
struct Loading {
    flight: FlightId,
    found: Stored,
    ends_at: Instant,
}

pub(super) struct Waiting {
    pub(super) name: Name,
    /// When the wait of a request must have ended; `None` for a force-refresh, with the time of its call.
    pub(super) until: Option<Instant>,
    pub(super) called_at: Instant,
    pub(super) force: bool,
}

#[derive(Default)]
pub(super) struct Kms {
    pub(super) asked_at: Option<Instant>,
    pub(super) answers_at: Instant,
    /// 0: grants, 1: denies, 2: does not answer.
    pub(super) mood: u64,
    /// No lease can last longer than this.
    pub(super) lease_end_max: Instant,
    pub(super) locked: bool,
    /// Since when no key may be in memory.
    pub(super) dead_since: Option<Instant>,
}

/// The promises made for one key.
#[derive(Default)]
pub(super) struct Promised {
    pub(super) version: u32,
    /// No load that began before this may be served.
    pub(super) refreshed_at: Instant,
}

/// What the shard loads from.
pub(super) struct Store {
    pub(super) keys: BTreeMap<Name, Stored>,
    /// Some loads fail.
    pub(super) fails: bool,
}

pub(super) struct World {
    pub(super) dice: Dice,
    pub(super) shard: Shard<Key>,
    pub(super) now: Instant,
    pub(super) alive: Rc<Cell<usize>>,
    pub(super) store: Store,
    pub(super) kms: BTreeMap<KeyspaceId, Kms>,
    loads: Vec<Loading>,
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) promised: BTreeMap<Name, Promised>,
    /// The counters of each keyspace at the last check.
    pub(super) counted: BTreeMap<KeyspaceId, Counters>,
    pub(super) tokens: u64,
    pub(super) served: u64,
}

fn limits() -> Limits {
    Limits {
        entries_max: 28,
        key_bytes_max: 1_500,
        flights_max: 10,
        on_demand_reserve: 4,
        waiters_max: 20,
        negatives_max: 4,
        revoked_max: 3,
        flight_time_limit_us: 40 * MS,
        ..Limits::default()
    }
}

pub(super) fn short_settings() -> Settings {
    Settings {
        soft_ttl_ms: 200,
        hard_ttl_ms: 1_000,
        dek_lease_ms: 2_000,
        max_in_flight: MAX_IN_FLIGHT,
        ..Settings::default()
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            dice: Dice(seed | 1),
            shard: Shard::new(limits(), seed).expect("the limits are valid"),
            now: Instant::from_micros(seed % 5_000),
            alive: Rc::default(),
            store: Store {
                keys: BTreeMap::new(),
                fails: true,
            },
            kms: BTreeMap::new(),
            loads: Vec::new(),
            waiting: BTreeMap::new(),
            promised: BTreeMap::new(),
            counted: BTreeMap::new(),
            tokens: 0,
            served: 0,
        };
        for keyspace in KEYSPACES {
            world.kms.insert(keyspace, Kms::default());
            world
                .shard
                .handle_keyspace(world.now, keyspace, short_settings())
                .expect("the settings are valid");
            for key in 0..KEYS / 2 {
                let stored = Stored {
                    version: 1,
                    ..Stored::default()
                };
                world
                    .store
                    .keys
                    .insert((keyspace, format!("key-{key}").into_bytes()), stored);
            }
        }
        world
    }

    /// Returns a key, low numbers more often; some of them are not in the store.
    fn any_name(&mut self) -> Name {
        let keyspace = KEYSPACES[self.dice.below(2) as usize];
        let most = 1 + self.dice.below(KEYS as u64);
        (
            keyspace,
            format!("key-{}", self.dice.below(most)).into_bytes(),
        )
    }

    pub(super) fn step(&mut self) {
        match self.dice.below(100) {
            0..30 => self.request(),
            30..34 => self.force(),
            34..37 => self.put(),
            37 if self.dice.one_in(8) => self.revoke(),
            38 if self.dice.one_in(4) => self.corrupt(),
            39 if self.dice.one_in(6) => self.lock(),
            40..43 => self.unlock(),
            43 => {
                let keyspace = KEYSPACES[self.dice.below(2) as usize];
                self.kms.get_mut(&keyspace).expect("known").mood = self.dice.below(8);
            }
            44 => self.change_settings(),
            45..50 => self.leave(),
            50 => {
                let (keyspace, key_id) = self.any_name();
                let warming = self.shard.handle_warm_key(self.now, keyspace, &key_id);
                let gauges = self.shard.gauges(self.now, keyspace).expect("known");
                let share = gauges.max_in_flight_share as usize;
                assert!(
                    warming != WarmAdmission::Queued
                        || (gauges.lease_left_us > 0 && gauges.warming_keys <= share),
                    "queued without need: {gauges:?}"
                );
            }
            51 => self.answer_late(),
            52 if self.dice.one_in(20) => self.pass(3 * S),
            53 if self.dice.one_in(5) => self.pass(300 * MS),
            54..75 => {
                let us = self.dice.below(900);
                self.pass(us);
            }
            _ => self.pass(TICK_US),
        }
        self.drain();
        self.check();
    }

    fn request(&mut self) {
        let (keyspace, key_id) = self.any_name();
        self.request_for(keyspace, key_id);
    }

    pub(super) fn request_for(&mut self, keyspace: KeyspaceId, key_id: Vec<u8>) {
        self.tokens += 1;
        let deadline_us = self.dice.below(8_000);
        let deadline = self.dice.one_in(3).then(|| self.now.plus_us(deadline_us));
        let budget_us = self
            .shard
            .settings(keyspace)
            .expect("known")
            .sign_wait_budget_us;
        let token = self.tokens;
        let request = Request {
            token: Token(token),
            keyspace,
            key_id: &key_id,
            deadline,
        };
        let (version, age_us, expires_at) = match self.shard.handle_request(self.now, request) {
            Verdict::Serve(grant) => (grant.version, grant.age_us, grant.expires_at),
            Verdict::Wait => {
                let budget_ends_at = self.now.plus_us(budget_us);
                let until = Some(budget_ends_at.min(deadline.unwrap_or(Instant::MAX)));
                let (name, called_at) = ((keyspace, key_id), self.now);
                self.waiting.insert(
                    token,
                    Waiting {
                        name,
                        until,
                        called_at,
                        force: false,
                    },
                );
                return;
            }
            Verdict::Refuse(refusal) => return self.check_refusal(&(keyspace, key_id), refusal),
        };
        assert!(
            deadline.is_none_or(|deadline| deadline > self.now),
            "served too late"
        );
        self.check_served((keyspace, key_id), version, age_us, expires_at);
    }

    fn force(&mut self) {
        let (keyspace, key_id) = self.any_name();
        self.tokens += 1;
        let deadline_us = self.dice.below(100_000);
        let deadline = self.dice.one_in(2).then(|| self.now.plus_us(deadline_us));
        let token = Token(self.tokens);
        let (now, shard) = (self.now, &mut self.shard);
        match shard.handle_force_refresh(now, token, keyspace, &key_id, deadline) {
            Admission::Waiting => {
                let name = (keyspace, key_id);
                let waiting = Waiting {
                    name,
                    until: deadline,
                    called_at: now,
                    force: true,
                };
                self.waiting.insert(token.0, waiting);
            }
            Admission::Refused(refusal) => self.check_refusal(&(keyspace, key_id), refusal),
        }
    }

    fn put(&mut self) {
        let name = self.any_name();
        let stored = self.store.keys.entry(name.clone()).or_default();
        if stored.revoked {
            return;
        }
        stored.version += 1;
        stored.corrupt = false;
        let version = stored.version;
        self.shard.handle_stored(self.now, name.0, &name.1, version);
    }

    fn revoke(&mut self) {
        let name = self.any_name();
        self.store.keys.entry(name.clone()).or_default().revoked = true;
        self.shard.handle_revoked(self.now, name.0, &name.1);
    }

    fn corrupt(&mut self) {
        let name = self.any_name();
        if let Some(stored) = self.store.keys.get_mut(&name) {
            stored.corrupt = true;
        }
    }

    fn lock(&mut self) {
        let keyspace = KEYSPACES[self.dice.below(2) as usize];
        self.shard.handle_lock(self.now, keyspace);
        let kms = self.kms.get_mut(&keyspace).expect("known");
        kms.locked = true;
        kms.lease_end_max = Instant::ZERO;
    }

    fn unlock(&mut self) {
        let keyspace = KEYSPACES[self.dice.below(2) as usize];
        self.unlock_this(keyspace);
    }

    pub(super) fn unlock_this(&mut self, keyspace: KeyspaceId) {
        let ticket = self.shard.handle_unlock(self.now, keyspace).expect("known");
        assert!(self.shard.unlock_status(keyspace, ticket).is_some());
        self.kms.get_mut(&keyspace).expect("known").locked = false;
    }

    fn change_settings(&mut self) {
        let keyspace = KEYSPACES[self.dice.below(2) as usize];
        let mut settings = short_settings();
        settings.soft_ttl_ms = 50 + self.dice.below(400);
        settings.hard_ttl_ms = 500 + self.dice.below(1_000);
        settings.dek_lease_ms = 500 + self.dice.below(4_000);
        settings.max_in_flight = self.dice.below(u64::from(MAX_IN_FLIGHT) + 1) as u32;
        settings.sign_wait_budget_us = self.dice.below(6_000);
        settings.jitter_pct = self.dice.below(30) as u8;
        if self.dice.one_in(2) {
            settings.on_soft_expiry = OnSoftExpiry::ServeStale;
        }
        self.shard
            .handle_keyspace(self.now, keyspace, settings)
            .expect("the settings are valid");
    }

    fn leave(&mut self) {
        let token = 1 + self.dice.below(self.tokens + 1);
        self.shard.handle_waiter_gone(self.now, Token(token));
        self.waiting.remove(&token);
    }

    /// Sends a second result for a load that may still be in progress.
    fn answer_late(&mut self) {
        if let Some(loading) = self.loads.first()
            && self.dice.one_in(2)
        {
            let flight = loading.flight;
            self.shard
                .handle_loaded(self.now, flight, Err(LoadError::Panicked));
        }
    }

    pub(super) fn pass(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
        self.answer_loads();
        self.answer_questions();
        self.shard.handle_tick(self.now);
        self.drain();
        for (token, waiting) in &self.waiting {
            let until = waiting.until.unwrap_or(Instant::MAX);
            assert!(
                self.now < until.plus_us(TICK_US),
                "{token} still waits after its time limit"
            );
        }
    }

    fn answer_loads(&mut self) {
        let (over, under_way): (Vec<_>, Vec<_>) = core::mem::take(&mut self.loads)
            .into_iter()
            .partition(|l| l.ends_at <= self.now);
        self.loads = under_way;
        for Loading { flight, found, .. } in over {
            let fault = if self.store.fails {
                self.dice.below(30)
            } else {
                99
            };
            let result = match fault {
                0 => Err(LoadError::Store),
                1 => Err(LoadError::Panicked),
                2 => Err(LoadError::DekMissing),
                3 => Err(LoadError::TimedOut),
                _ if found.revoked => Err(LoadError::Revoked),
                _ if found.version == 0 => Err(LoadError::NotFound),
                _ if found.corrupt => Err(LoadError::Corrupt),
                _ => Ok(Loaded {
                    value: Key::new(&self.alive),
                    version: found.version,
                    key_bytes: 50 + self.dice.below(100) as usize,
                    not_after: self.dice.one_in(20).then(|| self.now.plus_us(150 * MS)),
                    dek_generation: 1,
                }),
            };
            self.shard.handle_loaded(self.now, flight, result);
        }
    }

    fn answer_questions(&mut self) {
        for keyspace in KEYSPACES {
            let kms = self.kms.get_mut(&keyspace).expect("known");
            let Some(sent_at) = kms.asked_at else {
                continue;
            };
            if kms.answers_at > self.now {
                continue;
            }
            kms.asked_at = None;
            let event = match kms.mood {
                1 => LeaseEvent::Denied,
                2 => LeaseEvent::Unavailable { retry_after_us: 0 },
                3 => LeaseEvent::Failed,
                _ => {
                    let lease_ms = self.shard.settings(keyspace).expect("known").dek_lease_ms;
                    if !kms.locked {
                        let ends_at = sent_at.plus_us(lease_ms * MS);
                        kms.lease_end_max = kms.lease_end_max.max(ends_at);
                    }
                    LeaseEvent::Granted {
                        sent_at,
                        generation: 1,
                    }
                }
            };
            self.shard.handle_lease(self.now, keyspace, event);
        }
    }

    fn drain(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Load {
                    flight,
                    keyspace,
                    key_id,
                    ..
                } => {
                    assert!(self.shard.begin_load(self.now, flight));
                    let name = (keyspace, key_id.to_vec());
                    let found = self.store.keys.get(&name).copied().unwrap_or_default();
                    // Some are longer than the time limit of a flight.
                    let scale = if self.dice.one_in(20) {
                        100 * MS
                    } else {
                        2 * MS
                    };
                    let ends_at = self.now.plus_us(self.dice.below(scale));
                    self.loads.push(Loading {
                        flight,
                        found,
                        ends_at,
                    });
                }
                Action::Unwrap { keyspace } => {
                    let took_us = self.dice.below(20 * MS);
                    let kms = self.kms.get_mut(&keyspace).expect("known");
                    assert!(kms.asked_at.is_none(), "two requests at a time");
                    assert!(!kms.locked, "an unwrap for a locked keyspace");
                    kms.asked_at = Some(self.now);
                    kms.answers_at = self.now.plus_us(took_us);
                }
                Action::DropDek { .. } => {}
                Action::Report(Event::VersionWentBack { .. }) => {
                    panic!("versions in this store never decrease")
                }
                Action::Report(_) => {}
            }
        }
        self.hand_out();
    }

    fn hand_out(&mut self) {
        while let Some((token, outcome)) = self.shard.poll_ready(self.now) {
            let served = match outcome {
                Outcome::Serve(grant) => Ok((grant.version, grant.age_us, grant.expires_at)),
                Outcome::Refreshed { version } => {
                    let waiting = self.answered(token.0);
                    assert!(waiting.force);
                    let promised = self.promised.entry(waiting.name).or_default();
                    assert!(version >= promised.version, "the version decreased");
                    promised.refreshed_at = promised.refreshed_at.max(waiting.called_at);
                    continue;
                }
                Outcome::Refuse(refusal) => Err(refusal),
                Outcome::Dek => unreachable!("no write requested a DEK"),
            };
            let waiting = self.answered(token.0);
            match served {
                Ok((version, age_us, expires_at)) => {
                    self.check_served(waiting.name, version, age_us, expires_at);
                }
                Err(refusal) => self.check_refusal(&waiting.name, refusal),
            }
        }
    }

    fn answered(&mut self, token: u64) -> Waiting {
        self.waiting
            .remove(&token)
            .expect("one answer for each that waits")
    }
}
