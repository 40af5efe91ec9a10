//! A long random run of two keyspaces against a store and a KMS with all kinds of failures, with the invariants checked
//! after each step. A failing run prints the seed that replays it.

mod checks;
mod world;

use world::{KEYSPACES, World};

const STEPS: usize = 12_000;

/// Prints the seed of a run that panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this run had the seed {}", self.0);
        }
    }
}

#[test]
fn invariants_hold_in_long_random_runs() {
    for seed in 1..=24 {
        let _seed = Seed(seed);
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        assert!(
            world.served > 500,
            "only {} were served: the run covers too little",
            world.served
        );
        world.recover();
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut world = World::new(seed);
        for _ in 0..2_000 {
            world.step();
        }
        let counters = KEYSPACES.map(|keyspace| world.shard.counters(keyspace).cloned());
        (world.now, world.served, world.shard.totals(), counters)
    };
    assert_eq!(run(99), run(99));
}
