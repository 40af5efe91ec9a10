//! DEKs in flight from the KMS to the shards, and locks and unlocks that race with them.

use keyway_node::messages::{Command, Secret};
use keyway_protocol::{Status, UnlockKind};
use shuttle::thread;
use std::sync::atomic::Ordering;

use super::node::{Flaw, KEYSPACE, Node, Plan, SHARDS, SOUND};

fn unlock() -> Command {
    Command::Unlock {
        keyspace: KEYSPACE,
        secret: Secret {
            kind: UnlockKind::Nothing,
            bytes: Vec::new().into(),
            force: false,
        },
        watch: false,
    }
}

/// Starts an unlock. Returns its ticket.
fn start_unlock(node: &Node) -> u64 {
    let (status, payload) = node.ask(unlock());
    assert_eq!(status, Status::Ok);
    u64::from_le_bytes(payload.try_into().expect("a ticket"))
}

/// Waits until an unlock has ended.
fn wait_for_unlock(node: &Node, ticket: u64) -> String {
    loop {
        let (status, payload) = node.ask(Command::UnlockStatus {
            keyspace: KEYSPACE,
            ticket,
        });
        assert_eq!(status, Status::Ok);
        let text = String::from_utf8(payload).expect("JSON");
        if !text.contains("pending") {
            return text;
        }
        thread::yield_now();
    }
}

fn wait_for_deks(node: &Node) {
    while node.shared.holders.lock().expect("not poisoned").len() < usize::from(SHARDS) {
        thread::yield_now();
    }
}

/// As above, and nothing can be written: the lock is in force, and the unlock is refused.
fn a_lock_cannot_be_written() {
    let node = Node::start(Plan {
        disk_fails: true,
        ..SOUND
    });
    wait_for_deks(&node);
    let (status, why) = node.ask(Command::Lock { keyspace: KEYSPACE });
    assert_eq!(
        status,
        Status::NotPersisted,
        "{}",
        String::from_utf8_lossy(&why)
    );
    node.shared.is_sealed.store(true, Ordering::SeqCst);
    let ticket = start_unlock(&node);
    let ended = wait_for_unlock(&node, ticket);
    assert!(ended.contains("failed"), "{ended}");
    for _ in 0..10 {
        thread::yield_now();
    }
    node.stop();
}

fn everyone_gets_the_dek(flaw: Flaw) {
    let node = Node::start(Plan { flaw, ..SOUND });
    wait_for_deks(&node);
    node.stop();
}

/// A lock arrives while the shards are waiting for the DEK and an unlock is in progress.
fn a_lock_comes_in_between(flaw: Flaw) {
    let node = Node::start(Plan { flaw, ..SOUND });
    let overtaken = start_unlock(&node);
    assert_eq!(node.ask(Command::Lock { keyspace: KEYSPACE }).0, Status::Ok);
    let locked = node.shared.locked.lock().expect("not poisoned").len();
    assert_eq!(
        locked,
        usize::from(SHARDS),
        "acknowledged before all did it"
    );
    node.shared.is_sealed.store(true, Ordering::SeqCst);
    let ended = wait_for_unlock(&node, overtaken);
    assert!(
        ended.contains("failed") || ended.contains("done"),
        "{ended}"
    );
    for _ in 0..10 {
        thread::yield_now();
    }
    node.shared.is_sealed.store(false, Ordering::SeqCst);
    let ticket = start_unlock(&node);
    let ended = wait_for_unlock(&node, ticket);
    assert!(ended.contains("done"), "{ended}");
    wait_for_deks(&node);
    node.stop();
}

/// Each shard has writes of blobs in flight when the keyspace gets a new DEK.
fn a_rotation_comes_in_between(flaw: Flaw) {
    let node = Node::start(Plan { flaw, ..SOUND });
    wait_for_deks(&node);
    let (status, _) = node.ask(Command::Rotate { keyspace: KEYSPACE });
    assert_eq!(status, Status::Ok);
    node.shared.rotated_to.store(2, Ordering::SeqCst);
    for _ in 0..20 {
        thread::yield_now();
    }
    node.stop();
}

#[test]
fn every_shard_that_asks_gets_the_dek() {
    super::explore(|| everyone_gets_the_dek(Flaw::None));
}

/// An unlock used to be executed however long it had taken, even if the keyspace had been locked in the meantime and the
/// lock acknowledged: the older command won.
#[test]
fn an_acknowledged_lock_holds_until_a_later_unlock() {
    super::explore(|| a_lock_comes_in_between(Flaw::None));
}

/// A lock used to be written before it was executed, and a disk failure undid it.
#[test]
fn a_lock_holds_though_it_cannot_be_written() {
    super::explore(a_lock_cannot_be_written);
}

/// ROTATE used to be answered, and blobs counted, when the DEKs had been sent: a shard that had not received them yet
/// continued to seal under the older one.
#[test]
fn once_a_rotation_is_answered_no_blob_under_the_older_dek_comes_into_a_log() {
    super::explore(|| a_rotation_comes_in_between(Flaw::None));
}

#[test]
fn answers_and_locks_that_miss_a_shard_are_found() {
    super::finds("a DEK for one shard only", || {
        everyone_gets_the_dek(Flaw::OneShardOnly);
    });
    super::finds("a lock that one shard never receives", || {
        a_lock_comes_in_between(Flaw::LosesLock);
    });
    super::finds("a floor that is confirmed too early", || {
        a_rotation_comes_in_between(Flaw::ConfirmsEarly);
    });
}
