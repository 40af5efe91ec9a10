//! What takes something away finds a place and a way, also on a full shard and while the disk hangs.

use keyway_core::slots::Handle;
use keyway_node::connection::{Connection, REVOCATIONS_PER_PRINCIPAL_MAX};
use keyway_node::messages::{Command, Lane, ToControl, ToPeer};
use keyway_node::policy::Principal;
use keyway_node::port::Write;
use keyway_node::shard::{ControlRoom, Errand, OUTGOING_MAX, Turn, WAITING_FOR_EMERGENCY};
use keyway_protocol::{KeyRevoke, Opcode, Request, RequestFrame, Settings, Status};

use super::rig::{OWNER, Rig, STRANGER, frame, sign, statuses};

/// Another principal with the right to revoke.
const OTHER: Principal = Principal::Uid(1_001);

/// Revocations that are sent before answers are looked at.
const BURST: usize = 512;

fn revoke(id: u64, key_id: &[u8]) -> Vec<u8> {
    let request = Request::KeyRevoke(KeyRevoke { key_version: 0 });
    frame(id, key_id, 0, Opcode::KeyRevoke, &request)
}

fn lock(id: u64) -> Vec<u8> {
    frame(id, b"", 0, Opcode::Lock, &Request::Lock)
}

/// Returns a shard whose disk hangs, and where both strangers may revoke and lock.
fn hung() -> Rig {
    let mut rig = Rig::with_connections(256);
    rig.publish(|change| {
        for who in ["uid:1000", "uid:1001"] {
            change
                .guard
                .policy
                .grant(who, "sign,manage,unlock")
                .unwrap();
        }
    });
    rig.run();
    rig.keeps_errands = true;
    rig
}

/// Sends revocations over as many connections as it takes, until one is refused. Returns how many found a place.
fn revoke_until_refused(rig: &mut Rig, who: Principal, key: &[u8]) -> usize {
    let bytes = revoke(1, key).repeat(BURST);
    let mut sent = 0;
    loop {
        let at = rig.connect(who);
        for _ in 0..2 {
            rig.receive(at, &bytes);
            rig.run();
            sent += BURST;
            let refused = rig.answers(at);
            assert!(refused.iter().all(|it| it.status == Status::Overloaded));
            if !refused.is_empty() {
                return sent - refused.len();
            }
        }
    }
}

fn locks_told(rig: &Rig) -> usize {
    let told = rig.told.iter();
    let locks = told.filter(|told| {
        matches!(told, ToControl::Request(request) if matches!(request.command, Command::Lock { .. }))
    });
    locks.count()
}

/// Returns the status of the answer to these bytes, if there is one already.
fn ask(rig: &mut Rig, at: Handle<Connection>, bytes: &[u8]) -> Option<Status> {
    rig.receive(at, bytes);
    rig.run();
    rig.answers(at).first().map(|answer| answer.status)
}

/// A principal that may manage one keyspace took every place with revocations, which stay parked while the disk hangs.
/// The operator's LOCK and KEY_REVOKE were then answered OVERLOADED.
#[test]
fn revocations_that_wait_for_a_hung_disk_leave_places_for_the_operator_and_for_locks() {
    let mut rig = hung();
    let key = rig.key("key", 0);
    let first = revoke_until_refused(&mut rig, STRANGER, &key);
    assert_eq!(
        first, REVOCATIONS_PER_PRINCIPAL_MAX,
        "one principal's share"
    );
    let other = rig.connect(OTHER);
    assert_eq!(
        ask(&mut rig, other, &revoke(1, &key)),
        None,
        "another has his own"
    );
    let second = revoke_until_refused(&mut rig, OTHER, &key);
    assert!(first + second < WAITING_FOR_EMERGENCY);
    // Also once they have their answers: their jobs last as long as the puts.
    rig.ticks(4_100);
    rig.run();
    assert!(rig.kept.len() > first + second);
    rig.kept.clear();

    let other = rig.connect(OTHER);
    assert_eq!(
        ask(&mut rig, other, &revoke(1, &key)),
        Some(Status::Overloaded)
    );
    assert_eq!(ask(&mut rig, other, &lock(2)), None);
    assert_eq!(locks_told(&rig), 1, "a lock of others");
    let at = rig.connect(OWNER);
    assert_eq!(ask(&mut rig, at, &revoke(1, &key)), None);
    let [(_, Errand::Put(_, Write::Revocation))] = &rig.kept[..] else {
        panic!("{:?}", rig.kept);
    };
    // What the operator revokes himself leaves a place for his LOCK.
    revoke_until_refused(&mut rig, OWNER, &key);
    assert_eq!(ask(&mut rig, at, &lock(2)), None);
    assert_eq!(locks_told(&rig), 2);
}

/// A shorter time limit was in force before it was written, as a lock is, and queued with the other commands.
#[test]
fn a_shorter_time_limit_overtakes_other_requests_and_a_full_lane_to_control() {
    for (lines, is_urgent) in [
        ("hard_ttl_ms=1000\n", true),
        ("max_in_flight=1\nsoft_ttl_ms=1000\n", true),
        ("dek_lease_ms=1000\nfor_ms=60000\n", true),
        ("max_in_flight=1\n", false),
    ] {
        let mut rig = hung();
        rig.shard.handle_control_room(ControlRoom {
            emergency: 1_000,
            ordinary: 0,
        });
        let at = rig.connect(STRANGER);
        let request = Request::KeyspaceSet(Settings::new(lines).unwrap());
        let set = frame(1, b"", 0, Opcode::KeyspaceSet, &request);
        let refused = (!is_urgent).then_some(Status::Overloaded);
        assert_eq!(ask(&mut rig, at, &set), refused, "{lines}");
        let asked = rig
            .told
            .iter()
            .any(|told| matches!(told, ToControl::Request(_)));
        assert_eq!(asked, is_urgent, "{lines}");
    }
}

/// A KEY_REVOKE for another shard was refused when many requests waited to be forwarded.
#[test]
fn a_revocation_is_forwarded_ahead_of_what_has_filled_the_way() {
    let mut rig = Rig::new();
    let far = rig.key("far", 1);
    let connections: Vec<_> = (0..11).map(|_| rig.connect(OWNER)).collect();
    rig.sent.clear();
    for at in &connections {
        rig.receive(*at, &sign(1, &far, 0).repeat(100));
    }
    // The mesh takes no batch meanwhile.
    while rig.shard.turn() == Turn::More {}
    let at = connections[0];
    rig.receive(at, &[sign(2, &far, 0), revoke(3, &far)].concat());
    rig.run();
    assert_eq!(statuses(&rig.answers(at)), [(2, Status::Overloaded)]);
    assert_eq!(rig.sent.len(), OUTGOING_MAX + 1);
    assert!(rig.sent[0].is_emergency());
    // A batch that finds no room is put back in its order.
    rig.receive(at, &[sign(4, &far, 0), revoke(5, &far)].concat());
    rig.shard.turn();
    let batch = rig.shard.take_batch(1).unwrap();
    rig.receive(at, &revoke(6, &far));
    rig.shard.turn();
    rig.shard.give_back(1, batch);
    let batch = rig.shard.take_batch(1).unwrap();
    let ids: Vec<u64> = batch.iter().map(request_id).collect();
    assert_eq!(ids, [5, 6, 4]);
}

fn request_id(message: &ToPeer) -> u64 {
    let ToPeer::Forward { frame, .. } = message else {
        panic!("a reply");
    };
    RequestFrame::request_id_at(frame).unwrap()
}

#[test]
fn a_forwarded_revocation_overtakes_the_other_messages_of_peers() {
    let mut rig = Rig::new();
    let (_, key) = rig.connect_and_sign(OWNER, "key");
    rig.keeps_errands = true;
    rig.world.operation_us.set(50);
    let forward = |lane, frame| ToPeer::Forward {
        token: 7,
        who: OWNER,
        deadline: None,
        lane,
        frame,
    };
    for _ in 0..20 {
        let signs = (0..100).map(|id| forward(Lane::Ordinary, sign(id, &key, 0)));
        rig.shard.handle_peer(1, signs.collect());
    }
    let revocation = forward(Lane::Emergency, revoke(1, &key));
    rig.shard.handle_peer(1, vec![revocation]);
    rig.turn();
    let [(_, Errand::Put(_, Write::Revocation))] = &rig.kept[..] else {
        panic!("{:?}", rig.kept);
    };
}
