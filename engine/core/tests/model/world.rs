//! The shard, a store and a KMS that always answer, and the reference next to them.

use crate::reference::{Answer, Reference};
use crate::{Change, Damage, Operation};
use keyway_core::{
    Action, Admission, FlightId, Instant, KeyspaceId, LeaseEvent, Limits, LoadError, Loaded,
    OnSoftExpiry, Outcome, Refusal, Request, Settings, Shard, Token, Verdict,
};

const KEYSPACE: KeyspaceId = KeyspaceId(1);
const MS: u64 = 1_000;
/// Longest time between two ticks, in ms: real ticks would make long times slow.
const TICK_MS_MAX: u64 = 250;

struct Loading {
    flight: FlightId,
    found: Answer,
    ends_at: u64,
}

pub struct World {
    shard: Shard<()>,
    reference: Reference,
    loads: Vec<Loading>,
    tokens: u64,
    /// The results of waits.
    answers: Vec<(u64, Answer)>,
}

impl World {
    pub fn new(reference: Reference) -> Self {
        let terms = reference.terms;
        let settings = Settings {
            soft_ttl_ms: terms.soft,
            hard_ttl_ms: terms.hard,
            // No run is that long: the lease ends by a lock only.
            dek_lease_ms: 30 * 86_400_000,
            refresh_window_ms: Some(0),
            low_water_pct: 0,
            max_in_flight: 0,
            sign_wait_budget_us: terms.wait * MS,
            on_soft_expiry: if terms.serve_stale {
                OnSoftExpiry::ServeStale
            } else {
                OnSoftExpiry::Wait
            },
            jitter_pct: 0,
            delete_wait_ms: 0,
        };
        let mut shard = Shard::new(Limits::default(), 42).expect("the limits are valid");
        shard
            .handle_keyspace(Instant::ZERO, KEYSPACE, settings)
            .expect("the settings are valid");
        Self {
            shard,
            reference,
            loads: Vec::new(),
            tokens: 0,
            answers: Vec::new(),
        }
    }

    /// Returns the results of the shard and of the reference.
    pub fn carry_out(&mut self, operation: Operation) -> (Answer, Answer) {
        let answers = match operation {
            Operation::Request(key) => {
                let expected = self.reference.clone();
                let token = self.request(key);
                self.settle();
                let got = self.answer_to(token);
                (
                    got,
                    self.with_reference_of(expected, |reference| reference.request(key)),
                )
            }
            Operation::ForceRefresh(key) => {
                let expected = self.reference.clone();
                let token = self.force_refresh(key);
                self.settle();
                let got = self.answer_to(token);
                let force = |reference: &mut Reference| reference.force_refresh(key);
                (got, self.with_reference_of(expected, force))
            }
            Operation::Change(key, change) => {
                // The store answers like the reference: it is not under test here.
                self.change(key, change);
                self.settle();
                (Answer::default(), Answer::default())
            }
            Operation::RequestAndChange(key, change) => self.request_and_change(key, change),
            Operation::ChangeAndRequest(key, change) => self.change_and_request(key, change),
            Operation::Unlock => {
                let now = self.now();
                let ticket = self.shard.handle_unlock(now, KEYSPACE);
                assert!(ticket.is_some(), "the keyspace exists");
                self.reference.locked = false;
                self.settle();
                (Answer::default(), Answer::default())
            }
            Operation::Pass(ms) => {
                self.pass(ms);
                (Answer::default(), Answer::default())
            }
            Operation::Sleep(ms) => {
                self.reference.now += ms;
                (Answer::default(), Answer::default())
            }
            Operation::Damage(key, damage) => {
                let key = self.reference.keys.entry(key).or_default();
                key.stored = match damage {
                    _ if key.version == 0 => Answer::NotFound,
                    Damage::Lost => Answer::NotFound,
                    Damage::Corrupt => Answer::Invalid,
                    Damage::Mended => Answer::Version(key.version),
                };
                (Answer::default(), Answer::default())
            }
        };
        self.shard.audit().expect("the audit passes");
        answers
    }

    /// Advances the reference to the time at which the shard was called.
    fn with_reference_of(
        &mut self,
        mut then: Reference,
        act: impl FnOnce(&mut Reference) -> Answer,
    ) -> Answer {
        let answer = act(&mut then);
        then.now = self.reference.now;
        self.reference = then;
        answer
    }

    fn request_and_change(&mut self, key: u8, change: Change) -> (Answer, Answer) {
        let terms = self.reference.terms;
        let undisturbed = self.reference.clone().request(key);
        let token = self.request(key);
        let at_once = self.take_answer(token);
        let loads = !self.loads.is_empty();
        let changed = self.change(key, change);
        let put = matches!((change, changed), (Change::Put, Answer::Version(_)));
        let mut then = self.reference.clone();
        if put && loads {
            // The load in flight is discarded, and repeated when it has arrived.
            then.now += terms.load;
            then.force_refresh(key);
        }
        let expected = match at_once {
            Some(_) => undisturbed,
            None if put && terms.load > terms.wait => Answer::Retry,
            None => then.request(key),
        };
        self.settle();
        let got = at_once.unwrap_or_else(|| self.answer_to(token));
        (got, self.with_reference_of(then, |_| expected))
    }

    fn change_and_request(&mut self, key: u8, change: Change) -> (Answer, Answer) {
        self.change(key, change);
        let reloads = !self.loads.is_empty();
        let mut then = self.reference.clone();
        let expected = if reloads && then.terms.load > then.terms.wait {
            // The old version is no longer served, and the new one does not arrive in time.
            Answer::Retry
        } else {
            then.request(key)
        };
        let token = self.request(key);
        self.settle();
        let got = self.answer_to(token);
        (got, self.with_reference_of(then, |_| expected))
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.reference.now * MS)
    }

    fn request(&mut self, key: u8) -> u64 {
        self.tokens += 1;
        let request = Request {
            token: Token(self.tokens),
            keyspace: KEYSPACE,
            key_id: &[key],
            deadline: None,
        };
        let now = self.now();
        let answer = match self.shard.handle_request(now, request) {
            Verdict::Serve(grant) => Some(served(grant.version, grant.stale)),
            Verdict::Wait => None,
            Verdict::Refuse(refusal) => Some(refused(refusal)),
        };
        self.answers
            .extend(answer.map(|answer| (self.tokens, answer)));
        self.drain();
        self.tokens
    }

    fn force_refresh(&mut self, key: u8) -> u64 {
        self.tokens += 1;
        let (now, token) = (self.now(), Token(self.tokens));
        let admission = self
            .shard
            .handle_force_refresh(now, token, KEYSPACE, &[key], None);
        if let Admission::Refused(refusal) = admission {
            self.answers.push((token.0, refused(refusal)));
        }
        self.drain();
        token.0
    }

    /// Applies a change to both, as a server does once the store has accepted it.
    fn change(&mut self, key: u8, change: Change) -> Answer {
        let now = self.now();
        let known = self.reference.keys.get(&key);
        let changed = match change {
            Change::Put => {
                let first = known.is_none_or(|key| key.version == 0);
                self.reference.put(key, first)
            }
            Change::Revoke => self.reference.revoke(key),
            Change::Lock => {
                self.reference.lock();
                self.shard.handle_lock(now, KEYSPACE);
                Answer::NeedsUnlock
            }
        };
        if let Answer::Version(version) = changed {
            match change {
                Change::Revoke => self.shard.handle_revoked(now, KEYSPACE, &[key]),
                _ => self.shard.handle_stored(now, KEYSPACE, &[key], version),
            }
        }
        self.drain();
        changed
    }

    /// Lets everything in flight arrive.
    fn settle(&mut self) {
        loop {
            let now = self.reference.now;
            let over = self.loads.extract_if(.., |load| load.ends_at <= now);
            let over: Vec<_> = over.collect();
            let arrived = !over.is_empty();
            for load in over {
                let result = match load.found {
                    Answer::Version(version) => Ok(Loaded {
                        value: (),
                        version,
                        key_bytes: 100,
                        not_after: None,
                        dek_generation: 1,
                    }),
                    Answer::Invalid => Err(LoadError::Corrupt),
                    _ => Err(LoadError::NotFound),
                };
                self.shard.handle_loaded(self.now(), load.flight, result);
            }
            self.drain();
            match self.loads.is_empty() {
                true => return,
                false if arrived => {}
                false => self.tick(1),
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        let until = self.reference.now + ms;
        while self.reference.now < until {
            self.tick(TICK_MS_MAX.min(until - self.reference.now));
            assert!(self.loads.is_empty(), "no key was requested");
        }
    }

    fn tick(&mut self, ms: u64) {
        self.reference.now += ms;
        self.shard.handle_tick(self.now());
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(action) = self.shard.poll_action() {
            let now = self.now();
            match action {
                Action::Load { flight, key_id, .. } => {
                    assert!(self.shard.begin_load(now, flight));
                    let known = self.reference.keys.get(&key_id[0]);
                    self.loads.push(Loading {
                        flight,
                        found: known.map_or(Answer::NotFound, |key| key.stored),
                        ends_at: self.reference.now + self.reference.terms.load,
                    });
                }
                Action::Unwrap { .. } => {
                    let (sent_at, generation) = (now, 1);
                    let granted = LeaseEvent::Granted {
                        sent_at,
                        generation,
                    };
                    self.shard.handle_lease(now, KEYSPACE, granted);
                }
                Action::DropDek { .. } | Action::Report(_) => {}
            }
        }
        while let Some((token, outcome)) = self.shard.poll_ready(self.now()) {
            let answer = match outcome {
                Outcome::Serve(grant) => served(grant.version, grant.stale),
                Outcome::Refreshed { version } => Answer::Version(version),
                Outcome::Refuse(refusal) => refused(refusal),
                Outcome::Dek => unreachable!("no write asks for a DEK here"),
            };
            self.answers.push((token.0, answer));
        }
    }

    fn take_answer(&mut self, token: u64) -> Option<Answer> {
        let at = self.answers.iter().position(|(of, _)| *of == token)?;
        Some(self.answers.remove(at).1)
    }

    /// Returns the one result of `token`, which must have arrived.
    fn answer_to(&mut self, token: u64) -> Answer {
        let answer = self.take_answer(token).expect("every request is answered");
        assert_eq!(self.answers, [], "and only once");
        answer
    }
}

fn served(version: u32, stale: bool) -> Answer {
    if stale {
        Answer::Stale(version)
    } else {
        Answer::Version(version)
    }
}

fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NotFound => Answer::NotFound,
        Refusal::Invalid => Answer::Invalid,
        Refusal::Revoked => Answer::Revoked,
        Refusal::NeedsUnlock { .. } => Answer::NeedsUnlock,
        Refusal::Retry { .. } => Answer::Retry,
        other => panic!("{other:?}: nothing here is a reason for it"),
    }
}
