//! Callers, flights and a lock in every order that the scheduler explores. `make threads` explores more.
//!
//! A failure prints its schedule; `KEYWAY_REPLAY=<schedule> cargo test -p keyway-kms NAME` replays it.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use shuttle::future::{block_on, spawn};
use shuttle::thread;

use super::unwrap_group::{Shared, UnwrapGroup};
use super::{Flight, UnwrappedDek};
use crate::{Class, KmsError, SecretKey};

const CALLERS: usize = 4;

/// Schedules explored of each kind, unless KEYWAY_SCHEDULES is set.
const SCHEDULES: usize = 1_000;

fn explore(scenario: impl Fn() + Send + Sync + Clone + 'static) {
    if let Ok(schedule) = std::env::var("KEYWAY_REPLAY") {
        return shuttle::replay(scenario, &schedule);
    }
    let told = std::env::var("KEYWAY_SCHEDULES").ok();
    let schedules = told.map_or(SCHEDULES, |n| n.parse().expect("KEYWAY_SCHEDULES"));
    shuttle::check_random(scenario.clone(), schedules);
    shuttle::check_pct(scenario, schedules, 3);
}

/// A planted flaw.
#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// The provider's lock returns before it takes effect.
    LateLock,
    /// A flight ends without an answer.
    LostAnswer,
}

/// A provider with a scheduling point between any two of its steps.
#[derive(Default)]
struct World {
    is_locked: AtomicBool,
    /// The call of `UnwrapGroup::lock` has returned.
    lock_returned: AtomicBool,
    calls: AtomicUsize,
}

async fn start_call(world: Arc<World>, flight: Flight, flaw: Flaw) {
    world.calls.fetch_add(1, Ordering::SeqCst);
    thread::yield_now();
    let answer = match world.is_locked.load(Ordering::SeqCst) {
        true => Err(KmsError::new(Class::Locked, "locked", "unlock it")),
        false => Ok(UnwrappedDek {
            dek: Arc::new(SecretKey::take(&mut [7; 32])),
            sent_at_us: 0,
        }),
    };
    thread::yield_now();
    if flaw != Flaw::LostAnswer {
        flight.land(answer);
    }
}

fn callers_and_a_lock(flaw: Flaw) {
    let world = Arc::new(World::default());
    let unwrap_group = Arc::new(UnwrapGroup::new(CALLERS));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let (world, unwrap_group) = (Arc::clone(&world), Arc::clone(&unwrap_group));
            spawn(async move {
                thread::yield_now();
                let too_late = world.lock_returned.load(Ordering::SeqCst);
                let flown = Arc::clone(&world);
                let start = |flight| {
                    // Another thread may run between the reading of the count and the flight.
                    thread::yield_now();
                    spawn(start_call(flown, flight, flaw));
                };
                let shared = unwrap_group.join_or_start(1, 1, b"wrapped", start).await;
                match shared {
                    Shared::Answered(Ok(_)) => {
                        assert!(!too_late, "a DEK for who came after the lock");
                        let after = world.lock_returned.load(Ordering::SeqCst);
                        assert!(!after, "a DEK handed out after the lock");
                    }
                    Shared::Answered(Err(error)) => assert_eq!(error.class(), Class::Locked),
                    Shared::LockedMeanwhile => {}
                    Shared::Lost => panic!("a flight ended without an answer"),
                    Shared::Full => panic!("one DEK before the lock and one after are two flights"),
                }
            })
        })
        .collect();
    let locker = {
        let (world, unwrap_group) = (Arc::clone(&world), Arc::clone(&unwrap_group));
        thread::spawn(move || {
            unwrap_group.lock(|| {
                thread::yield_now();
                if flaw != Flaw::LateLock {
                    world.is_locked.store(true, Ordering::SeqCst);
                }
                thread::yield_now();
            });
            world.lock_returned.store(true, Ordering::SeqCst);
            thread::yield_now();
            world.is_locked.store(true, Ordering::SeqCst);
        })
    };
    for caller in callers {
        block_on(caller).expect("callers end");
    }
    locker.join().expect("the lock returns");
    assert_eq!(unwrap_group.len(), 0, "flights left behind");
    assert!(world.calls.load(Ordering::SeqCst) <= CALLERS);
}

#[test]
fn no_order_of_callers_and_a_lock_hands_out_a_dek_after_it() {
    explore(|| callers_and_a_lock(Flaw::None));
}

#[test]
fn the_checker_finds_what_is_planted() {
    for flaw in [Flaw::LateLock, Flaw::LostAnswer] {
        let found = catch_unwind(|| {
            shuttle::check_random(move || callers_and_a_lock(flaw), SCHEDULES);
        });
        assert!(found.is_err(), "a planted flaw was not found");
    }
}
