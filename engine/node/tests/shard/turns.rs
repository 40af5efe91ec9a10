//! A turn ends within its budget and one operation, whatever is queued, and what has to be quick overtakes the rest.

use keyway_node::messages::ToControl;
use keyway_node::shard::{TURN_US_MAX, Turn};
use keyway_protocol::{Opcode, Request, Status};

use super::rig::{OWNER, Rig, frame, sign};

#[test]
fn a_turn_ends_within_its_budget_and_one_operation() {
    let mut rig = Rig::new();
    let (at, other) = (rig.connect(OWNER), rig.connect(OWNER));
    let key = rig.key("key", 0);
    rig.receive(at, &sign(0, &key, 0));
    rig.run();
    rig.answers(at);
    rig.world.operation_us.set(50);
    for id in 0..100 {
        rig.receive(at, &sign(id, &key, 0));
    }
    rig.receive(other, &sign(1, &key, 0));
    let mut turns = 0;
    loop {
        let began = rig.world.now();
        let turn = rig.turn();
        turns += 1;
        let took_us = rig.world.now().saturating_since(began);
        assert!(took_us <= TURN_US_MAX + 50, "{took_us}");
        if turns == 1 {
            // The busy one has had its share, and the other one its own.
            assert_eq!(turn, Turn::More);
            assert_eq!(rig.answers(other).len(), 1);
            assert!(rig.answers(at).len() < 5);
        }
        if turn != Turn::More {
            break;
        }
    }
    assert_eq!(turns, 101_u32.div_ceil(4));
}

#[test]
fn one_slow_operation_is_done_between_two_polls() {
    let mut rig = Rig::new();
    let at = rig.connect(OWNER);
    let key = rig.key("key", 0);
    rig.receive(at, &sign(0, &key, 0));
    rig.run();
    rig.answers(at);
    rig.world.is_slow.set(true);
    rig.receive(at, &[sign(1, &key, 0), sign(2, &key, 0)].concat());
    assert_eq!(rig.turn(), Turn::More);
    for _ in 0..3 {
        // Turns of other tasks, before I/O was polled.
        rig.shard.turn();
    }
    assert_eq!(rig.answers(at).len(), 1);
    rig.turn();
    assert_eq!(rig.answers(at).len(), 1);
}

#[test]
fn a_lock_overtakes_the_frames_before_it_and_all_else_that_waits() {
    let mut rig = Rig::new();
    let at = rig.connect(OWNER);
    let key = rig.key("key", 0);
    rig.receive(at, &sign(0, &key, 0));
    rig.run();
    rig.answers(at);
    rig.world.operation_us.set(50);
    let mut bytes: Vec<u8> = (1..100).flat_map(|id| sign(id, &key, 0)).collect();
    bytes.extend(frame(100, b"", 0, Opcode::Lock, &Request::Lock));
    rig.receive(at, &bytes);
    rig.turn();
    let commands = rig
        .told
        .iter()
        .filter(|told| matches!(told, ToControl::Request(_)));
    assert_eq!(commands.count(), 1);
    // Control says so to all shards, and what is left of the frames finds the keyspace locked.
    let answered = rig.answers(at).len();
    rig.publish(|change| {
        change.epoch.count_up();
        change.guard.locked = true;
    });
    rig.run();
    let answers = rig.answers(at);
    assert!(
        answers
            .iter()
            .all(|answer| answer.status == Status::NeedsUnlock)
    );
    assert_eq!(answered + answers.len(), 99);
    let wiped = rig
        .told
        .iter()
        .any(|told| matches!(told, ToControl::Wiped { .. }));
    assert!(wiped, "nothing of it is left");
}
