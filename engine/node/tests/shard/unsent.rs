//! Answers that are not taken: who loses its connection when all of them are more than a shard may hold.
//!
//! The connection with the most unsent bytes was closed first, of all that had taken nothing since the last look: a slow
//! reader that had missed one look, and not the peer that had been dead for long.

use keyway_core::slots::Handle;
use keyway_node::connection::{Connection, UNSENT_BYTES_MAX};
use keyway_node::policy::Principal;
use keyway_protocol::{Octets, Opcode, Request};

use super::rig::{Rig, frame};

const PAYLOAD_LEN: usize = 66_000;
/// Many pings of one connection, within what it may have unsent.
const MANY: usize = 15;
/// The looks of a shard at its connections are a second apart.
const LOOK_TICKS: usize = 1_000;

const DEAD: u32 = 1_000;
const SLOW: u32 = 1_001;
/// The first of those that read.
const READERS: u32 = 1_002;
const PRINCIPALS: u32 = 8;

fn ping(rig: &mut Rig, at: Handle<Connection>, count: usize) {
    for id in 1..=count as u64 {
        let payload = [7; PAYLOAD_LEN];
        let ping = Request::Ping(Octets(&payload));
        rig.receive(at, &frame(id, b"", 0, Opcode::Ping, &ping));
        rig.run();
    }
}

fn unsent(rig: &Rig, all: &[Handle<Connection>]) -> usize {
    all.iter().map(|at| rig.shard.to_send(*at).len()).sum()
}

#[test]
fn the_peer_that_has_taken_nothing_for_the_longest_is_closed_first() {
    let mut rig = Rig::with_connections(4_096);
    rig.publish(|change| {
        for uid in DEAD..DEAD + PRINCIPALS {
            let granted = change.guard.policy.grant(&format!("uid:{uid}"), "sign");
            granted.unwrap();
        }
    });
    rig.run();
    let dead = rig.connect(Principal::Uid(DEAD));
    let slow = rig.connect(Principal::Uid(SLOW));
    let mut all = vec![dead, slow];
    ping(&mut rig, dead, MANY / 2);
    ping(&mut rig, slow, MANY);
    // Past the soft bound, each takes one ping more, and no other.
    for number in 0.. {
        if unsent(&rig, &all) + PAYLOAD_LEN >= UNSENT_BYTES_MAX {
            break;
        }
        let reader = rig.connect(Principal::Uid(READERS + number % (PRINCIPALS - 2)));
        let is_past = unsent(&rig, &all) > UNSENT_BYTES_MAX / 2 - (2 << 20);
        ping(&mut rig, reader, if is_past { 1 } else { MANY });
        all.push(reader);
    }
    for look in 0..3 {
        let taken = if look < 2 { 1 } else { 2 };
        for at in &all[taken..] {
            rig.shard.handle_sent(*at, 1);
        }
        rig.ticks(LOOK_TICKS);
    }
    let shed = |rig: &Rig| -> Vec<String> {
        let reports = rig.reports.iter();
        reports
            .filter(|it| it.starts_with("UnsentShed"))
            .cloned()
            .collect()
    };
    assert_eq!(shed(&rig), Vec::<String>::new(), "it is within the bound");
    while shed(&rig).is_empty() {
        assert!(all.len() < 2_000, "nothing is closed");
        let reader = rig.connect(Principal::Uid(READERS));
        ping(&mut rig, reader, 1);
        all.push(reader);
        rig.ticks(10);
    }
    let [first] = &shed(&rig)[..] else {
        panic!("{:?}", shed(&rig));
    };
    assert!(first.contains(&format!("who: Uid({DEAD})")), "{first}");
}
