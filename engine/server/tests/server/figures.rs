//! The exporter and the log compared with the runbook, with the real promtool. `dashboards` tests them with a real
//! Prometheus.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::common::{Server, Setup, WITHIN, has_program, past_the_start, prod};
use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Call, Input, KeyFormat, KeyOptions, KeyPath, Scheme, Status};

const MESSAGE: &[u8] = b"the message";

/// The runbook's series: name and type.
const RUNBOOK: [(&str, &str); 8] = [
    ("rehydrate_total", "counter"),
    ("rehydrate_fail_total", "counter"),
    ("rehydrate_latency_ms", "histogram"),
    ("singleflight_waiters", "gauge"),
    ("singleflight_wait_timeout_total", "counter"),
    ("prefetch_scan_total", "counter"),
    ("prefetch_trigger_total", "counter"),
    ("prefetch_skipped_total", "counter"),
];

/// Such a short life that the prefetcher always has work.
pub(crate) const SHORT_LIVED: [(&str, &str); 3] = [
    ("soft_ttl_ms", "100"),
    ("hard_ttl_ms", "200"),
    ("jitter_pct", "0"),
];

fn of_prod(name: &str) -> String {
    format!("{name}{{keyspace=\"prod\"}}")
}

pub(crate) fn generate(client: &Client, count: usize) -> Vec<KeyPath> {
    let keys: Vec<KeyPath> = (0..count)
        .map(|n| format!("prod/key-{n}").parse().unwrap())
        .collect();
    for key in &keys {
        client
            .key_generate(key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
    }
    keys
}

fn sign_call(key: &KeyPath) -> Call<Vec<u8>> {
    Call::sign(key, Scheme::Default, Input::Message(MESSAGE))
}

/// Signs once with every key, all at the same time.
pub(crate) fn sign_all(client: &Client, keys: &[KeyPath]) {
    let pending: Vec<_> = keys
        .iter()
        .map(|key| client.submit(sign_call(key)))
        .collect();
    for (key, pending) in keys.iter().zip(pending) {
        let mut first = Some(pending.wait());
        let again = || first.take().unwrap_or_else(|| client.call(sign_call(key)));
        past_the_start(again).unwrap();
    }
}

/// Uses the keys until `done`, which has its own limit if [`WITHIN`] is not long enough.
pub(crate) fn work_until(client: &Client, keys: &[KeyPath], mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        for _ in 0..20 {
            sign_all(client, keys);
        }
        assert!(began.elapsed() < WITHIN, "it did not happen");
    }
}

#[test]
fn promtool_finds_nothing_but_the_fixed_name() {
    if !has_program("promtool") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let keys = generate(&client, 4);
    sign_all(&client, &keys);
    server.wait_for_metric(&of_prod("rehydrate_total"), |value| value >= 4.0);
    let (head, text) = server.http("/metrics");
    assert!(head.contains("200"), "{head}");
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    // The runbook's name is fixed; its lint about the unit's spelling is the only one.
    let lines: Vec<_> = said.lines().filter(|line| !line.is_empty()).collect();
    assert!(
        matches!(lines[..], [line] if line.starts_with("rehydrate_latency_ms ")),
        "promtool says: {said}"
    );
}

#[test]
fn the_runbooks_series_are_there_with_the_keyspace_as_their_only_label() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    client
        .keyspace_create(&"staging".parse().unwrap(), &[])
        .unwrap();
    sign_all(&client, &generate(&client, 4));
    server.wait_for_metric(&of_prod("rehydrate_total"), |value| value == 4.0);
    server.wait_for_metric("rehydrate_total{keyspace=\"staging\"}", |value| {
        value == 0.0
    });
    let (_, text) = server.http("/metrics");
    for (name, kind) in RUNBOOK {
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} {kind}\n{text}"
        );
        assert!(text.contains(&format!("# HELP {name} ")), "{name}");
        let samples: Vec<_> = text
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', '_']))
            .collect();
        for keyspace in ["prod", "staging"] {
            let of_it: Vec<_> = samples
                .iter()
                .filter(|rest| rest.contains(&format!("keyspace=\"{keyspace}\"")))
                .collect();
            if kind == "histogram" {
                assert!(of_it.iter().any(|rest| rest.starts_with("_sum{")), "{name}");
                assert!(
                    of_it.iter().any(|rest| rest.contains("le=\"+Inf\"")),
                    "{name}"
                );
                // Buckets well below and above the target of 2 ms.
                for bound in ["0.005", "0.1", "1", "2", "5", "1000"] {
                    let has = |rest: &&&str| rest.contains(&format!("le=\"{bound}\""));
                    assert!(of_it.iter().any(has), "no bucket {bound}: {of_it:?}");
                }
            } else {
                let label = format!("{{keyspace=\"{keyspace}\"}} ");
                assert!(
                    matches!(of_it[..], [one] if one.starts_with(&label)),
                    "{name} {of_it:?}"
                );
            }
        }
        assert!(
            samples.iter().all(|rest| !rest.contains("shard=")),
            "{name}"
        );
    }
    let (head, body) = server.http("/healthz");
    assert!(head.contains("200") && body == "ok\n", "{head} {body}");
    let (head, body) = server.http("/readyz");
    assert!(head.contains("200"), "{head} {body}");
    let ready: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&ready["ready"], &ready["shard_count"]),
        (&true.into(), &2.into())
    );
    assert!(server.http("/nothing").0.contains("404"));
}

#[test]
fn the_encryptions_of_an_aead_key_are_seen_against_their_limit() {
    const LIMIT: f64 = 4_294_967_296.0;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let key: KeyPath = "prod/data".parse().unwrap();
    client
        .key_generate(&key, Algorithm::Aes256Gcm, KeyOptions::default())
        .unwrap();
    let ratio = of_prod("keyway_aead_uses_ratio");
    server.wait_for_metric(&ratio, |value| value == 0.0);
    for _ in 0..16 {
        client.encrypt(&key, b"", b"message").unwrap();
    }
    server.wait_for_metric(&ratio, |value| value == 16.0 / LIMIT);
    // Its new version starts a new count, and the old one no longer encrypts.
    client.key_rotate(&key, None).unwrap();
    client.encrypt(&key, b"", b"message").unwrap();
    server.wait_for_metric(&ratio, |value| value == 1.0 / LIMIT);
}

#[test]
fn each_load_counts_once_however_many_ask() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let keys = generate(&client, 10);
    let total = of_prod("rehydrate_total");
    for _ in 0..3 {
        sign_all(&client, &keys);
    }
    server.wait_for_metric(&total, |value| value == 10.0);
    for key in &keys {
        client.force_refresh(key).unwrap();
    }
    server.wait_for_metric(&total, |value| value == 20.0);
    // A hundred concurrent requests for one cold key share one load.
    let cold: KeyPath = "prod/cold".parse().unwrap();
    client
        .key_generate(&cold, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    sign_all(&client, &vec![cold; 100]);
    server.wait_for_metric(&total, |value| value == 21.0);
    let count = of_prod("rehydrate_latency_ms_count");
    server.wait_for_metric(&count, |value| value == 21.0);
    assert_eq!(server.metric(&of_prod("rehydrate_fail_total")), Some(0.0));
    assert_eq!(server.metric(&of_prod("keyway_resident_keys")), Some(11.0));
    // A missing key is an answer of the store, not a fault of the DEK or the KMS.
    let signed = client.sign(
        &"prod/nobody".parse().unwrap(),
        Scheme::Default,
        Input::Message(b""),
    );
    assert_eq!(signed.unwrap_err().status(), Some(Status::NotFound));
    let missing =
        "keyway_requests_total{keyspace=\"prod\",operation=\"sign\",outcome=\"not_found\"}";
    server.wait_for_metric(missing, |value| value == 1.0);
}

#[test]
fn the_prefetchers_counters_move_as_they_mean() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let keys = generate(&client, 200);
    let figure = |name: &str| server.metric(&of_prod(name)).unwrap_or(0.0);
    client.keyspace_set(&prod(), &SHORT_LIVED).unwrap();
    work_until(&client, &keys, || figure("prefetch_trigger_total") > 200.0);
    assert!(figure("prefetch_scan_total") > 0.0);
    // Every refresh that was started is a load, or is about to be.
    let triggered = figure("prefetch_trigger_total");
    server.wait_for_metric(&of_prod("rehydrate_total"), |value| value >= triggered);

    // One flight at a time for two hundred keys: most that are due are skipped.
    client
        .keyspace_set(&prod(), &[("maxInFlight", "1")])
        .unwrap();
    let skipped = figure("prefetch_skipped_total");
    work_until(&client, &keys, || {
        figure("prefetch_skipped_total") > skipped
    });

    // Disabled: no scan, no refresh, and every expiry is handled by a request.
    client
        .keyspace_set(&prod(), &[("maxInFlight", "0")])
        .unwrap();
    // Twice: the first snapshot may have been in flight when the prefetcher was disabled.
    for _ in 0..2 {
        let loads = figure("rehydrate_total");
        work_until(&client, &keys, || figure("rehydrate_total") > loads + 400.0);
    }
    let still = ["prefetch_scan_total", "prefetch_trigger_total"].map(figure);
    let loads = figure("rehydrate_total");
    work_until(&client, &keys, || figure("rehydrate_total") > loads + 400.0);
    assert_eq!(
        ["prefetch_scan_total", "prefetch_trigger_total"].map(figure),
        still
    );
}

#[test]
fn a_wait_that_uses_up_its_budget_is_counted_and_logged() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let keys = generate(&client, 300);
    // Loads of three hundred keys queue up; the last wait longer than 1 us for theirs.
    client.keyspace_set(&prod(), &SHORT_LIVED).unwrap();
    client
        .keyspace_set(&prod(), &[("maxInFlight", "0"), ("signWaitBudget", "1")])
        .unwrap();
    let timeouts = of_prod("singleflight_wait_timeout_total");
    work_until(&client, &keys, || {
        server.metric(&timeouts).is_some_and(|value| value > 0.0)
    });
    let line = server.wait_for_log("refresh wait timeout");
    assert!(
        line.contains("prod") && line.contains("key-") && line.contains("waiters"),
        "{line}"
    );
    // The DEK is available: the reads are the only possible cause.
    assert!(
        line.contains("cause=\"read_queued\"") || line.contains("cause=\"read_slow\""),
        "{line}"
    );
    server.wait_for_metric(&of_prod("singleflight_waiters"), |value| value == 0.0);
}

/// Returns every segment of the blob logs.
fn segments(data: &Path) -> Vec<std::path::PathBuf> {
    let entries = |dir: &Path| {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect::<Vec<_>>()
    };
    let named = |path: &Path, prefix: &str| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(prefix)
    };
    entries(data)
        .iter()
        .filter(|path| named(path, "blobs-"))
        .flat_map(|generation| entries(generation))
        .filter(|path| named(path, "shard-"))
        .flat_map(|shard| entries(&shard))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect()
}

/// Flips one bit of the blob after `key_id` on the disk.
pub(crate) fn damage_blob(data: &Path, key_id: &str) {
    for segment in segments(data) {
        let mut bytes = std::fs::read(&segment).unwrap();
        let found = bytes
            .windows(key_id.len())
            .position(|part| part == key_id.as_bytes());
        if let Some(at) = found {
            bytes[at + key_id.len() + 40] ^= 1;
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new()
                .write(true)
                .open(&segment)
                .unwrap();
            let at = at + key_id.len() + 40;
            file.write_all_at(&bytes[at..=at], at as u64).unwrap();
            file.sync_all().unwrap();
            return;
        }
    }
    panic!("{key_id} is in no segment");
}

fn kms_calls(server: &Server) -> Vec<String> {
    let (_, text) = server.http("/metrics");
    text.lines()
        .filter(|line| line.starts_with("keyway_kms_calls_total"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_damaged_blob_makes_its_key_invalid_and_asks_no_kms() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let keys = generate(&client, 3);
    let damaged: KeyPath = "prod/to-be-damaged".parse().unwrap();
    client
        .key_generate(&damaged, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    sign_all(&client, &keys);
    damage_blob(&server.data, "to-be-damaged");
    server.wait_for_metric(&of_prod("rehydrate_total"), |value| value == 3.0);
    let calls = kms_calls(&server);
    for _ in 0..3 {
        let error = client.call(sign_call(&damaged)).unwrap_err();
        assert_eq!(error.status(), Some(Status::Invalid), "{error}");
    }
    sign_all(&client, &keys);
    server.wait_for_metric(&of_prod("rehydrate_fail_total"), |value| value >= 1.0);
    assert_eq!(kms_calls(&server), calls);
    let line = server.wait_for_log("key cache invalid");
    for part in ["prod", "to-be-damaged", "Corrupt", "dek=\"held\""] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
}

#[test]
fn damage_done_while_the_server_is_down_is_found_and_spares_the_other_keys() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let server = setup.start();
    let client = server.client();
    let damaged: KeyPath = "prod/to-be-damaged".parse().unwrap();
    client
        .key_generate(&damaged, Algorithm::Ed25519, KeyOptions::default())
        .unwrap();
    let keys = generate(&client, 3);
    server.stop();
    damage_blob(&dir.path().join("data"), "to-be-damaged");
    let server = setup.start();
    let client = server.client();
    sign_all(&client, &keys);
    server.wait_for_metric(&of_prod("rehydrate_total"), |value| value == 3.0);
    let calls = kms_calls(&server);
    let error = past_the_start(|| client.call(sign_call(&damaged))).unwrap_err();
    assert_eq!(error.status(), Some(Status::Invalid), "{error}");
    server.wait_for_metric(&of_prod("rehydrate_fail_total"), |value| value >= 1.0);
    assert_eq!(kms_calls(&server), calls);
    server.wait_for_log("key cache invalid");
    // It still exists: nothing may replace it silently, and it can be revoked.
    let rotated = client.key_rotate(&damaged, None).unwrap_err();
    assert_eq!(rotated.status(), Some(Status::Invalid), "{rotated}");
    let made = client.key_generate(&damaged, Algorithm::Ed25519, KeyOptions::default());
    assert_eq!(made.unwrap_err().status(), Some(Status::Conflict));
    assert_eq!(client.key_list(&prod()).unwrap().len(), 4);
    client.key_revoke(&damaged).unwrap();
    let error = client.call(sign_call(&damaged)).unwrap_err();
    assert_eq!(error.status(), Some(Status::Revoked), "{error}");
}

/// As in OPERATING.md, "To restore a damaged key".
#[test]
fn a_damaged_key_is_restored_by_importing_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let server = setup.start();
    let client = server.client();
    let damaged: KeyPath = "prod/to-be-damaged".parse().unwrap();
    let import = |client: &Client| {
        let options = KeyOptions::default();
        let algorithm = Some(Algorithm::Ed25519);
        past_the_start(|| client.key_import(&damaged, algorithm, options, KeyFormat::Raw, &[7; 32]))
    };
    let sign = |client: &Client| {
        let message = Input::Message(b"pay 5 to bob");
        let signed = past_the_start(|| client.sign(&damaged, Scheme::Default, message));
        signed.map(|answer| (answer.key_version, answer.value))
    };
    assert_eq!(import(&client).unwrap().key_version, 1);
    let expected = sign(&client).unwrap();
    server.stop();
    damage_blob(&dir.path().join("data"), "to-be-damaged");
    let server = setup.start();
    let client = server.client();
    assert_eq!(sign(&client).unwrap_err().status(), Some(Status::Invalid));
    assert_eq!(import(&client).unwrap().key_version, 1);
    assert_eq!(sign(&client).unwrap(), expected);
    server.wait_for_log("damaged key restored by an import");
    // Only what is corrupt is replaced.
    let again = import(&client).unwrap_err();
    assert_eq!(again.status(), Some(Status::Conflict), "{again}");
    server.kill();
    assert_eq!(sign(&setup.start().client()).unwrap(), expected);
}
