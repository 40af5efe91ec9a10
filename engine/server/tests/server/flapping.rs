//! A KMS that fails again and again for a short time: the log has a line a minute of it, and not two each time.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::time::Instant;

use keyway_client::{Algorithm, KeyOptions, KeyPath};
use keyway_testkit::fault_proxy::{Fault, FaultProxy};

use crate::common::{WITHIN, prod, wait_until};
use crate::rotation::stand;

const ROUNDS: u64 = 8;
/// A call is attempted twice: after that many failed attempts in a row, a call has failed.
const ATTEMPTS: usize = 4;

/// Returns the number of answers given so far under this fault.
fn answers(proxy: &FaultProxy, fault: Fault) -> usize {
    let calls = proxy.calls();
    let ended = calls.iter().filter(|call| call.ended.is_some());
    ended.filter(|call| call.fault == fault).count()
}

#[test]
fn a_kms_that_flaps_is_one_outage_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let Some((_bao, proxy, setup)) = stand(dir.path(), 1) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    client
        .keyspace_set(&prod(), &[("dek_lease_ms", "1000")])
        .unwrap();
    let key: KeyPath = "prod/key".parse().unwrap();
    wait_until("a key", WITHIN, || {
        let options = KeyOptions::default();
        let made = client.key_generate(&key, Algorithm::HmacSha256, options);
        made.is_ok()
    });
    let began = Instant::now();
    for _ in 0..ROUNDS {
        for (fault, count) in [(Fault::Error, ATTEMPTS), (Fault::Pass, 1)] {
            let before = answers(&proxy, fault);
            proxy.set(fault);
            wait_until("calls of the KMS", WITHIN, || {
                let _ = client.mac(&key, b"message");
                answers(&proxy, fault) >= before + count
            });
        }
        wait_until("the key", WITHIN, || client.mac(&key, b"message").is_ok());
    }
    let log = server.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("unwrap failed") || line.contains("unwraps succeed again"))
        .collect();
    // It fails, works, fails; after that there is a line a minute at most.
    let allowed = 3 + began.elapsed().as_secs() / 60;
    assert!(lines.len() as u64 <= allowed, "{allowed}: {lines:#?}");
    assert!(lines.len() > 1, "{lines:#?}");
}
