//! Writes of keys: checks right before the log is written, and reports to control.

use keyway_node::ids::QuestionId;
use keyway_node::messages::{Lane, ResealError, ResealPage, ResealWork, ToControl, ToShard};
use keyway_node::policy::Policy;
use keyway_node::port::{Blob, KeyState, Page, Row, Write, WriteError};
use keyway_node::shard::{Done, Errand};
use keyway_protocol::{
    HotBy, KeyList, KeyRevoke, KeyRotate, KeyspaceHot, Octets, Opcode, Request, Status,
};

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

/// Returns what a write waits for, once it was received.
type Begin = fn(&mut Rig) -> Vec<u8>;

/// Writes, each in another wait: what they wait for, and whether a lock also ends them.
const WRITES: [(&str, Begin, bool); 4] = [
    ("the blob", |rig| rotate(1, &rig.key("key", 0)), true),
    (
        "the secret",
        |rig| {
            rig.world.is_slow_to_make.set(true);
            generate(1, &rig.key("new", 0), 0)
        },
        true,
    ),
    (
        "a newer DEK",
        |rig| {
            // A lease that does not include it.
            rig.connect_and_sign(OWNER, "warm");
            rig.publish(|change| change.seal_floor = 2);
            generate(1, &rig.key("new", 0), 0)
        },
        true,
    ),
    (
        "the time of the revocation",
        |rig| {
            rig.world.revokes.set(true);
            rig.publish(|change| change.guard.settings.delete_wait_ms = 1);
            let request = Request::KeyDelete;
            frame(1, &rig.key("key", 0), 0, Opcode::KeyDelete, &request)
        },
        // A locked keyspace's keys can be deleted.
        false,
    ),
];

#[test]
fn write_is_refused_if_its_right_or_keyspace_was_lost_whatever_it_waited_for() {
    for ((wait, begin, ends_by_lock), locks) in WRITES
        .into_iter()
        .flat_map(|write| [false, true].map(|locks| (write, locks)))
    {
        let what = format!("{wait}, locks: {locks}");
        let mut rig = Rig::new();
        rig.publish(|change| change.guard.policy.grant("uid:1000", "manage").unwrap());
        let at = rig.connect(STRANGER);
        rig.run();
        let write = begin(&mut rig);
        rig.keeps_errands = true;
        rig.receive(at, &write);
        rig.run();
        let puts = |rig: &Rig| {
            let mut kept = rig.kept.iter();
            kept.any(|(_, errand)| matches!(errand, Errand::Put(..)))
        };
        assert!(!puts(&rig), "{what}: it waits");
        assert_eq!(rig.answers(at), [], "{what}: it waits");
        lock_or_withdraw(&mut rig, locks);
        rig.run();
        for (task, errand) in std::mem::take(&mut rig.kept) {
            rig.shard.handle_done(task, done(&errand));
        }
        // A DEK arrives automatically.
        rig.ticks(DEK_AGAIN_TICKS);
        rig.run();
        assert_eq!(puts(&rig), locks && !ends_by_lock, "{what}");
        for (task, errand) in std::mem::take(&mut rig.kept) {
            rig.shard.handle_done(task, done(&errand));
        }
        rig.run();
        let expected = match (locks, ends_by_lock) {
            (true, true) => Status::NeedsUnlock,
            (true, false) => Status::Ok,
            (false, _) => Status::Forbidden,
        };
        assert_eq!(statuses(&rig.answers(at)), [(1, expected)], "{what}");
    }
}

/// Locks the keyspace, or withdraws all rights to it.
fn lock_or_withdraw(rig: &mut Rig, locks: bool) {
    rig.publish(|change| match locks {
        true => {
            change.epoch.count_up();
            change.guard.locked = true;
        }
        false => change.guard.policy = Policy::default(),
    });
}

/// The use count of a key is written in blocks; an operation that waits for one was not looked at in these tests.
#[test]
fn operation_that_waits_for_its_use_count_is_refused_if_its_right_or_keyspace_was_lost() {
    for locks in [false, true] {
        let mut rig = Rig::new();
        let (at, key) = rig.connect_and_sign(STRANGER, "key");
        rig.world.is_unreserved.set(true);
        rig.keeps_errands = true;
        rig.receive(at, &sign(2, &key, 0));
        rig.run();
        let (task, reserve) = rig.kept.pop().unwrap();
        assert!(matches!(reserve, Errand::Reserve(..)), "{reserve:?}");
        lock_or_withdraw(&mut rig, locks);
        rig.run();
        rig.world.is_unreserved.set(false);
        let before = rig.world.operations.get();
        rig.shard.handle_done(task, done(&reserve));
        rig.run();
        assert_eq!(rig.world.operations.get(), before, "it was done");
        let expected = match locks {
            true => Status::NeedsUnlock,
            false => Status::Forbidden,
        };
        assert_eq!(statuses(&rig.answers(at)), [(2, expected)]);
    }
}

/// An errand that panics is answered like one that fails, once, and nothing waits for it any longer.
#[test]
fn lost_errand_is_answered_once() {
    let reads = |rig: &mut Rig| sign(1, &rig.key("cold", 0), 0);
    let reserves = |rig: &mut Rig| {
        let key = rig.key("cold", 0);
        rig.world.is_unreserved.set(true);
        sign(1, &key, 0)
    };
    let puts = |rig: &mut Rig| generate(1, &rig.key("new", 0), 0);
    let lists = |_: &mut Rig| {
        let list = Request::KeyList(KeyList {
            shard: 0,
            limit: 9,
            cursor: Octets(b""),
        });
        frame(1, b"", 0, Opcode::KeyList, &list)
    };
    let errands: [(&str, Begin); 7] = [
        ("a page", lists),
        ("a load", reads),
        ("a block of uses", reserves),
        ("the blob", WRITES[0].1),
        ("the secret", WRITES[1].1),
        ("the time of the revocation", WRITES[3].1),
        ("the log", puts),
    ];
    for (what, begin) in errands {
        let mut rig = Rig::new();
        let at = rig.connect(OWNER);
        let request = begin(&mut rig);
        rig.keeps_errands = true;
        rig.receive(at, &request);
        rig.run();
        if what == "a block of uses" {
            let (task, read) = rig.kept.pop().unwrap();
            rig.shard.handle_done(task, done(&read));
            rig.run();
        }
        let (task, errand) = rig.kept.pop().unwrap();
        rig.shard.handle_done(task, Done::Lost);
        // A load is tried again until the core gives it up.
        for _ in 0..10 {
            rig.ticks(DEK_AGAIN_TICKS);
            for (task, _) in std::mem::take(&mut rig.kept) {
                rig.shard.handle_done(task, Done::Lost);
            }
            rig.run();
        }
        let answers = rig.answers(at);
        assert_eq!(answers.len(), 1, "{what}: {errand:?}: {answers:?}");
        let status = answers[0].status;
        let is_failure = match what {
            // The time that a signature waits has passed.
            "a load" => status == Status::Retry,
            _ => matches!(status, Status::Internal | Status::Unavailable),
        };
        assert!(is_failure, "{what}: {answers:?}");
        if what == "a page" {
            let text = String::from_utf8_lossy(&answers[0].payload);
            assert!(text.contains("page was lost"), "{text}");
        }
        assert_eq!(rig.shard.figures().waiting.jobs, 0, "{what}");
    }
}

/// A withdrawal can overtake what control reports.
#[test]
fn report_of_control_is_not_passed_on_after_the_right_was_withdrawn() {
    let hot = Request::KeyspaceHot(KeyspaceHot {
        by: HotBy::Requests,
        limit: 0,
    });
    for (opcode, request, withdraws, expected) in [
        (Opcode::KeyspaceHot, hot, true, Status::Forbidden),
        (Opcode::KeyspaceHot, hot, false, Status::Ok),
        // It is done, and the answer says so.
        (
            Opcode::KeyspaceRotate,
            Request::KeyspaceRotate,
            true,
            Status::Ok,
        ),
    ] {
        let mut rig = Rig::new();
        rig.publish(|change| change.guard.policy.grant("uid:1000", "manage").unwrap());
        let at = rig.connect(STRANGER);
        rig.receive(at, &frame(1, b"", 0, opcode, &request));
        rig.run();
        let token = rig.told.iter().find_map(|told| match told {
            ToControl::Request(request) => Some(request.token),
            _ => None,
        });
        if withdraws {
            rig.publish(|change| change.guard.policy = Policy::default());
        }
        let answer = ToShard::Answer {
            token: token.unwrap(),
            status: Status::Ok,
            payload: b"alice".to_vec().into(),
        };
        rig.shard.handle_control(Lane::Ordinary, answer);
        rig.run();
        let answers = rig.answers(at);
        assert_eq!(statuses(&answers), [(1, expected)], "{opcode:?}");
        let names = |payload: &[u8]| payload.windows(5).any(|part| part == b"alice");
        assert_eq!(names(&answers[0].payload), expected == Status::Ok);
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

/// The log drops what it knows of a revoked version once the newest blob is without it. A blob that was read before that
/// write, and is opened after it, has the version still.
#[test]
fn a_blob_that_was_replaced_since_it_was_read_is_read_again() {
    let mut rig = Rig::new();
    let (at, key) = (rig.connect(OWNER), rig.key("key", 0));
    rig.keeps_errands = true;
    rig.receive(at, &sign(1, &key, 0));
    rig.run();
    let (read, errand) = rig.kept.pop().unwrap();
    rig.world.revision.set(2);
    rig.shard.handle_done(read, done(&errand));
    rig.run();
    assert_eq!(rig.answers(at), []);
    let (read, errand) = rig.kept.pop().unwrap();
    assert!(matches!(errand, Errand::Read(_)), "{errand:?}");
    rig.world.revision.set(1);
    rig.shard.handle_done(read, done(&errand));
    rig.run();
    assert_eq!(statuses(&rig.answers(at)), [(1, Status::Ok)]);
}

/// It needed the data key, a read and a durable write before it took effect.
#[test]
fn revocation_of_one_version_is_in_force_before_and_without_a_durable_write_and_a_dek() {
    let mut rig = Rig::new();
    let (at, key) = rig.connect_and_sign(OWNER, "key");
    rig.keeps_errands = true;
    let revoke = Request::KeyRevoke(KeyRevoke { key_version: 1 });
    rig.receive(at, &frame(3, &key, 0, Opcode::KeyRevoke, &revoke));
    rig.run();
    let (task, put) = rig.kept.pop().unwrap();
    assert!(
        matches!(put, Errand::Put(_, Write::VersionRevocation(1))),
        "{put:?}"
    );
    // The key that is in memory still has the version: it is not used, but opened again, without it.
    rig.receive(at, &sign(4, &key, 0));
    rig.run();
    assert_eq!(rig.answers(at), []);
    let (read, errand) = rig.kept.pop().unwrap();
    assert!(matches!(errand, Errand::Read(_)), "{errand:?}");
    let failed = WriteError::NotPersisted("the disk is full".to_owned());
    rig.shard.handle_done(task, Done::Put(Err(failed)));
    rig.run();
    assert_eq!(statuses(&rig.answers(at)), [(3, Status::NotPersisted)]);
    rig.shard.handle_done(read, done(&errand));
    rig.run();
    assert_eq!(statuses(&rig.answers(at)), [(4, Status::Ok)]);
    // Also while the keyspace is locked.
    rig.publish(|change| change.guard.locked = true);
    rig.run();
    rig.receive(at, &frame(5, &key, 0, Opcode::KeyRevoke, &revoke));
    rig.run();
    let (task, put) = rig.kept.pop().unwrap();
    assert!(
        matches!(put, Errand::Put(_, Write::VersionRevocation(1))),
        "{put:?}"
    );
    rig.shard.handle_done(task, done(&put));
    rig.run();
    assert_eq!(statuses(&rig.answers(at)), [(5, Status::Ok)]);
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
        revoked: 0,
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
