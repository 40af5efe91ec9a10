//! A right is withdrawn, or a key expires, while a request is in flight.

use keyway_core::Instant;
use keyway_node::messages::ToPeer;
use keyway_node::policy::Policy;
use keyway_protocol::Status;

use super::rig::{KEYSPACE, OWNER, Rig, SIGNATURE, STRANGER, sign, statuses};

fn withdraw(rig: &mut Rig) {
    rig.publish(|change| change.guard.policy = Policy::default());
}

#[test]
fn withdrawn_right_ends_every_wait_for_a_key() {
    let mut rig = Rig::new();
    let (at, slow) = rig.connect_and_sign(STRANGER, "slow");
    let cold = rig.key("cold", 0);
    let before = rig.world.operations.get();
    rig.world.is_slow.set(true);
    rig.keeps_errands = true;
    let elsewhere = rig.key("far", 1);
    let requests = [sign(2, &cold, 0), sign(3, &elsewhere, 0), sign(4, &slow, 0)];
    rig.receive(at, &requests.concat());
    rig.receive(at, &sign(5, &slow, 0));
    // The shard takes the frames, and performs one slow operation.
    rig.shard.turn();
    withdraw(&mut rig);
    rig.run();
    let kept = std::mem::take(&mut rig.kept);
    for (task, errand) in kept {
        rig.shard.handle_done(task, super::rig::done(&errand));
    }
    for sent in std::mem::take(&mut rig.sent) {
        let ToPeer::Forward { token, .. } = sent else {
            continue;
        };
        let frame = vec![0; 64];
        let reply = ToPeer::Reply {
            token,
            good_until: Instant::MAX,
            frame,
        };
        rig.shard.handle_peer(1, vec![reply]);
    }
    rig.run();
    let statuses = statuses(&rig.answers(at));
    let expected = [
        (2, Status::Forbidden),
        (3, Status::Forbidden),
        (4, Status::Ok),
        (5, Status::Forbidden),
    ];
    assert_eq!(statuses, expected, "a load, another shard, the slow lane");
    assert_eq!(rig.world.operations.get(), before + 1);
}

#[test]
fn result_computed_after_the_key_expired_is_wiped() {
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
    // Longer than any lease.
    rig.world.operation_us.set(100_000_000_000);
    rig.receive(at, &sign(2, &key, 0));
    rig.shard.turn();
    let bytes = rig.shard.to_send(at).to_vec();
    assert!(bytes.windows(SIGNATURE.len()).all(|part| part != SIGNATURE));
    let answers = rig.answers(at);
    assert_eq!((answers[0].id, answers[0].status), (2, Status::Retry));
}

#[test]
fn forwarded_result_is_withheld_after_the_key_expired() {
    let mut rig = Rig::new();
    let at = rig.connect(OWNER);
    let key = rig.key("far", 1);
    rig.receive(at, &sign(1, &key, 0));
    rig.run();
    let Some(ToPeer::Forward { token, frame, .. }) = rig.sent.pop() else {
        panic!("it was not forwarded");
    };
    let (asked, _) = keyway_protocol::RequestFrame::decode(&frame)
        .unwrap()
        .unwrap();
    assert_eq!((asked.keyspace_id, asked.request_id), (KEYSPACE, 1));
    let good_until = rig.world.now();
    let reply = ToPeer::Reply {
        token,
        good_until,
        frame: vec![0; 64],
    };
    rig.shard.handle_peer(1, vec![reply]);
    rig.run();
    assert_eq!(rig.answers(at)[0].status, Status::Retry);
}
