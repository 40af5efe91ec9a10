//! The life of a keyspace, the same at every KMS: created, used, restarted, rotated and moved under load, denied, and
//! opened again.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod stands;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Answer, Error, Input, KeyOptions, KeyPath, KeyspaceInfo, KeyspaceName, Scheme,
    Status, UnlockState,
};

use crate::common::{Server, Setup, WITHIN, past_the_start, wait_until};
use stands::Stand;

/// Number of keys: enough for several pages of resealing.
const KEYS: usize = 150;

/// A lease that ends in no test, however slow the machine is: no request of a load may fail.
const LASTING: [(&str, &str); 1] = [("dek_lease_ms", "3600000")];

/// A lease that is renewed, or refused, during the test. Nothing that must be served runs under it.
const SHORT: [(&str, &str); 1] = [("dek_lease_ms", "2000")];

fn key(keyspace: &str, index: usize) -> KeyPath {
    format!("{keyspace}/key-{index}").parse().unwrap()
}

fn keyspace(name: &str) -> KeyspaceName {
    name.parse().unwrap()
}

fn sign(client: &Client, key: &KeyPath) -> Result<Answer<Vec<u8>>, Error> {
    client.sign(key, Scheme::Default, Input::Message(b"life"))
}

fn info(client: &Client, name: &str) -> KeyspaceInfo {
    let all = client.keyspace_list().unwrap();
    all.into_iter().find(|info| info.name == name).unwrap()
}

fn create(client: &Client, name: &str, kms: &str) {
    let settings = [("kms", kms)];
    client.keyspace_create(&keyspace(name), &settings).unwrap();
}

/// Waits for two renewals of the lease at `kms` while the key is requested, and then makes it long. The answers in the
/// meantime do not matter: on a slow enough machine the lease ends.
fn renew(server: &Server, client: &Client, kms: &str) {
    let unwraps = || {
        let labels = format!("kms=\"{kms}\",keyspace=\"life\",operation=\"unwrap\"");
        let series = format!("keyway_kms_calls_total{{{labels},outcome=\"ok\"}}");
        server.metric(&series).unwrap_or(0.0)
    };
    let before = unwraps();
    client.keyspace_set(&keyspace("life"), &SHORT).unwrap();
    wait_until("renewals at the new KMS", WITHIN, || {
        let _ = sign(client, &key("life", 0));
        unwraps() >= before + 2.0
    });
    client.keyspace_set(&keyspace("life"), &LASTING).unwrap();
    wait_until("the key after the renewals", WITHIN, || {
        sign(client, &key("life", 0)).is_ok()
    });
}

/// Signs with all keys in turn until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Load {
    fn start(server: &Server, name: &str) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let (stop_seen, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let client = server.client();
        let keys: Vec<KeyPath> = (0..KEYS).map(|index| key(name, index)).collect();
        // Requests before the first lease get NEEDS_UNLOCK.
        wait_until("the lease", WITHIN, || sign(&client, &keys[0]).is_ok());
        let thread = std::thread::spawn(move || {
            for key in keys.iter().cycle() {
                if stop_seen.load(Ordering::Relaxed) {
                    return;
                }
                let signed = sign(&client, key);
                assert!(signed.is_ok(), "a request failed under load: {signed:?}");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Load { stop, done, thread }
    }

    /// Waits for some more requests, then stops. Asserts that none has failed.
    fn end(self) {
        let so_far = self.done.load(Ordering::Relaxed);
        wait_until("the load", WITHIN, || {
            self.thread.is_finished() || self.done.load(Ordering::Relaxed) > so_far + KEYS as u64
        });
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no request failed under load");
    }
}

fn live(stand: &mut dyn Stand) {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let config = dir.path().join("keywayd.toml");
    // Another KMS to move to; it never refuses.
    let spare = dir.path().join("spare-kek.json");
    let text = format!(
        "default_kms = \"spare\"\n{}\n[kms.spare]\nprovider = \"local\"\nfile = {spare:?}\n",
        stand.table("main"),
    );
    std::fs::write(&config, text).unwrap();
    let setup = Setup::new(&data)
        .shards(2)
        .flag("--config")
        .flag(config.to_str().unwrap());

    let server = stand.start(&setup);
    let client = server.client();
    stand.open(&client);
    create(&client, "life", "main");
    create(&client, "other", "spare");
    for name in ["life", "other"] {
        for index in 0..KEYS {
            let options = KeyOptions::default();
            let made = client.key_generate(&key(name, index), Algorithm::Ed25519, options);
            made.unwrap();
        }
    }
    assert_eq!(info(&client, "life").kms.as_deref(), Some("main"));
    let first = past_the_start(|| sign(&client, &key("life", 0)))
        .unwrap()
        .value;

    // A restart loses every secret, and the KMS returns them.
    drop((client, server));
    let server = stand.start(&setup);
    let client = server.client();
    stand.open(&client);
    let mut again = None;
    wait_until("the first use after a restart", WITHIN, || {
        again = sign(&client, &key("life", 0)).ok();
        again.is_some()
    });
    assert_eq!(
        again.unwrap().value,
        first,
        "the same key makes the same Ed25519 signature"
    );

    // The DEK is rotated under load.
    let load = Load::start(&server, "life");
    assert_eq!(client.keyspace_rotate(&keyspace("life")).unwrap().value, 2);
    wait_until("sealing under the new DEK", WITHIN, || {
        let info = info(&client, "life");
        assert_eq!(info.generation, Some(2));
        info.reseal.is_none()
    });
    load.end();

    // The DEKs move to another KMS and back under load.
    let load = Load::start(&server, "life");
    for kms in ["spare", "main"] {
        let moved = client.keyspace_rewrap(&keyspace("life"), &kms.parse().unwrap());
        moved.unwrap();
        assert_eq!(info(&client, "life").kms.as_deref(), Some(kms));
    }
    load.end();
    // The first call to a new KMS is a renewal.
    for kms in ["spare", "main"] {
        let moved = client.keyspace_rewrap(&keyspace("life"), &kms.parse().unwrap());
        moved.unwrap();
        renew(&server, &client, kms);
    }
    assert_eq!(sign(&client, &key("life", 0)).unwrap().value, first);

    // Its KMS refuses: within a lease none of its keys is served, and other keyspaces are not affected.
    let load = Load::start(&server, "other");
    client.keyspace_set(&keyspace("life"), &SHORT).unwrap();
    stand.deny(&client);
    wait_until("the refusal", WITHIN, || {
        let refused = sign(&client, &key("life", 0)).err();
        refused.and_then(|error| error.status()) == Some(Status::NeedsUnlock)
    });
    wait_until("the wiping", WITHIN, || {
        server.metric("keyway_resident_keys{keyspace=\"life\"}") == Some(0.0)
    });
    load.end();

    // It recovers as soon as the KMS does.
    stand.allow(&client);
    client.keyspace_set(&keyspace("life"), &LASTING).unwrap();
    wait_until("the unlock", WITHIN, || {
        let ticket = client
            .unlock(&keyspace("life"), stand.secret())
            .unwrap()
            .value;
        wait_for_unlock(&client, ticket) == UnlockState::Done
    });
    wait_until("the key", WITHIN, || {
        sign(&client, &key("life", 0)).is_ok_and(|signed| signed.value == first)
    });
}

fn wait_for_unlock(client: &Client, ticket: u64) -> UnlockState {
    let mut state = UnlockState::Pending;
    wait_until("an unlock", WITHIN, || {
        let status = client.unlock_status(&keyspace("life"), ticket).unwrap();
        state = status.value.state;
        state != UnlockState::Pending
    });
    state
}

#[test]
fn at_a_local_kek() {
    live(&mut stands::LocalStand::new());
}

#[cfg(feature = "aws")]
#[test]
fn at_aws_kms() {
    if let Some(mut stand) = stands::AwsStand::start_or_skip() {
        live(&mut stand);
    }
}

#[test]
fn at_openbao() {
    if let Some(mut stand) = stands::BaoStand::start_or_skip() {
        live(&mut stand);
    }
}

#[test]
fn at_a_token() {
    if let Some(mut stand) = stands::TokenStand::start_or_skip() {
        live(&mut stand);
    }
}
