//! The places where Keyway's threads meet, in every order of events that a scheduler thinks of.
//!
//! What runs here is the code that serves, over channels and KMSs that can be made to fail. Each
//! place has flaws planted on purpose, which the checker must find. A failure prints its schedule;
//! `KEYWAY_REPLAY=<schedule> cargo test -p keyway-server --test threads NAME` runs it again.
//! `make threads` tries more of them.

mod control;
mod labels;
mod mesh;
mod node;
mod shutdown;
mod snapshots;

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner};

/// Schedules that are tried of each kind, unless KEYWAY_SCHEDULES says otherwise.
const SCHEDULES: usize = 1_000;

/// Steps after which somebody is taken to wait for ever. Sound schedules take a tenth of it.
const STEPS_MAX: usize = 100_000;

/// Unoptimised futures of commands need more than the 32 KiB that are the default.
const STACK_BYTES: usize = 256 << 10;

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    Runner::new(scheduler, config).run(scenario);
}

/// Tries a scenario: at random, then with few changes of priority, which finds rare orders.
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

/// Expects the checker to find what is planted in a scenario.
fn finds(what: &str, scenario: impl Fn() + Send + Sync + 'static) {
    let found = catch_unwind(AssertUnwindSafe(|| {
        run(RandomScheduler::new(SCHEDULES), scenario);
    }));
    assert!(found.is_err(), "not found: {what}");
}
