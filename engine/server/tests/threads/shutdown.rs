//! Stopping the node in any state: all of it ends, and no thread waits indefinitely.

use keyway_node::messages::{Command, Secret};
use keyway_protocol::UnlockKind;
use shuttle::thread;

use super::node::{Flaw, KEYSPACE, Node, Plan, SHARDS, SOUND};

fn stop_in_the_middle(plan: Plan) {
    let node = Node::start(plan);
    for command in [
        Command::Unlock {
            keyspace: KEYSPACE,
            secret: Secret {
                kind: UnlockKind::Nothing,
                bytes: Vec::new().into(),
                force: false,
            },
            watch: false,
        },
        Command::Lock { keyspace: KEYSPACE },
        Command::Create {
            name: "other".into(),
            kms: None,
            change: Default::default(),
        },
    ] {
        node.send(command);
        thread::yield_now();
    }
    let said = node.stop();
    assert_eq!(said.len(), usize::from(SHARDS), "each shard speaks once");
    let failed = said.iter().filter(|said| said.is_err()).count();
    assert_eq!(failed, usize::from(plan.shard_dies));
}

#[test]
fn a_node_stops_whatever_it_is_doing() {
    super::explore(|| stop_in_the_middle(SOUND));
}

#[test]
fn a_node_stops_though_the_kms_never_answers() {
    super::explore(|| {
        stop_in_the_middle(Plan {
            kms_hangs: true,
            ..SOUND
        });
    });
}

/// A shard whose thread ended before it served, for example because the kernel provided no ring, notified no thread: the
/// start waited for it indefinitely, since the main thread itself held the channel open.
#[test]
fn shard_that_ends_early_is_reported_and_no_longer_waited_for() {
    super::explore(|| {
        stop_in_the_middle(Plan {
            shard_dies: true,
            ..SOUND
        });
    });
}

#[test]
fn a_node_that_would_not_stop_is_found() {
    for flaw in [Flaw::ReadsFlagOnce, Flaw::EndsSilently] {
        super::finds("a node that does not stop", move || {
            stop_in_the_middle(Plan { flaw, ..SOUND });
        });
    }
}
