//! The places where Keyway's threads meet, in every order of events that the scheduler explores.
//!
//! The code under test is the production code, over channels and KMSs that can be made to fail. Each place has planted
//! flaws, which the checker must find. A failure prints its schedule; `KEYWAY_REPLAY=<schedule> cargo test -p
//! keyway-server --test threads NAME` replays it. `make threads` explores more of them.

mod control;
mod labels;
mod mesh;
mod node;
mod shutdown;
mod snapshots;

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Schedules explored of each kind, unless KEYWAY_SCHEDULES is set.
const SCHEDULES: usize = 1_000;

/// Steps after which a thread counts as waiting indefinitely. Sound schedules take a tenth of it.
const STEPS_MAX: usize = 100_000;

/// Unoptimised futures of commands need more than the default of 32 KiB.
const STACK_BYTES: usize = 256 << 10;

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    Runner::new(scheduler, config).run(scenario);
}

/// Explores a scenario: at random, then with few changes of priority, which finds rare orders.
fn explore(scenario: impl Fn() + Clone + Send + Sync + 'static) {
    if let Ok(schedule) = std::env::var("KEYWAY_REPLAY") {
        return shuttle::replay(scenario, &schedule);
    }
    let told = std::env::var("KEYWAY_SCHEDULES").ok();
    let schedules = told.map_or(SCHEDULES, |n| {
        n.parse().expect("KEYWAY_SCHEDULES is a number")
    });
    run(RandomScheduler::new(schedules), scenario.clone());
    run(PctScheduler::new(3, schedules), scenario);
}

/// Expects the checker to find the flaw planted in a scenario.
fn finds(what: &str, scenario: impl Fn() + Send + Sync + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| {
        run(RandomScheduler::new(SCHEDULES), scenario);
    }));
    assert!(found.is_err(), "not found: {what}");
}
