//! Places that are kept for the server's user and root, in control's queue and among the unlocks of a keyspace.
//!
//! Others could have as many commands in progress as control takes: STATUS and UNLOCK of the server's user were answered
//! OVERLOADED with the rest, and 64 unlocks that waited for a KMS kept its own out.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::Status;
use keyway_node::control::COMMANDS_MAX;
use keyway_protocol::{Octets, Request, Settings, Unlock, UnlockKind};

use crate::common::held_kms::HeldKms;
use crate::common::pipeline::Pipeline;
use crate::common::{prod, repeat_until};
use crate::stopping::{let_disk_go_on, stall_disk};

/// Commands in flight on each connection: as many as it may.
const IN_FLIGHT: usize = 1_024;
/// One more than fill control for ordinary commands; these have as many places again.
const PIPELINES: usize = COMMANDS_MAX / IN_FLIGHT + 1;
const UNLOCKS_MAX: usize = 64;

fn unlock(watch: bool) -> Request<'static> {
    Request::Unlock(Unlock {
        kind: UnlockKind::Nothing,
        watch,
        force: false,
        secret: Octets(b""),
    })
}

#[test]
fn the_operator_gets_through_when_others_have_all_places_at_control() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = kms.setup(dir.path()).shards(1).start();
    let grants = [("allow:anonymous", "manage,unlock")];
    let owner = server.unix_client();
    owner.keyspace_create(&prod(), &grants).unwrap();
    let mut pipelines: Vec<Pipeline> = (0..PIPELINES).map(|_| Pipeline::tcp(&server)).collect();
    let (mut stranger, mut operator) = (Pipeline::tcp(&server), Pipeline::unix(&server));
    let keyspace = operator.keyspace("prod");
    let history = Request::KeyspaceHistory;
    repeat_until("all places at control taken", || {
        owner
            .keyspace_set(&prod(), &[("allow:uid:4242", "sign")])
            .unwrap();
        stall_disk(&server);
        // They all withdraw the same, and so wait for the same write.
        let set = Request::KeyspaceSet(Settings::new("allow:uid:4242=none\n").unwrap());
        for pipeline in &mut pipelines {
            for _ in 0..IN_FLIGHT {
                pipeline.queue(&set, keyspace, b"", 0);
            }
            pipeline.send();
        }
        let mut answered = vec![0; PIPELINES];
        let mut is_full = false;
        while !is_full && answered.iter().sum::<usize>() < COMMANDS_MAX {
            for (pipeline, answered) in pipelines.iter_mut().zip(&mut answered) {
                *answered += pipeline.take_arrived().len();
            }
            is_full = stranger.ask(&history, keyspace, b"").status == Status::Overloaded;
        }
        let mut statuses = Vec::new();
        for request in [Request::Status { after: 0 }, history, unlock(false)] {
            let at = if matches!(request, Request::Status { .. }) {
                0
            } else {
                keyspace
            };
            statuses.push(operator.ask(&request, at, b"").status);
        }
        let is_full = is_full && stranger.ask(&history, keyspace, b"").status == Status::Overloaded;
        statuses.push(operator.ask_within(&Request::Lock, keyspace, b"", 0).status);
        let [others @ .., locked] = &statuses[..] else {
            unreachable!("there are four");
        };
        assert!(
            others.iter().all(|status| *status == Status::Ok),
            "{statuses:?}"
        );
        assert!(
            matches!(locked, Status::Ok | Status::NotPersisted),
            "{statuses:?}"
        );
        let_disk_go_on(&server);
        for (pipeline, answered) in pipelines.iter_mut().zip(&answered) {
            (*answered..IN_FLIGHT).for_each(|_| drop(pipeline.reply()));
        }
        is_full
    });
}

#[test]
fn the_operator_can_unlock_when_others_have_all_unlocks_of_a_keyspace_under_way() {
    let (kms, dir) = (HeldKms::start(), tempfile::tempdir().unwrap());
    let server = kms.setup(dir.path()).shards(1).start();
    let grants = [("allow:anonymous", "unlock")];
    let owner = server.unix_client();
    owner.keyspace_create(&prod(), &grants).unwrap();
    owner.lock(&prod()).unwrap();
    kms.hold();
    let (mut stranger, mut operator) = (Pipeline::tcp(&server), Pipeline::unix(&server));
    let keyspace = operator.keyspace("prod");
    for _ in 0..UNLOCKS_MAX {
        assert_eq!(
            stranger.ask(&unlock(true), keyspace, b"").status,
            Status::Ok
        );
    }
    let refused = stranger.ask(&unlock(true), keyspace, b"");
    assert_eq!(refused.status, Status::Overloaded, "{refused:?}");
    let taken = operator.ask(&unlock(false), keyspace, b"");
    assert_eq!(taken.status, Status::Ok, "{taken:?}");
    let ticket = u64::from_le_bytes(taken.payload.try_into().unwrap());
    kms.release();
    crate::common::wait_until("the unlock", crate::common::WITHIN, || {
        let status = owner.unlock_status(&prod(), ticket).unwrap().value;
        status.state == keyway_client::UnlockState::Done
    });
}
