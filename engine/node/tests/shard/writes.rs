//! Writes of keys: checks right before the log is written, and reports to control.

use keyway_node::ids::QuestionId;
use keyway_node::messages::{Lane, ResealError, ResealPage, ResealWork, ToControl, ToShard};
use keyway_node::policy::Policy;
use keyway_node::port::{Blob, KeyState, Page, Row, Write, WriteError};
use keyway_node::shard::{Done, Errand};
use keyway_protocol::{KeyRevoke, KeyRotate, Opcode, Request, Status};

use super::rig::{KEYSPACE, OWNER, Rig, STRANGER, done, frame, generate, sign, statuses};

/// The core requests a newer DEK than a live lease includes once per second.
const DEK_AGAIN_TICKS: usize = 1_100;

fn revoke(id: u64, key_id: &[u8]) -> Vec<u8> {
    let request = Request::KeyRevoke(KeyRevoke { key_version: 0 });
    frame(id, key_id, 0, Opcode::KeyRevoke, &request)
}

fn rotate(id: u64, key_id: &[u8]) -> Vec<u8> {
    let request = Request::KeyRotate(KeyRotate { material: None });
    frame(id, key_id, 0, Opcode::KeyRotate, &request)
}

fn confirmed(rig: &Rig) -> Vec<u32> {
    let told = rig.told.iter().filter_map(|told| match told {
        ToControl::Confirmed { generation, .. } => Some(*generation),
        _ => None,
    });
    told.collect()
}

#[test]
fn floor_is_confirmed_when_no_write_under_an_older_dek_is_in_flight() {
    let mut rig = Rig::new();
    let at = rig.connect(OWNER);
    let (first, second) = (rig.key("new", 0), rig.key("newer", 0));
    rig.keeps_errands = true;
    rig.receive(at, &generate(1, &first, 0));
    rig.run();
    let [(task, Errand::Put(_, Write::Blob { sealed, .. }))] = &rig.kept[..] else {
        panic!("{:?}", rig.kept);
    };
    let task = *task;
    assert_eq!(sealed.bytes, 1_u32.to_le_bytes());
    rig.publish(|change| change.seal_floor = 2);
    rig.run();
    assert!(
        confirmed(&rig).is_empty(),
        "a blob under the older DEK is in flight"
    );
    // The next write waits for the newer DEK, which the core requests.
    rig.receive(at, &generate(2, &second, 0));
    rig.ticks(DEK_AGAIN_TICKS);
    rig.run();
    rig.kept.retain(|(kept, _)| *kept != task);
    let [(_, Errand::Put(_, Write::Blob { sealed, .. }))] = &rig.kept[..] else {
        panic!("{:?}", rig.kept);
    };
    assert_eq!(sealed.bytes, 2_u32.to_le_bytes());
    rig.shard.handle_done(task, Done::Put(Ok(1)));
    rig.run();
    assert_eq!(confirmed(&rig), [2]);
}

/// A grant could overtake the creation of its keyspace and the first rotation in flight to a shard. The shard never confirmed the
/// floor, and the rotation never ended.
#[test]
fn floor_of_a_new_keyspace_that_was_rotated_already_is_confirmed() {
    let mut rig = Rig::new();
    rig.run();
    assert!(confirmed(&rig).is_empty(), "the floors of the start");
    rig.publish(|change| {
        change.id = KEYSPACE + 1;
        change.seal_floor = 2;
    });
    rig.run();
    assert_eq!(confirmed(&rig), [2]);
}

#[test]
fn write_is_refused_if_its_right_or_keyspace_was_lost_in_the_meantime() {
    for locks in [false, true] {
        let mut rig = Rig::new();
        rig.publish(|change| change.guard.policy.grant("uid:1000", "manage").unwrap());
        let at = rig.connect(STRANGER);
        let key = rig.key("key", 0);
        rig.keeps_errands = true;
        rig.receive(at, &rotate(1, &key));
        rig.run();
        let (task, read) = rig.kept.pop().unwrap();
        assert!(matches!(read, Errand::Read(_)), "{read:?}");
        rig.publish(|change| match locks {
            true => {
                change.epoch.count_up();
                change.guard.locked = true;
            }
            false => change.guard.policy = Policy::default(),
        });
        rig.run();
        rig.shard.handle_done(task, done(&read));
        rig.run();
        assert_eq!(rig.kept.len(), 0, "it was written: {:?}", rig.kept);
        let expected = match locks {
            true => Status::NeedsUnlock,
            false => Status::Forbidden,
        };
        assert_eq!(rig.answers(at)[0].status, expected);
    }
}

#[test]
fn revocation_is_in_force_before_and_without_a_durable_write() {
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
    rig.keeps_errands = true;
    rig.world.revokes.set(true);
    rig.receive(at, &revoke(2, &key));
    rig.run();
    let (task, put) = rig.kept.pop().unwrap();
    assert!(matches!(put, Errand::Put(_, Write::Revocation)), "{put:?}");
    rig.receive(at, &sign(3, &key, 0));
    rig.run();
    let answers = rig.answers(at);
    assert_eq!((answers[0].id, answers[0].status), (3, Status::Revoked));
    let failed = WriteError::NotPersisted("the disk is full".to_owned());
    rig.shard.handle_done(task, Done::Put(Err(failed)));
    rig.receive(at, &sign(4, &key, 0));
    rig.run();
    assert_eq!(
        statuses(&rig.answers(at)),
        [(2, Status::NotPersisted), (4, Status::Revoked)]
    );
}

/// Returns a shard that seals under DEK 2.
fn rotated() -> Rig {
    let mut rig = Rig::new();
    let (at, _) = rig.connect_and_sign(OWNER, "key");
    rig.publish(|change| change.seal_floor = 2);
    rig.run();
    // A write obtains the newer DEK.
    rig.receive(at, &generate(2, &rig.key("new", 0), 0));
    rig.ticks(DEK_AGAIN_TICKS);
    rig.run();
    rig.keeps_errands = true;
    rig
}

/// Has the shard read this page for control.
fn read_page(rig: &mut Rig, work: ResealWork, page: Page) {
    let message = ToShard::Reseal {
        question: QuestionId(5),
        keyspace: KEYSPACE,
        generation: 2,
        work,
        cursor: Vec::new(),
    };
    rig.shard.handle_control(Lane::Ordinary, message);
    rig.run();
    let (task, list) = rig.kept.pop().unwrap();
    assert!(matches!(list, Errand::List { .. }), "{list:?}");
    rig.shard.handle_done(task, Done::Listed(Ok(page)));
    rig.run();
}

/// Returns the answer to control about the page.
fn told_page(rig: &Rig) -> Result<ResealPage, ResealError> {
    let told = rig.told.iter().find_map(|told| match told {
        ToControl::Resealed { page, .. } => Some(page.clone()),
        _ => None,
    });
    told.unwrap()
}

/// A row with a blob under DEK 1.
fn row(state: KeyState) -> Row {
    Row {
        key_id: b"key".to_vec(),
        blob: Blob {
            version: 1,
            revision: 1,
            bytes: vec![1; 64],
        },
        state,
    }
}

#[test]
fn page_is_resealed_one_blob_at_a_time_and_reported_with_the_floor() {
    let mut rig = rotated();
    let page = Page {
        rows: vec![row(KeyState::Live), row(KeyState::Live)],
        cursor: b"next".to_vec(),
        unsettled: false,
    };
    read_page(&mut rig, ResealWork::Reseal, page);
    for conflicts in [true, false] {
        let (task, put) = rig.kept.pop().unwrap();
        assert!(matches!(put, Errand::Put(..)), "{put:?}");
        assert_eq!(rig.kept.len(), 0, "one at a time");
        let put = match conflicts {
            // It was written in the meantime, under the current DEK.
            true => Err(WriteError::Conflict("changed".to_owned())),
            false => Ok(1),
        };
        rig.shard.handle_done(task, Done::Put(put));
        rig.run();
    }
    let page = told_page(&rig).unwrap();
    assert_eq!((page.floor, page.found, page.resealed), (2, 2, 2));
    assert_eq!((page.unreadable, page.cursor.as_slice()), (0, &b"next"[..]));
}

/// A DEK was retired while a revocation was not written. A crash undid the revocation, and the blob was under that DEK.
#[test]
fn blob_of_a_revocation_that_is_not_written_needs_its_dek() {
    let page = || Page {
        rows: vec![row(KeyState::Revoked)],
        ..Page::default()
    };
    let mut rig = rotated();
    read_page(&mut rig, ResealWork::Count, page());
    assert_eq!(told_page(&rig).unwrap().found, 1);
    let mut rig = rotated();
    read_page(&mut rig, ResealWork::Reseal, page());
    assert!(rig.kept.is_empty(), "the log would refuse it");
    let waits = told_page(&rig);
    assert!(matches!(waits, Err(ResealError::Other(_))), "{waits:?}");
}

#[test]
fn page_counts_nothing_while_a_failed_write_may_be_in_the_log() {
    let mut rig = rotated();
    let page = Page {
        unsettled: true,
        ..Page::default()
    };
    read_page(&mut rig, ResealWork::Count, page);
    let waits = told_page(&rig);
    assert!(matches!(waits, Err(ResealError::Other(_))), "{waits:?}");
}
