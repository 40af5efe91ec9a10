//! DEKs on their way from the KMS to the shards, and locks and unlocks that race with them.

use keyway_protocol::{Status, UnlockKind};
use keyway_server::control::messages::Command;
use shuttle::thread;
use std::sync::atomic::Ordering;

use super::node::{Flaw, KEYSPACE, Node, Plan, SHARDS, SOUND};

fn unlock() -> Command {
    Command::Unlock {
        keyspace: KEYSPACE,
        kind: UnlockKind::Nothing,
        secret: Vec::new().into(),
        watch: false,
        force: false,
    }
}

/// Waits until the unlock that was asked for last has ended.
fn wait_for_unlock(node: &Node) -> String {
    loop {
        let (status, payload) = node.ask(Command::UnlockStatus {
            keyspace: KEYSPACE,
            ticket: 0,
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
    while node
        .shared
        .holders
        .lock()
        .expect("nobody panics with it")
        .len()
        < usize::from(SHARDS)
    {
        thread::yield_now();
    }
}

fn everyone_gets_the_dek(flaw: Flaw) {
    let node = Node::start(Plan { flaw, ..SOUND });
    wait_for_deks(&node);
    node.stop();
}

/// The shards are waiting for the DEK, and an unlock is under way, when a lock comes.
fn a_lock_comes_in_between(flaw: Flaw) {
    let node = Node::start(Plan { flaw, ..SOUND });
    assert_eq!(node.ask(unlock()).0, Status::Ok);
    assert_eq!(node.ask(Command::Lock { keyspace: KEYSPACE }).0, Status::Ok);
    let locked = node
        .shared
        .locked
        .lock()
        .expect("nobody panics with it")
        .len();
    assert_eq!(
        locked,
        usize::from(SHARDS),
        "acknowledged before all did it"
    );
    node.shared.is_sealed.store(true, Ordering::SeqCst);
    wait_for_unlock(&node);
    for _ in 0..10 {
        thread::yield_now();
    }
    node.shared.is_sealed.store(false, Ordering::SeqCst);
    assert_eq!(node.ask(unlock()).0, Status::Ok);
    let ended = wait_for_unlock(&node);
    assert!(ended.contains("done"), "{ended}");
    wait_for_deks(&node);
    node.stop();
}

#[test]
fn every_shard_that_asks_gets_the_dek() {
    super::explore(|| everyone_gets_the_dek(Flaw::None));
}

/// An unlock used to be carried out however long it had taken, even when somebody had locked the
/// keyspace meanwhile and been told that it was locked: the older command won.
#[test]
fn an_acknowledged_lock_holds_until_a_later_unlock() {
    super::explore(|| a_lock_comes_in_between(Flaw::None));
}

#[test]
fn answers_and_locks_that_miss_a_shard_are_found() {
    super::finds("a DEK for one shard only", || {
        everyone_gets_the_dek(Flaw::OneShardOnly);
    });
    super::finds("a lock that one shard never hears of", || {
        a_lock_comes_in_between(Flaw::LosesLock);
    });
}
