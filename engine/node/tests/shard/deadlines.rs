//! Whatever a request waits for, it is answered when its deadline has passed.

use keyway_node::messages::ToControl;
use keyway_node::shard::{Errand, TURN_US_MAX};
use keyway_protocol::{KeyList, KeyRevoke, Octets, Opcode, Request, Status};

use super::rig::{OWNER, Rig, done, frame, generate, sign, statuses};

const DEADLINE_US: u32 = 5_000;

#[test]
fn every_wait_ends_within_a_tick_of_its_deadline() {
    let mut rig = Rig::new();
    let (at, warm) = rig.connect_and_sign(OWNER, "warm");
    rig.keeps_errands = true;
    rig.world.is_unreserved.set(true);
    let (cold, made, elsewhere) = (rig.key("cold", 0), rig.key("new", 0), rig.key("far", 1));
    let list = Request::KeyList(KeyList {
        shard: 0,
        limit: 9,
        cursor: Octets(b""),
    });
    let waits = [
        ("a load", sign(1, &cold, DEADLINE_US)),
        ("a write", generate(2, &made, DEADLINE_US)),
        ("another shard", sign(3, &elsewhere, DEADLINE_US)),
        (
            "control",
            frame(
                4,
                b"",
                DEADLINE_US,
                Opcode::KeyspaceRotate,
                &Request::KeyspaceRotate,
            ),
        ),
        ("a page", frame(5, b"", DEADLINE_US, Opcode::KeyList, &list)),
        (
            "a refresh",
            frame(
                6,
                &warm,
                DEADLINE_US,
                Opcode::ForceRefresh,
                &Request::ForceRefresh,
            ),
        ),
        ("a block of uses", sign(7, &warm, DEADLINE_US)),
    ];
    for (_, bytes) in &waits {
        rig.receive(at, bytes);
    }
    rig.run();
    rig.ticks(4);
    assert_eq!(rig.answers(at), [], "before the deadline");
    rig.ticks(2);
    let mut late = rig.answers(at);
    late.sort_by_key(|answer| answer.id);
    for (answer, (what, _)) in late.iter().zip(&waits) {
        assert_eq!(answer.status, Status::DeadlineExceeded, "{what}");
    }
    assert_eq!(late.len(), waits.len());
    let reserves = |(_, errand): &&(_, Errand)| matches!(errand, Errand::Reserve(..));
    assert_eq!(rig.kept.iter().filter(reserves).count(), 1);
    // A later result is not answered again, and a write that was begun is completed.
    let puts = rig
        .kept
        .iter()
        .filter(|(_, errand)| matches!(errand, Errand::Put(..)));
    assert_eq!(puts.count(), 1);
    for (task, errand) in std::mem::take(&mut rig.kept) {
        rig.shard.handle_done(task, done(&errand));
    }
    rig.run();
    assert_eq!(rig.answers(at), []);
    assert_eq!(rig.shard.figures().waiting.jobs, 0);
    let asked = rig
        .told
        .iter()
        .filter(|told| matches!(told, ToControl::Request(_)));
    assert_eq!(asked.count(), 1);
}

/// The deadline of a request that waited for its turn counted from the last bytes that its connection had received.
#[test]
fn what_arrives_after_a_request_does_not_prolong_its_deadline() {
    let mut rig = Rig::new();
    let (at, warm) = rig.connect_and_sign(OWNER, "warm");
    rig.world.operation_us.set(2 * TURN_US_MAX);
    rig.receive(at, &sign(1, &warm, 0));
    rig.receive(at, &sign(2, &warm, DEADLINE_US));
    rig.turn();
    rig.world.pass(u64::from(DEADLINE_US));
    rig.receive(at, &sign(3, &warm, DEADLINE_US));
    rig.run();
    let answers = rig.answers(at).into_iter();
    let answers: Vec<_> = answers.map(|answer| (answer.id, answer.status)).collect();
    assert_eq!(
        answers,
        [
            (1, Status::Ok),
            (2, Status::DeadlineExceeded),
            (3, Status::Ok)
        ]
    );
}

/// A revocation is in force at once; its answer waited for as long as the disk hung.
#[test]
fn a_revocation_that_the_disk_holds_up_is_answered_as_in_force_but_not_written() {
    for (deadline_us, silent_ticks, more_ticks) in [
        (DEADLINE_US, 3, 2),
        (0, 3_800, 300),
        (10_000_000, 7_800, 300),
    ] {
        let mut rig = Rig::new();
        let (at, warm) = rig.connect_and_sign(OWNER, "warm");
        rig.keeps_errands = true;
        let revoke = Request::KeyRevoke(KeyRevoke { key_version: 0 });
        rig.receive(
            at,
            &frame(1, &warm, deadline_us, Opcode::KeyRevoke, &revoke),
        );
        rig.run();
        rig.ticks(silent_ticks);
        assert_eq!(rig.answers(at), [], "before its time");
        rig.ticks(more_ticks);
        assert_eq!(statuses(&rig.answers(at)), [(1, Status::NotPersisted)]);
        for (task, errand) in std::mem::take(&mut rig.kept) {
            rig.shard.handle_done(task, done(&errand));
        }
        rig.run();
        assert_eq!(rig.answers(at), [], "it has its answer");
        assert_eq!(rig.shard.figures().waiting.jobs, 0);
    }
}

fn revoke(id: u64, key: &[u8]) -> Vec<u8> {
    let revoke = Request::KeyRevoke(KeyRevoke { key_version: 0 });
    frame(id, key, DEADLINE_US, Opcode::KeyRevoke, &revoke)
}

/// The shard that had forwarded it answered DEADLINE_EXCEEDED before the owner's answer arrived, and the key was revoked.
#[test]
fn a_forwarded_revocation_in_force_is_never_answered_as_overdue() {
    let (mut asked, mut owner) = (Rig::new(), Rig::other());
    let (at, far) = (asked.connect(OWNER), asked.key("far", 1));
    owner.keeps_errands = true;
    asked.receive(at, &revoke(1, &far));
    asked.run();
    owner.shard.handle_peer(0, asked.sent.drain(..).collect());
    for _ in 0..8 {
        asked.ticks(1);
        owner.ticks(1);
    }
    // The owner has answered in time, and the mesh was slow.
    assert_eq!(asked.answers(at), []);
    asked.shard.handle_peer(1, owner.sent.drain(..).collect());
    asked.run();
    let answers = asked.answers(at);
    assert_eq!(statuses(&answers), [(1, Status::NotPersisted)]);
    let text = String::from_utf8_lossy(&answers[0].payload).into_owned();
    assert!(
        text.contains("is in force and is not written yet"),
        "{text}"
    );
    assert_eq!(owner.kept.len(), 1, "it goes on being written");
}

/// The owner does not begin what arrives too late, so its answer can say so.
#[test]
fn a_forwarded_revocation_that_arrives_too_late_does_not_begin() {
    let (mut asked, mut owner) = (Rig::new(), Rig::other());
    let (at, far) = (asked.connect(OWNER), asked.key("far", 1));
    owner.keeps_errands = true;
    asked.receive(at, &revoke(1, &far));
    asked.run();
    owner.ticks(6);
    asked.ticks(6);
    owner.shard.handle_peer(0, asked.sent.drain(..).collect());
    owner.run();
    asked.shard.handle_peer(1, owner.sent.drain(..).collect());
    asked.run();
    assert_eq!(
        statuses(&asked.answers(at)),
        [(1, Status::DeadlineExceeded)]
    );
    assert_eq!(owner.kept.len(), 0);
}

/// Without an answer from where it is executed, no shard says that it is not in force.
#[test]
fn what_takes_something_away_elsewhere_is_not_answered_as_overdue() {
    let mut rig = Rig::new();
    let (at, far) = (rig.connect(OWNER), rig.key("far", 1));
    rig.receive(at, &revoke(1, &far));
    rig.receive(
        at,
        &frame(2, b"", DEADLINE_US, Opcode::Lock, &Request::Lock),
    );
    rig.run();
    rig.ticks(100);
    assert_eq!(rig.answers(at), [], "the answer may still arrive");
    rig.ticks(10);
    let answers = rig.answers(at);
    assert_eq!(
        statuses(&answers),
        [(1, Status::Internal), (2, Status::Internal)]
    );
    for answer in answers {
        let text = String::from_utf8_lossy(&answer.payload).into_owned();
        assert!(text.contains("it may be, or be soon"), "{text}");
    }
    assert_eq!(rig.shard.figures().waiting.jobs, 0);
}
