//! A handler that panics ends its own unit of work only: the request is answered once, and others continue.

use keyway_protocol::Status;

use super::rig::{OWNER, Rig, SIGNATURE, sign, statuses};

#[test]
fn panicking_operation_is_answered_internal_once_without_details() {
    let mut rig = Rig::new();
    let at = rig.connect(OWNER);
    let (bad, good) = (rig.key("bad", 0), rig.key("good", 0));
    rig.world.panics_at.replace(bad.clone());
    // Cold, as a waiter; then as a hit, between other requests.
    rig.receive(at, &sign(1, &bad, 0));
    rig.run();
    let first = rig.answers(at);
    assert_eq!((first.len(), first[0].status), (1, Status::Internal));
    let requests = [sign(2, &good, 0), sign(3, &bad, 0), sign(4, &good, 0)];
    rig.receive(at, &requests.concat());
    rig.run();
    let mut answers = rig.answers(at);
    answers.sort_by_key(|answer| answer.id);
    assert_eq!(
        statuses(&answers),
        [(2, Status::Ok), (3, Status::Internal), (4, Status::Ok)]
    );
    let shown = answers[1].payload.windows(SIGNATURE.len());
    assert!(shown.into_iter().all(|bytes| bytes != SIGNATURE));
    assert!(!rig.shard.is_broken());
    let panics = rig.reports.iter().filter(|text| text.contains("Panicked"));
    assert_eq!(panics.count(), 2, "{:?}", rig.reports);
    assert_eq!(rig.shard.figures().waiting.jobs, 0);
}
