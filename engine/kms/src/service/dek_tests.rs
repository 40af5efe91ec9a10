//! Tests of the service with DEKs and their records.

use std::os::unix::fs::PermissionsExt;

use super::fake_provider::Step;
use super::tests::{Bench, NOW, ms};
use super::*;
use crate::{DevKek, Local};

#[tokio::test(start_paused = true)]
async fn a_new_dek_is_proven_before_it_is_handed_out() {
    let bench = Bench::new([Step::Ok(ms(10)), Step::Ok(ms(10))], NOW, Budget::default());
    let made = bench.service.new_dek(7, 1).await.unwrap();
    assert_eq!(bench.provider.call_count(), 2);
    // The verification waits for its place in the rate, 20 ms after the wrap.
    assert_eq!(made.sent_at_us, 20_000);
    let again = bench.service.unwrap_dek(7, 1, &made.record).await.unwrap();
    assert!(again.dek.is_same(&made.dek));

    let bench = Bench::new([NOW, Step::OtherKey], NOW, Budget::default());
    assert_eq!(
        bench.service.new_dek(7, 1).await.unwrap_err().class(),
        Class::Corrupt
    );
    let bench = Bench::new([NOW, Step::Fail(Class::Denied)], NOW, Budget::default());
    assert_eq!(
        bench.service.new_dek(7, 1).await.unwrap_err().class(),
        Class::Denied
    );
}

#[tokio::test]
async fn the_local_provider_binds_a_dek_to_its_cluster_and_keyspace() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let path = directory.path().join("kek.json");
    Local::create_unprotected(&path).unwrap();
    let service = |cluster| {
        let local = Local::open(&path, DevKek::Allow).unwrap();
        Service::new(Arc::new(local), cluster, Budget::in_process(), || 42).unwrap()
    };
    let ours = service([1; 16]);
    assert!(ours.is_unprotected());
    let made = ours.new_dek(7, 1).await.unwrap();
    let again = ours.unwrap_dek(7, 1, &made.record).await.unwrap();
    assert!(again.dek.is_same(&made.dek));
    assert_eq!(again.sent_at_us, 42);
    assert_eq!(
        ours.unwrap_dek(8, 1, &made.record)
            .await
            .unwrap_err()
            .class(),
        Class::Corrupt
    );
    assert_eq!(
        ours.unwrap_dek(7, 2, &made.record)
            .await
            .unwrap_err()
            .class(),
        Class::Corrupt
    );
    let theirs = service([2; 16]);
    assert_eq!(
        theirs
            .unwrap_dek(7, 1, &made.record)
            .await
            .unwrap_err()
            .class(),
        Class::Corrupt
    );
}

#[tokio::test(start_paused = true)]
async fn a_kms_that_makes_deks_is_asked_to_and_its_dek_is_proven() {
    let bench = Bench::new([], NOW, Budget::default());
    bench.provider.generate_too();
    let made = bench.service.new_dek(7, 1).await.unwrap();
    let counters = bench.service.counters_by_keyspace()[&7];
    assert_eq!(counters.count(KmsOperation::Generate, KmsOutcome::Ok), 1);
    assert_eq!(counters.count(KmsOperation::Wrap, KmsOutcome::Ok), 0);
    assert_eq!(counters.count(KmsOperation::Unwrap, KmsOutcome::Ok), 1);
    let again = bench.service.unwrap_dek(7, 1, &made.record).await.unwrap();
    assert!(again.dek.is_same(&made.dek));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_or_foreign_record_costs_no_call() {
    let bench = Bench::new([], NOW, Budget::default());
    let made = bench.service.new_dek(7, 1).await.unwrap();
    let calls = bench.provider.call_count();
    let mut damaged = made.record.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (keyspace, generation, record) in
        [(7, 1, &damaged), (8, 1, &made.record), (7, 2, &made.record)]
    {
        let asked = bench.service.unwrap_dek(keyspace, generation, record).await;
        assert_eq!(asked.unwrap_err().class(), Class::Corrupt);
    }
    assert_eq!(bench.provider.call_count(), calls);
    assert_eq!(bench.count(KmsOutcome::Corrupt), 3);
}

#[tokio::test(start_paused = true)]
async fn another_key_than_the_one_that_was_wrapped_is_found_out() {
    let bench = Bench::new([], NOW, Budget::default());
    let made = bench.service.new_dek(7, 1).await.unwrap();
    bench.provider.set_afterwards(Step::OtherKey);
    let error = bench
        .service
        .unwrap_dek(7, 1, &made.record)
        .await
        .unwrap_err();
    assert_eq!(error.class(), Class::Corrupt);
}
