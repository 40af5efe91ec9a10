//! A turn is bounded by work also where the work is not frames: orders of control, ends of connections, deadlines.
//!
//! A LOCK of all keyspaces, or the end of connections with many requests, used to be one turn, however long that took.

use keyway_core::slots::Handle;
use keyway_node::connection::Connection;
use keyway_node::limits::{EMERGENCIES_MAX, TO_SHARD_MAX};
use keyway_node::messages::{Lane, ToControl, ToShard};
use keyway_node::policy::Principal;
use keyway_node::shard::{TURN_US_MAX, Turn};
use keyway_protocol::Status;

use super::rig::{OWNER, Rig, sign, statuses};

/// What reading the clock costs here, µs. It is read after each unit of work, and a few times within some.
const READING_US: u64 = 5;
const UNIT_US_MAX: u64 = 4 * READING_US;

/// Takes a turn, which must end in time.
fn bounded_turn(rig: &mut Rig) -> Turn {
    rig.world.reading_us.set(READING_US);
    let began = rig.world.now();
    rig.shard.handle_rested();
    let turn = rig.shard.turn();
    let took_us = rig.world.now().saturating_since(began);
    rig.world.reading_us.set(0);
    assert!(took_us <= TURN_US_MAX + UNIT_US_MAX, "{took_us}");
    rig.perform_effects();
    turn
}

fn acted(rig: &Rig) -> usize {
    let told = rig.told.iter();
    told.filter(|told| matches!(told, ToControl::Acted { .. }))
        .count()
}

#[test]
fn many_emergencies_take_many_turns_and_no_request_is_served_before_the_last() {
    const ORDERS: usize = 5_000;
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
    let before = acted(&rig);
    for _ in 1..ORDERS {
        rig.publish(|_| {});
    }
    rig.publish(|change| {
        change.epoch.count_up();
        change.guard.locked = true;
    });
    let operations = rig.world.operations.get();
    rig.receive(at, &sign(2, &key, 0));
    let mut turns = 0;
    while acted(&rig) - before < ORDERS {
        assert_eq!(
            rig.answers(at),
            [],
            "served by an order that a later one ends"
        );
        bounded_turn(&mut rig);
        turns += 1;
        assert!(turns < ORDERS, "each turn obeys some");
    }
    assert!(turns > ORDERS / 50, "{turns}");
    while bounded_turn(&mut rig) == Turn::More {}
    assert_eq!(statuses(&rig.answers(at)), [(2, Status::NeedsUnlock)]);
    assert_eq!(rig.world.operations.get(), operations);
}

/// What control sends faster than a shard obeys stays in its lane, where control sees that it is full.
#[test]
fn a_shard_takes_no_more_of_a_lane_than_the_lane_holds() {
    let mut rig = Rig::new();
    for lane in [Lane::Emergency, Lane::Ordinary] {
        for _ in 0..EMERGENCIES_MAX.max(TO_SHARD_MAX) {
            assert!(rig.shard.takes_control(lane));
            let change = ToShard::Keyspace(Box::new(rig.change.clone()));
            rig.shard.handle_control(lane, change);
        }
        assert!(!rig.shard.takes_control(lane));
        rig.run();
        assert!(rig.shard.takes_control(lane));
    }
}

/// Opens connections with requests that wait for another shard.
fn waiting(
    rig: &mut Rig,
    connections: usize,
    requests: usize,
    deadline_us: u32,
) -> Vec<Handle<Connection>> {
    let far = rig.key("far", 1);
    let bytes = sign(1, &far, deadline_us).repeat(requests);
    let mut open = Vec::new();
    for number in 0..connections {
        let who = if number % 2 == 0 {
            OWNER
        } else {
            Principal::Uid(0)
        };
        let at = rig.connect(who);
        rig.receive(at, &bytes);
        rig.run();
        open.push(at);
    }
    assert_eq!(
        rig.shard.figures().waiting.jobs,
        (connections * requests) as u64
    );
    open
}

#[test]
fn ends_of_connections_with_many_requests_are_spread_over_turns() {
    let mut rig = Rig::with_connections(128);
    let (served, key) = rig.connect_and_sign(OWNER, "key");
    for at in waiting(&mut rig, 60, 1_000, 0) {
        rig.shard.handle_closed(at);
    }
    rig.receive(served, &sign(2, &key, 0));
    assert_eq!(bounded_turn(&mut rig), Turn::More);
    assert_eq!(
        statuses(&rig.answers(served)),
        [(2, Status::Ok)],
        "others are served in between"
    );
    while bounded_turn(&mut rig) == Turn::More {}
    let figures = rig.shard.figures();
    assert_eq!((figures.waiting.jobs, figures.connections), (0, 1));
}

#[test]
fn deadlines_that_pass_together_are_answered_over_several_turns() {
    const DEADLINE_US: u32 = 5_000;
    let mut rig = Rig::new();
    let at = waiting(&mut rig, 1, 1_000, DEADLINE_US)[0];
    rig.world.pass(u64::from(DEADLINE_US) + 1_000);
    assert_eq!(bounded_turn(&mut rig), Turn::More);
    while bounded_turn(&mut rig) == Turn::More {}
    let answers = rig.answers(at);
    assert_eq!(answers.len(), 1_000);
    assert!(
        answers
            .iter()
            .all(|it| it.status == Status::DeadlineExceeded)
    );
}
