//! Random operations have the same results with the shard and with a reference of a few dozen lines.
//!
//! The loads of one operation end before the next operation begins, except if a change supersedes one. With more overlap
//! there is no single correct result; the soak test covers that. Prefetching is off, because it moves loads to times that
//! the shard chooses.

mod reference;
mod world;

use proptest::prelude::*;
use reference::{Answer, Reference, Terms};
use world::World;

#[derive(Clone, Copy, Debug)]
enum Change {
    Put,
    Revoke,
    Lock,
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Request(u8),
    ForceRefresh(u8),
    Change(u8, Change),
    /// A request, with a change before its load ends, if it has one.
    RequestAndChange(u8, Change),
    /// A change, with a request before the load that the change may cause ends.
    ChangeAndRequest(u8, Change),
    Unlock,
    /// That many ms, with ticks.
    Pass(u64),
    /// That many ms; the next operation finds all timers late.
    Sleep(u64),
    /// After this, loads find this state, and the cache is not notified.
    Damage(u8, Damage),
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Lost,
    Corrupt,
    Mended,
}

const SOFT_MS: u64 = 10_000;
const HARD_MS: u64 = 60_000;
const NEGATIVE_MS: u64 = keyway_core::NEGATIVE_US / 1_000;
const WAIT_MS: u64 = 3;

fn terms() -> impl Strategy<Value = Terms> {
    // An immediate load, one within the wait, one longer than the wait.
    let load = prop_oneof![Just(0), Just(1), Just(10)];
    (load, any::<bool>()).prop_map(|(load, serve_stale)| Terms {
        soft: SOFT_MS,
        hard: HARD_MS,
        negative: NEGATIVE_MS,
        load,
        wait: WAIT_MS,
        serve_stale,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = 0..4_u8;
    let change = || {
        prop_oneof![
            8 => Just(Change::Put),
            1 => Just(Change::Revoke),
            1 => Just(Change::Lock),
        ]
    };
    // The last ms before each boundary, the boundaries, and points between them.
    let ms = || {
        prop_oneof![
            Just(1),
            Just(7),
            Just(NEGATIVE_MS - 1),
            Just(NEGATIVE_MS),
            Just(SOFT_MS - 1),
            Just(SOFT_MS),
            Just(HARD_MS - WAIT_MS),
            Just(HARD_MS - 1),
            Just(HARD_MS),
            1..2 * SOFT_MS,
        ]
    };
    let damage = prop_oneof![
        Just(Damage::Lost),
        Just(Damage::Corrupt),
        Just(Damage::Mended)
    ];
    prop_oneof![
        10 => key.clone().prop_map(Operation::Request),
        3 => key.clone().prop_map(Operation::ForceRefresh),
        5 => (key.clone(), change()).prop_map(|(key, change)| Operation::Change(key, change)),
        5 => (key.clone(), change())
            .prop_map(|(key, change)| Operation::RequestAndChange(key, change)),
        3 => (key.clone(), change())
            .prop_map(|(key, change)| Operation::ChangeAndRequest(key, change)),
        3 => Just(Operation::Unlock),
        4 => ms().prop_map(Operation::Pass),
        2 => ms().prop_map(Operation::Sleep),
        4 => (key, damage).prop_map(|(key, damage)| Operation::Damage(key, damage)),
    ]
}

proptest! {
    // A failing case is printed in its smallest form, which suffices to replay it.
    #![proptest_config(ProptestConfig {
        cases: 3_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn shard_agrees_with_the_reference(
        terms in terms(),
        operations in prop::collection::vec(operation(), 1..60),
    ) {
        let mut world = World::new(Reference::new(terms));
        for (step, operation) in operations.into_iter().enumerate() {
            let (got, expected) = world.carry_out(operation);
            prop_assert_eq!(got, expected, "step {}: {:?}", step, operation);
        }
    }
}

/// The cases that the random operations must cover, each with its result spelt out.
#[test]
fn reference_agrees_with_the_documents() {
    let terms = Terms {
        soft: SOFT_MS,
        hard: HARD_MS,
        negative: NEGATIVE_MS,
        load: 10,
        wait: WAIT_MS,
        serve_stale: false,
    };
    let mut reference = Reference::new(terms);
    assert_eq!(reference.request(0), Answer::Retry, "the load takes longer");
    reference.now += 10;
    assert_eq!(reference.request(0), Answer::NotFound);
    assert_eq!(reference.put(0, true), Answer::Version(1));
    assert_eq!(reference.put(0, true), Answer::Conflict);
    assert_eq!(reference.request(0), Answer::Retry);
    reference.now += SOFT_MS - 1;
    assert_eq!(reference.request(0), Answer::Version(1));
    reference.now += 1;
    assert_eq!(reference.request(0), Answer::Stale(1));
    reference.now += HARD_MS - WAIT_MS;
    assert_eq!(reference.request(0), Answer::Retry, "its time ends first");
    reference.lock();
    assert_eq!(reference.request(0), Answer::NeedsUnlock);
    assert_eq!(reference.revoke(0), Answer::Version(1));
    assert_eq!(reference.request(0), Answer::Revoked);
    reference.locked = false;
    assert_eq!(reference.put(0, false), Answer::Revoked);
}
