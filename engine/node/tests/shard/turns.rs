//! A turn ends within its budget and one operation, however much is queued, and urgent work overtakes the rest.

use keyway_node::messages::ToControl;
use keyway_node::shard::{HELD_BYTES_MAX, TURN_US_MAX, Turn};
use keyway_protocol::limits::MESSAGE_LEN_MAX;
use keyway_protocol::{KeyRevoke, Octets, Opcode, Request, Settings, Status};

use super::rig::{OWNER, Rig, STRANGER, frame, sign};

#[test]
fn turn_ends_within_its_budget_and_one_operation() {
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
    let other = rig.connect(OWNER);
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
            // The busy connection has had its share, and so has the other.
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
fn one_slow_operation_runs_between_two_polls() {
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
    rig.world.is_slow.set(true);
    rig.receive(at, &[sign(1, &key, 0), sign(2, &key, 0)].concat());
    assert_eq!(rig.turn(), Turn::More);
    for _ in 0..3 {
        // Turns of other tasks, before I/O is polled.
        rig.shard.turn();
    }
    assert_eq!(rig.answers(at).len(), 1);
    rig.turn();
    assert_eq!(rig.answers(at).len(), 1);
}

#[test]
fn lock_overtakes_earlier_frames_and_all_queued_work() {
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
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
    // Control publishes the lock to all shards, and the remaining frames find the keyspace locked.
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

#[test]
fn withdrawal_succeeds_when_the_job_store_is_full() {
    let mut rig = Rig::new();
    rig.publish(|change| change.guard.policy.grant("uid:1000", "mac,manage").unwrap());
    let key = rig.key("cold", 0);
    rig.keeps_errands = true;
    // Large requests until one is refused, then small ones: the remaining space is smaller than one of those.
    let mut kept_bytes = 0;
    for len in [MESSAGE_LEN_MAX, 0] {
        let message = vec![0; len];
        let bytes = frame(1, &key, 0, Opcode::Mac, &Request::Mac(Octets(&message)));
        'full: loop {
            let at = rig.connect(STRANGER);
            for _ in 0..500 {
                rig.receive(at, &bytes);
                rig.turn();
                if !rig.answers(at).is_empty() {
                    break 'full;
                }
                kept_bytes += bytes.len();
            }
        }
    }
    assert!(kept_bytes > HELD_BYTES_MAX - (2 << 20), "{kept_bytes}");
    let at = rig.connect(STRANGER);
    let lines = "allow:uid:1001=none\nallow:uid:1002=none\nallow:uid:1003=none\n";
    let request = Request::KeyspaceSet(Settings::new(lines).unwrap());
    rig.receive(at, &frame(2, b"", 0, Opcode::KeyspaceSet, &request));
    rig.run();
    let refused = rig.answers(at);
    let mut commands = rig.told.iter();
    let asked = commands.any(|told| matches!(told, ToControl::Request(_)));
    assert!(asked, "{refused:?}");
    // A revocation is kept until it is written, and takes none of that memory.
    rig.kept.clear();
    let request = Request::KeyRevoke(KeyRevoke { key_version: 0 });
    rig.receive(
        at,
        &frame(3, &key, 0, Opcode::KeyRevoke, &request).repeat(64),
    );
    rig.run();
    assert_eq!((rig.answers(at).len(), rig.kept.len()), (0, 64));
}
