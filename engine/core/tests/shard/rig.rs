//! A shard with a manual clock, and a record of all its outputs.

use keyway_core::{
    Action, Admission, Counters, DekRequest, DekVerdict, Event, FlightId, Instant, KeyspaceId,
    LeaseEvent, Lifecycle, Limits, LoadError, Loaded, Outcome, Refusal, Request, Settings, Shard,
    TICK_US, Token, Urgency, Verdict, View,
};
use std::cell::Cell;
use std::rc::Rc;

pub const PROD: KeyspaceId = KeyspaceId(1);
pub const OTHER: KeyspaceId = KeyspaceId(2);
pub const MS: u64 = 1_000;
pub const S: u64 = 1_000_000;

/// Stands for an unlocked key, and counts how many of its kind are in memory.
#[derive(Debug)]
pub struct Key {
    alive: Rc<Cell<usize>>,
}

impl Key {
    pub fn new(alive: &Rc<Cell<usize>>) -> Self {
        alive.set(alive.get() + 1);
        Self {
            alive: Rc::clone(alive),
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

/// A load that the shard requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub flight: FlightId,
    pub key: String,
    pub urgency: Urgency,
}

/// The immediate answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Fresh(u32),
    Stale(u32),
    Wait,
    Refused(Refusal),
}

/// The final answer to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Served after a wait: the version.
    Fresh(u32),
    Stale(u32),
    Refused(Refusal),
    Refreshed(u32),
    /// A write has its DEK.
    Dek,
}

pub struct Rig {
    pub shard: Shard<Key>,
    pub now: Instant,
    /// Number of keys in memory.
    pub alive: Rc<Cell<usize>>,
    pub loads: Vec<Load>,
    /// A load that has ended, for late results.
    pub old_load: Option<Load>,
    pub unwraps: usize,
    pub dropped_deks: usize,
    pub ended: Vec<(u64, Ended)>,
    pub events: Vec<Event>,
    /// The test itself begins loads after they are requested.
    pub queues_loads: bool,
    tokens: u64,
}

/// Without jitter, so that times are exact: soft 10 s, hard 60 s, lease 100 s.
pub fn settings() -> Settings {
    Settings {
        soft_ttl_ms: 10_000,
        hard_ttl_ms: 60_000,
        dek_lease_ms: 100_000,
        jitter_pct: 0,
        ..Settings::default()
    }
}

impl Rig {
    pub fn new() -> Self {
        Self::with(Limits::default(), settings())
    }

    pub fn with(limits: Limits, settings: Settings) -> Self {
        let mut shard = Shard::new(limits, 42).expect("the limits are valid");
        let now = Instant::from_micros(1_000 * S);
        shard
            .handle_keyspace(now, PROD, settings)
            .expect("the settings are valid");
        Self {
            shard,
            now,
            alive: Rc::default(),
            loads: Vec::new(),
            old_load: None,
            unwraps: 0,
            dropped_deks: 0,
            ended: Vec::new(),
            events: Vec::new(),
            queues_loads: false,
            tokens: 0,
        }
    }

    /// Creates a rig with an available DEK.
    pub fn leased() -> Self {
        Self::leased_with(settings())
    }

    pub fn leased_with(settings: Settings) -> Self {
        let mut rig = Self::with(Limits::default(), settings);
        rig.grant();
        rig
    }

    pub fn drain(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Load {
                    flight,
                    key_id,
                    urgency,
                    ..
                } => {
                    if !self.queues_loads {
                        assert!(
                            self.shard.begin_load(self.now, flight),
                            "it was just requested"
                        );
                    }
                    let key = String::from_utf8(key_id.to_vec()).expect("test keys are text");
                    self.loads.push(Load {
                        flight,
                        key,
                        urgency,
                    });
                }
                Action::Unwrap { .. } => self.unwraps += 1,
                Action::DropDek { .. } => self.dropped_deks += 1,
                Action::Report(event) => self.events.push(event),
            }
        }
        while self.take_ready() {}
        self.shard.audit().expect("the audit passes");
    }

    /// Takes the next waiter whose wait has ended. Returns `false` if there is none.
    pub fn take_ready(&mut self) -> bool {
        let Some((token, outcome)) = self.shard.poll_ready(self.now) else {
            return false;
        };
        let ended = match outcome {
            Outcome::Serve(grant) if grant.stale => Ended::Stale(grant.version),
            Outcome::Serve(grant) => Ended::Fresh(grant.version),
            Outcome::Refreshed { version } => Ended::Refreshed(version),
            Outcome::Dek => Ended::Dek,
            Outcome::Refuse(refusal) => Ended::Refused(refusal),
        };
        self.ended.push((token.0, ended));
        true
    }

    /// Sends a request as `token`.
    pub fn request_by(&mut self, token: u64, key: &str, deadline: Option<Instant>) -> Got {
        let request = Request {
            token: Token(token),
            keyspace: PROD,
            key_id: key.as_bytes(),
            deadline,
        };
        let got = match self.shard.handle_request(self.now, request) {
            Verdict::Serve(grant) if grant.stale => Got::Stale(grant.version),
            Verdict::Serve(grant) => Got::Fresh(grant.version),
            Verdict::Wait => Got::Wait,
            Verdict::Refuse(refusal) => Got::Refused(refusal),
        };
        self.drain();
        got
    }

    /// Sends a request with a new token.
    pub fn request(&mut self, key: &str) -> Got {
        self.tokens += 1;
        self.request_by(1_000_000 + self.tokens, key, None)
    }

    /// Sends a write as `token` that needs a DEK of this generation, and waits for 3 s.
    pub fn want_dek(
        &mut self,
        token: u64,
        generation: u32,
        deadline: Option<Instant>,
    ) -> DekVerdict {
        let request = DekRequest {
            token: Token(token),
            keyspace: PROD,
            generation,
            wait_us: 3 * S,
            deadline,
        };
        let verdict = self.shard.handle_wanted(self.now, request);
        self.drain();
        verdict
    }

    pub fn try_force(&mut self, token: u64, key: &str) -> Admission {
        let (now, token) = (self.now, Token(token));
        let admission = self
            .shard
            .handle_force_refresh(now, token, PROD, key.as_bytes(), None);
        self.drain();
        admission
    }

    /// Sends a force-refresh, which must be accepted.
    pub fn force(&mut self, token: u64, key: &str) {
        assert_eq!(self.try_force(token, key), Admission::Waiting);
    }

    pub fn loaded(&self, version: u32) -> Loaded<Key> {
        let value = Key::new(&self.alive);
        Loaded {
            value,
            version,
            key_bytes: 100,
            not_after: None,
            dek_generation: 1,
        }
    }

    pub fn answer(&mut self, load: &Load, result: Result<Loaded<Key>, LoadError>) {
        self.shard.handle_loaded(self.now, load.flight, result);
        self.drain();
    }

    /// Takes the oldest unanswered load.
    pub fn take_load(&mut self) -> Load {
        assert!(!self.loads.is_empty(), "nothing is being loaded");
        self.loads.remove(0)
    }

    pub fn land(&mut self, version: u32) {
        let load = self.take_load();
        let loaded = self.loaded(version);
        self.answer(&load, Ok(loaded));
    }

    /// Sends a request, leaving verdict and actions to the caller.
    pub fn shard_request(&mut self, token: u64, key: &str) {
        let key_id = key.as_bytes();
        let request = Request {
            token: Token(token),
            keyspace: PROD,
            key_id,
            deadline: None,
        };
        let _ = self.shard.handle_request(self.now, request);
    }

    /// Answers all pending loads with version 1, without any checks.
    pub fn land_now(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            if let Action::Load { flight, .. } = action {
                assert!(self.shard.begin_load(self.now, flight));
                let loaded = self.loaded(1);
                self.shard.handle_loaded(self.now, flight, Ok(loaded));
            }
        }
    }

    /// As [`Rig::land`], leaving actions and ended waits to the caller.
    pub fn land_without_drain(&mut self, version: u32) {
        let load = self.take_load();
        let loaded = self.loaded(version);
        self.shard.handle_loaded(self.now, load.flight, Ok(loaded));
    }

    pub fn fail(&mut self, error: LoadError) {
        let load = self.take_load();
        self.answer(&load, Err(error));
    }

    /// Loads a key, by a request that waits for it.
    pub fn load(&mut self, key: &str, version: u32) {
        assert_eq!(self.request(key), Got::Wait);
        let at = self
            .loads
            .iter()
            .position(|load| load.key == key)
            .expect("it is being loaded");
        let load = self.loads.remove(at);
        let loaded = self.loaded(version);
        self.answer(&load, Ok(loaded));
        self.ended.clear();
    }

    /// Advances time, without a tick, until the key may be loaded again.
    pub fn wait_out_backoff(&mut self, key: &str) {
        while self.view(key).backing_off {
            self.sleep(MS);
        }
    }

    pub fn lease(&mut self, event: LeaseEvent) {
        self.shard.handle_lease(self.now, PROD, event);
        self.drain();
    }

    /// Grants the DEK for a request sent now.
    pub fn grant(&mut self) {
        self.grant_generation(1);
    }

    pub fn grant_generation(&mut self, generation: u32) {
        let sent_at = self.now;
        self.lease(LeaseEvent::Granted {
            sent_at,
            generation,
        });
    }

    pub fn tick(&mut self) {
        self.shard.handle_tick(self.now);
        self.drain();
    }

    /// Advances time with a tick every millisecond.
    pub fn pass(&mut self, us: u64) {
        let until = self.now.plus_us(us);
        while self.now < until {
            self.now = self.now.plus_us(TICK_US).min(until);
            self.shard.handle_tick(self.now);
        }
        self.drain();
    }

    /// Advances time with one tick at its end.
    pub fn jump(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
        self.tick();
    }

    /// Advances time without a tick: what a request sees before the timers fire.
    pub fn sleep(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
    }

    pub fn stored(&mut self, key: &str, version: u32) {
        self.shard
            .handle_stored(self.now, PROD, key.as_bytes(), version);
        self.drain();
    }

    pub fn revoked(&mut self, key: &str) {
        self.shard.handle_revoked(self.now, PROD, key.as_bytes());
        self.drain();
    }

    pub fn lock(&mut self) {
        self.shard.handle_lock(self.now, PROD);
        self.drain();
    }

    pub fn unlock(&mut self) -> u64 {
        let ticket = self
            .shard
            .handle_unlock(self.now, PROD)
            .expect("the keyspace exists");
        self.drain();
        ticket
    }

    pub fn set(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self
            .shard
            .settings(PROD)
            .expect("the keyspace exists")
            .clone();
        change(&mut settings);
        self.shard
            .handle_keyspace(self.now, PROD, settings)
            .expect("the settings are valid");
        self.drain();
    }

    pub fn gone(&mut self, token: u64) {
        self.shard.handle_waiter_gone(self.now, Token(token));
        self.drain();
    }

    pub fn view(&self, key: &str) -> View {
        self.shard
            .view(self.now, PROD, key.as_bytes())
            .expect("the keyspace exists")
    }

    pub fn lifecycle(&self, key: &str) -> Lifecycle {
        self.view(key).lifecycle
    }

    pub fn counters(&self) -> &Counters {
        self.shard.counters(PROD).expect("the keyspace exists")
    }

    /// Returns the result of `token`, which must have exactly one.
    pub fn end_of(&self, token: u64) -> Ended {
        let ends: Vec<_> = self.ended.iter().filter(|(of, _)| *of == token).collect();
        assert_eq!(ends.len(), 1, "answers to {token}: {ends:?}");
        ends[0].1
    }

    pub fn is_waiting(&self, token: u64) -> bool {
        self.ended.iter().all(|(of, _)| *of != token)
    }
}

/// Returns `true` for a refusal with RETRY, whatever the hint.
pub fn is_retry(got: Got) -> bool {
    matches!(got, Got::Refused(Refusal::Retry { after_us: 1.. }))
}

pub fn needs_unlock(got: Got) -> bool {
    matches!(got, Got::Refused(Refusal::NeedsUnlock { ticket: 1.. }))
}
