//! Every state of a key × every event, against a readable table: `life_cycle.txt`.
//!
//! Each section of the table is a state; each line has an event, its outputs, and the state after it. When the table and
//! the shard differ, the test prints the actual table; change the file only after having read the line.

use crate::rig::*;
use keyway_core::{Event, LeaseEvent, Lifecycle, LoadError, Refusal, Settings};
use std::fmt::Write;

const TABLE: &str = include_str!("life_cycle.txt");
const KEY: &str = "key";
/// The token that waits, in states in which one can wait.
const WAITER: u64 = 1;
/// The token of the event itself.
const COMER: u64 = 2;

#[derive(Clone, Copy, Debug)]
enum State {
    Absent,
    Loading,
    AwaitingDek,
    Fresh,
    FreshRefreshing,
    Stale,
    StaleRefreshing,
    BackOff,
    StaleBackOff,
    Negative,
    Invalid,
    InvalidRereading,
    Revoked,
    NoLease,
    Unavailable,
    Locked,
    Denied,
    Expired,
}

const STATES: [State; 18] = [
    State::Absent,
    State::Loading,
    State::AwaitingDek,
    State::Fresh,
    State::FreshRefreshing,
    State::Stale,
    State::StaleRefreshing,
    State::BackOff,
    State::StaleBackOff,
    State::Negative,
    State::Invalid,
    State::InvalidRereading,
    State::Revoked,
    State::NoLease,
    State::Unavailable,
    State::Locked,
    State::Denied,
    State::Expired,
];

type Apply = fn(&mut Rig) -> Option<String>;

/// The events of the table. Results of loads are for the load in flight, or for one that ended long ago.
const EVENTS: [(&str, Apply); 24] = [
    ("request", |rig| Some(got(rig.request_by(COMER, KEY, None)))),
    ("request, too late", |rig| {
        Some(got(rig.request_by(COMER, KEY, Some(rig.now))))
    }),
    ("request, in a hurry", |rig| {
        let deadline = rig.now.plus_us(MS);
        Some(got(rig.request_by(COMER, KEY, Some(deadline))))
    }),
    ("force-refresh", |rig| {
        Some(match rig.try_force(COMER, KEY) {
            keyway_core::Admission::Waiting => "waits".into(),
            keyway_core::Admission::Refused(why) => refused(why),
        })
    }),
    ("loaded v6", |rig| {
        let loaded = rig.loaded(6);
        result(rig, Ok(loaded))
    }),
    ("loaded v4", |rig| {
        let loaded = rig.loaded(4);
        result(rig, Ok(loaded))
    }),
    ("not found", |rig| result(rig, Err(LoadError::NotFound))),
    ("corrupt", |rig| result(rig, Err(LoadError::Corrupt))),
    ("store: revoked", |rig| result(rig, Err(LoadError::Revoked))),
    ("dek missing", |rig| result(rig, Err(LoadError::DekMissing))),
    ("store failed", |rig| result(rig, Err(LoadError::Store))),
    ("loader panicked", |rig| {
        result(rig, Err(LoadError::Panicked))
    }),
    ("stored v6", |rig| {
        rig.stored(KEY, 6);
        None
    }),
    ("revoked", |rig| {
        rig.revoked(KEY);
        None
    }),
    ("granted", |rig| {
        rig.grant();
        None
    }),
    ("denied", |rig| lease(rig, LeaseEvent::Denied)),
    ("denied twice", |rig| {
        lease(rig, LeaseEvent::Denied);
        rig.sleep(S);
        lease(rig, LeaseEvent::Disabled)
    }),
    ("kms locked", |rig| lease(rig, LeaseEvent::Locked)),
    ("kms unavailable", |rig| {
        lease(rig, LeaseEvent::Unavailable { retry_after_us: 0 })
    }),
    ("lock", |rig| {
        rig.lock();
        None
    }),
    ("unlock", |rig| {
        rig.unlock();
        None
    }),
    ("waiter leaves", |rig| {
        rig.gone(WAITER);
        None
    }),
    ("4 ms pass", |rig| {
        rig.jump(4 * MS);
        None
    }),
    ("2 s pass", |rig| {
        rig.jump(2 * S + 10 * MS);
        None
    }),
];

fn got(got: Got) -> String {
    match got {
        Got::Fresh(version) => format!("served v{version}"),
        Got::Stale(version) => format!("served v{version} stale"),
        Got::Wait => "waits".into(),
        Got::Refused(why) => refused(why),
    }
}

fn refused(why: Refusal) -> String {
    match why {
        Refusal::NotFound => "NOT_FOUND",
        Refusal::Invalid => "INVALID",
        Refusal::Revoked => "REVOKED",
        Refusal::Retry { .. } => "RETRY",
        Refusal::NeedsUnlock { .. } => "NEEDS_UNLOCK",
        Refusal::Unavailable { .. } => "UNAVAILABLE",
        Refusal::Overloaded { .. } => "OVERLOADED",
        Refusal::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Refusal::NoKeyspace => "NO_KEYSPACE",
    }
    .into()
}

fn lease(rig: &mut Rig, event: LeaseEvent) -> Option<String> {
    rig.lease(event);
    None
}

fn result(rig: &mut Rig, result: Result<keyway_core::Loaded<Key>, LoadError>) -> Option<String> {
    let load = match rig.loads.pop() {
        Some(load) => load,
        None => rig.old_load.clone().expect("every rig has loaded before"),
    };
    rig.answer(&load, result);
    None
}

/// Returns a shard in which the key is in that state, without pending outputs from getting there.
fn rig_in(state: State) -> Rig {
    let mut rig = Rig::leased_with(Settings {
        max_in_flight: 0,
        ..settings()
    });
    let _ = rig.request("another");
    rig.old_load = rig.loads.first().cloned();
    rig.land(1);
    let live = |rig: &mut Rig| rig.load(KEY, 5);
    match state {
        State::Absent => {}
        State::Loading => {
            let _ = rig.request_by(WAITER, KEY, None);
        }
        State::AwaitingDek => {
            rig.jump(100 * S);
            let _ = rig.request_by(WAITER, KEY, None);
        }
        State::Fresh => live(&mut rig),
        State::FreshRefreshing => {
            live(&mut rig);
            rig.force(WAITER, KEY);
        }
        State::Stale => {
            live(&mut rig);
            rig.jump(10 * S);
        }
        State::StaleRefreshing => {
            live(&mut rig);
            rig.jump(10 * S);
            let _ = rig.request_by(WAITER, KEY, None);
        }
        State::BackOff => {
            for _ in 0..6 {
                let _ = rig.request(KEY);
                rig.fail(LoadError::Store);
                rig.wait_out_backoff(KEY);
            }
            let _ = rig.request(KEY);
            rig.fail(LoadError::Store);
        }
        State::StaleBackOff => {
            live(&mut rig);
            rig.jump(10 * S);
            for _ in 0..6 {
                let _ = rig.request(KEY);
                rig.fail(LoadError::Store);
                rig.wait_out_backoff(KEY);
            }
            let _ = rig.request(KEY);
            rig.fail(LoadError::Store);
        }
        State::Negative => {
            let _ = rig.request(KEY);
            rig.fail(LoadError::NotFound);
        }
        State::Invalid => {
            let _ = rig.request(KEY);
            rig.fail(LoadError::Corrupt);
            rig.fail(LoadError::Corrupt);
        }
        State::InvalidRereading => {
            let _ = rig.request(KEY);
            rig.fail(LoadError::Corrupt);
        }
        State::Revoked => rig.revoked(KEY),
        State::NoLease => {
            live(&mut rig);
            rig.jump(100 * S);
            rig.lease(LeaseEvent::Unavailable { retry_after_us: 0 });
            rig.unlock();
            rig.grant();
            rig.jump(100 * S);
        }
        State::Unavailable => {
            rig.jump(100 * S);
            let _ = rig.request(KEY);
            rig.lease(LeaseEvent::Unavailable {
                retry_after_us: 5 * S,
            });
        }
        State::Locked => {
            live(&mut rig);
            rig.lock();
        }
        State::Denied => {
            live(&mut rig);
            rig.lease(LeaseEvent::Denied);
            rig.sleep(S);
            rig.lease(LeaseEvent::Denied);
        }
        State::Expired => {
            live(&mut rig);
            rig.sleep(60 * S);
        }
    }
    rig.ended.clear();
    rig.events.clear();
    rig.unwraps = 0;
    rig.dropped_deks = 0;
    rig
}

/// Returns the outputs other than the immediate answer.
fn outcome(rig: &Rig, loads_before: &[Load]) -> Vec<String> {
    let mut outcome = Vec::new();
    for (token, ended) in &rig.ended {
        let who = if *token == WAITER { "waiter" } else { "comer" };
        let what = match ended {
            Ended::Fresh(version) => format!("served v{version}"),
            Ended::Stale(version) => format!("served v{version} stale"),
            Ended::Refused(why) => refused(*why),
            Ended::Refreshed(version) => format!("refreshed v{version}"),
            Ended::Dek => "DEK".into(),
        };
        outcome.push(format!("{who}: {what}"));
    }
    outcome.extend(
        rig.loads
            .iter()
            .filter(|load| !loads_before.contains(load))
            .map(|_| "load".into()),
    );
    outcome.extend((0..rig.unwraps).map(|_| "unwrap".into()));
    outcome.extend((0..rig.dropped_deks).map(|_| "drop-dek".into()));
    for event in &rig.events {
        let name = match event {
            Event::WaitTimeout { .. } => "log wait-timeout",
            Event::KeyInvalid { .. } => "log key-invalid",
            Event::KeyValid { .. } => "log key-valid",
            Event::KeyspaceDenied { .. } => "log denied",
            Event::VersionWentBack { .. } => "log version-went-back",
            _ => continue,
        };
        outcome.push(name.into());
    }
    outcome
}

fn describe(rig: &Rig) -> String {
    let view = rig.view(KEY);
    let gauges = rig
        .shard
        .gauges(rig.now, PROD)
        .expect("the keyspace exists");
    let mut text = match view.lifecycle {
        Lifecycle::Absent => "ABSENT".to_string(),
        Lifecycle::Loading => "LOADING".into(),
        Lifecycle::AwaitingDek => "AWAITING_DEK".into(),
        Lifecycle::Fresh => format!("FRESH v{}", view.version),
        Lifecycle::Stale => format!("STALE v{}", view.version),
        Lifecycle::BackOff => "BACK_OFF".into(),
        Lifecycle::Negative => "NEGATIVE".into(),
        Lifecycle::Invalid => "INVALID".into(),
        Lifecycle::Revoked => "REVOKED".into(),
    };
    let loading = matches!(view.lifecycle, Lifecycle::Loading | Lifecycle::AwaitingDek);
    if view.refreshing && !loading {
        text += " refreshing";
    }
    if view.backing_off && !view.refreshing && view.lifecycle != Lifecycle::BackOff {
        text += " backing-off";
    }
    if gauges.locked {
        text += ", locked";
    } else if gauges.denied {
        text += ", denied";
    } else if gauges.lease_left_us == 0 {
        text += ", no lease";
    }
    text
}

#[test]
fn every_event_in_every_state_matches_the_table() {
    let mut table = String::new();
    for state in STATES {
        let rig = rig_in(state);
        writeln!(table, "{state:?}: {}", describe(&rig)).expect("writing to a string succeeds");
        for (name, apply) in EVENTS {
            let mut rig = rig_in(state);
            let loads_before = rig.loads.clone();
            let mut outcomes: Vec<String> = apply(&mut rig).into_iter().collect();
            outcomes.extend(outcome(&rig, &loads_before));
            let counters = rig.counters();
            assert!(counters.is_balanced(), "{state:?}, {name}: {counters:?}");
            assert!(
                rig.loads.len() <= 1,
                "{state:?}, {name}: two loads of one key"
            );
            assert!(
                rig.unwraps <= 1 || name == "denied twice",
                "{state:?}, {name}: two unwraps"
            );
            let outcome = if outcomes.is_empty() {
                "-".into()
            } else {
                outcomes.join("; ")
            };
            writeln!(table, "  {name:<20} {outcome:<52} -> {}", describe(&rig))
                .expect("writing to a string succeeds");
        }
        table.push('\n');
    }
    let said: String = TABLE
        .lines()
        .filter(|line| !line.starts_with('#'))
        .fold(String::new(), |said, line| said + line + "\n");
    if table != said {
        for (line, (is, said)) in table.lines().zip(said.lines()).enumerate() {
            if is != said {
                println!("line {}:\n  the table: {said}\n  the shard: {is}", line + 1);
            }
        }
        panic!("the table differs; the actual table:\n{table}");
    }
}
