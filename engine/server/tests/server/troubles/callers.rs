//! Callers of a keyspace throughout a fault: one uses a key that is in use, one asks for keys that are not loaded, one
//! writes. Each request's status is recorded with its time.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keyway_protocol::{Algorithm, KeyGenerate, NewKey, Octets, Request, Status, Usage};

use super::KEYSPACE;
use crate::common::pipeline::Pipeline;
use crate::common::{Ends, Server};

/// A client's default.
const DEADLINE_US: u32 = 5_000_000;
const PAUSE: Duration = Duration::from_millis(20);
/// The sampled keys are loaded or written, so they are fewer.
const PAUSE_OF_FILES: Duration = Duration::from_millis(60);

/// What a caller asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    InUse,
    Cold,
    Write,
}

const KINDS: [(Kind, &str); 3] = [
    (Kind::InUse, "in use"),
    (Kind::Cold, "cold"),
    (Kind::Write, "write"),
];

#[derive(Clone, Copy, Debug)]
struct Sample {
    kind: Kind,
    began: Instant,
    ended: Instant,
    status: Status,
}

/// Keys that exist and have never been used: each write makes one.
#[derive(Default)]
pub struct ColdKeys {
    names: Mutex<VecDeque<String>>,
    made: AtomicU64,
}

/// The answers so far.
pub struct Callers {
    samples: Mutex<Vec<Sample>>,
    began: Instant,
}

fn ask(pipeline: &mut Pipeline, request: &Request<'_>, key: &str) -> Status {
    let keyspace = pipeline.keyspace(KEYSPACE);
    loop {
        let reply = pipeline.ask_within(request, keyspace, key.as_bytes(), DEADLINE_US);
        // Every client repeats it.
        if reply.status != Status::Retry {
            return reply.status;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn generate() -> Request<'static> {
    let new_key = NewKey {
        algorithm: Some(Algorithm::HmacSha256),
        exportable: false,
        usage: Usage::NONE,
        not_after_unix_ms: 0,
    };
    Request::KeyGenerate(KeyGenerate { new_key })
}

impl Callers {
    /// Calls `then` while callers use the keyspace: an unused one is not renewed.
    pub fn during<T>(server: &Server, cold: &ColdKeys, then: impl FnOnce(&Callers) -> T) -> T {
        let callers = Callers {
            samples: Mutex::default(),
            began: Instant::now(),
        };
        let ends = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (kind, _) in KINDS {
                let (callers, ends) = (&callers, &ends);
                scope.spawn(move || callers.call(kind, server, cold, ends));
            }
            let _ends = Ends(&ends);
            then(&callers)
        })
    }

    fn call(&self, kind: Kind, server: &Server, cold: &ColdKeys, ends: &AtomicBool) {
        let mut pipeline = Pipeline::tcp(server);
        while !ends.load(Ordering::Relaxed) {
            let began = Instant::now();
            let mac = Request::Mac(Octets(b"message"));
            let status = match kind {
                Kind::InUse => Some(ask(&mut pipeline, &mac, "key")),
                Kind::Cold => cold.ask(&mut pipeline, &mac),
                Kind::Write => Some(cold.make(&mut pipeline)),
            };
            if let Some(status) = status {
                let ended = Instant::now();
                self.samples.lock().unwrap().push(Sample {
                    kind,
                    began,
                    ended,
                    status,
                });
            }
            std::thread::sleep(match kind {
                Kind::InUse => PAUSE,
                Kind::Cold | Kind::Write => PAUSE_OF_FILES,
            });
        }
    }

    fn of(&self, kind: Kind, keep: impl Fn(&Sample) -> bool) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap();
        let samples = samples.iter().filter(|it| it.kind == kind && keep(it));
        samples.copied().collect()
    }

    /// Returns the latest answer to the caller of the key in use.
    pub fn latest(&self) -> Option<Status> {
        self.of(Kind::InUse, |_| true).last().map(|it| it.status)
    }

    /// Returns `true` if every caller has had an answer to a request that it made after `since`.
    pub fn are_answered_since(&self, since: Instant) -> bool {
        KINDS
            .iter()
            .all(|(kind, _)| !self.of(*kind, |it| it.began >= since).is_empty())
    }

    /// Returns the last answer before the first that was not OK, and that one.
    fn end_of_service(&self) -> Option<(Option<Sample>, Sample)> {
        let used = self.of(Kind::InUse, |_| true);
        let first = used.iter().position(|it| it.status != Status::Ok)?;
        Some((first.checked_sub(1).map(|last| used[last]), used[first]))
    }

    /// Returns when service had ended.
    pub fn without_service_since(&self) -> Option<Instant> {
        self.end_of_service().map(|(_, first)| first.ended)
    }

    /// Returns the answers before the end of service, after it until `mended`, and from when the key in use was served
    /// again. A request that was in flight when service ended, or began again, belongs to neither.
    pub fn answers(&self, mended: Instant) -> [String; 3] {
        let (last, first) = self.end_of_service().expect("it was waited for");
        let until = last.map_or(self.began, |last| last.ended);
        let again = self.of(Kind::InUse, |it| {
            it.began >= mended && it.status == Status::Ok
        });
        let again = again.first().expect("it was waited for").ended;
        [
            self.cell(|it| it.ended <= until),
            self.cell(|it| it.began >= first.ended && it.ended <= mended),
            self.cell(|it| it.began >= again),
        ]
    }

    fn cell(&self, keep: impl Fn(&Sample) -> bool) -> String {
        let statuses = |kind| -> BTreeSet<String> {
            let samples = self.of(kind, &keep);
            let count = |status| samples.iter().filter(|it| it.status == status).count();
            let (needs, waited) = (count(Status::NeedsUnlock), count(Status::Unavailable));
            // A request that waits for a call that fails gets the latter. How many do is a matter of time only, so the
            // more frequent one stands for both.
            let rarer = match needs < waited {
                true => Status::NeedsUnlock,
                false => Status::Unavailable,
            };
            let is_listed = |status| needs == 0 || waited == 0 || status != rarer;
            let listed = samples.iter().filter(|it| is_listed(it.status));
            listed
                .map(|it| it.status.name().to_ascii_uppercase())
                .collect()
        };
        let of_each = KINDS.map(|(kind, name)| (name, statuses(kind)));
        let sampled: Vec<_> = of_each.iter().filter(|(_, all)| !all.is_empty()).collect();
        let words = |all: &BTreeSet<String>| all.iter().cloned().collect::<Vec<_>>().join(" or ");
        match sampled.first() {
            None => "—".to_owned(),
            Some((_, first)) if sampled.iter().all(|(_, all)| all == first) => words(first),
            Some(_) => {
                let parts = sampled
                    .iter()
                    .map(|(name, all)| format!("{name}: {}", words(all)));
                parts.collect::<Vec<_>>().join("; ")
            }
        }
    }
}

impl ColdKeys {
    /// Makes the first keys.
    pub fn prepare(&self, server: &Server) {
        /// As many as a caller asks for before service ends, with some to spare: each is cold only once.
        const KEYS: u32 = 60;
        let mut pipeline = Pipeline::tcp(server);
        for _ in 0..KEYS {
            assert_eq!(self.make(&mut pipeline), Status::Ok);
        }
    }

    fn make(&self, pipeline: &mut Pipeline) -> Status {
        let name = format!("cold-{}", self.made.fetch_add(1, Ordering::Relaxed));
        let status = ask(pipeline, &generate(), &name);
        if status == Status::Ok {
            self.names.lock().unwrap().push_back(name);
        }
        status
    }

    /// Uses a key for the first time. `None`: there is none left.
    fn ask(&self, pipeline: &mut Pipeline, request: &Request<'_>) -> Option<Status> {
        let name = self.names.lock().unwrap().pop_front()?;
        let status = ask(pipeline, request, &name);
        if status != Status::Ok {
            self.names.lock().unwrap().push_front(name);
        }
        Some(status)
    }
}
