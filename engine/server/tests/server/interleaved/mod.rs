//! Random operations of several clients, interleaved with rotations of DEKs, locks, unlocks, withdrawn grants, a KMS that
//! fails in every way, and restarts (SIGTERM and kill -9) with other numbers of shards. What was acknowledged applies
//! throughout, and in the end every acknowledged key that was not revoked can be opened, in its version, with its public
//! key.
//!
//! ```text
//!  workers ──TCP──▶ keywayd ──▶ the local KEK        keyspace `here`
//!  operator ─Unix─▶    │ └────▶ fault proxy ──▶ OpenBao   keyspace `there`
//!     └── faults, restarts ──────────┘
//! ```
//!
//! `KEYWAY_INTERLEAVED_ROUNDS` sets the rounds, each with its own server (`make interleaved` runs 100), and
//! `KEYWAY_INTERLEAVED_SEED` repeats a run's choices, which are printed; the order in which threads meet is not
//! repeatable.
//!
//! It was written against a server that lost keys: the KMS became unreachable when a rotation had generated and verified
//! the new DEK, the shards continued to seal under the older one, and that was retired, since an earlier count had found
//! no blob under it. Such a key is permanently RETRY after the next restart, and the check here waits for it until its
//! time limit.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod ledger;
mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, CallEffect, Error, KeyOptions, KeyspaceName, Status, UnlockState, UnlockWith,
};
use keyway_testkit::fault_proxy::{Fault, FaultProxy};
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use crate::common::{Ends, Random, Server, Setup, WITHIN, patient_client, wait_until};
use ledger::{Key, check_all};
use worker::Worker;

const ROUNDS_DEFAULT: u32 = 6;
const ACTIONS: u32 = 14;
const WORKERS: usize = 3;
const SHARDS: [u16; 3] = [1, 2, 4];
const PASSPHRASE: &[u8] = b"correct horse battery";

/// Time limit of a call to a failing KMS, so that the run makes progress.
const DEADLINE: Duration = Duration::from_secs(2);

/// The keyspaces by the KMS that wraps their DEKs: its name, and the keyspace's.
const KEYSPACES: [(&str, &str); 2] = [("local", "here"), ("bao", "there")];

/// What the operator's commands must stop: each counter is odd while a stop has been acknowledged and no command that
/// ends it was sent.
#[derive(Default)]
struct Gate {
    locked: AtomicU64,
    withdrawn: AtomicU64,
    /// From before the grant is withdrawn until after it has been granted again.
    may_be_withdrawn: AtomicBool,
}

impl Gate {
    fn read(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        (read(&self.locked), read(&self.withdrawn))
    }
}

/// Makes a counter odd, or even.
fn turn(counter: &AtomicU64, stopped: bool) {
    if is_odd(counter.load(Ordering::SeqCst)) != stopped {
        counter.fetch_add(1, Ordering::SeqCst);
    }
}

fn is_odd(count: u64) -> bool {
    count % 2 == 1
}

/// Counts of acknowledged operations.
#[derive(Debug, Default)]
struct Tally {
    uses: AtomicUsize,
    writes: AtomicUsize,
    revocations: AtomicUsize,
    locks: AtomicUsize,
    rotations: AtomicUsize,
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The state that outlives a server.
struct World {
    seed: u64,
    setup: Setup,
    proxy: FaultProxy,
    gates: [Gate; 2],
    /// The keys of each worker, used by it alone, and the operator's.
    keys: [Mutex<Vec<Key>>; WORKERS + 1],
    tally: Tally,
    /// The server is about to end: connections may break.
    ends: AtomicBool,
}

#[test]
fn what_was_acknowledged_outlives_everything() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let rounds = number("KEYWAY_INTERLEAVED_ROUNDS").unwrap_or(u64::from(ROUNDS_DEFAULT));
    let now = || std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let seed = number("KEYWAY_INTERLEAVED_SEED").unwrap_or_else(|| now().into());
    println!("KEYWAY_INTERLEAVED_SEED={seed} KEYWAY_INTERLEAVED_ROUNDS={rounds}");
    let Some(bao) = OpenBao::start_or_skip(Mode::InMemory) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(&bao, dir.path(), seed);
    let mut random = Random(seed);
    for round in 0..=rounds {
        let shards = SHARDS[random.below(3) as usize];
        let server = world.setup.clone().shards(shards).start();
        world.ends.store(false, Ordering::SeqCst);
        if round == 0 {
            world.create(&server);
        }
        let checked = world.heal_and_check(&server);
        println!(
            "round {round}: {shards} shards, {checked} keys, {:?}",
            world.tally
        );
        if round < rounds {
            world.round(server, &mut random, round);
        }
    }
    let tally = &world.tally;
    for counter in [&tally.uses, &tally.writes, &tally.locks, &tally.rotations] {
        assert!(counter.load(Ordering::Relaxed) > 0, "{tally:?}");
    }
}

impl World {
    fn new(bao: &OpenBao, dir: &std::path::Path, seed: u64) -> World {
        bao.enable_transit("transit");
        bao.create_key("keyway", true);
        bao.write_key_policy("keyway", "transit", "keyway");
        let upstream = bao.url();
        let upstream = upstream.trim_start_matches("http://").parse().unwrap();
        let proxy = FaultProxy::start(upstream);
        let token = bao.token_for(&["keyway"], &json!({ "period": "24h" }));
        let file = |name: &str, text: &[u8]| {
            use std::os::unix::fs::PermissionsExt;
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let token_file = file("token", token.as_bytes());
        let passphrase_file = file("passphrase", PASSPHRASE);
        // Short durations, so that a failure ends soon. They limit an attempt, which is repeated.
        let config = format!(
            "default_kms = \"local\"\n[kms.local]\nprovider = \"local\"\n\
             [kms.bao]\nprovider = \"vault\"\naddress = \"http://{}\"\nkey = \"keyway\"\n\
             auth = {{ method = \"token\", token_file = {token_file:?} }}\n\
             [kms.bao.budget]\nrate_per_s = 1000\nburst = 1000\ncall_ms_max = 2000\ntotal_ms_max = 5000\n\
             unlock_ms_max = 5000\nattempts_max = 2\nthrottle_ms_max = 200\nbreaker_open_ms = 50\n\
             breaker_open_ms_max = 200\n",
            proxy.address(),
        );
        let config_file = file("keywayd.toml", config.as_bytes());
        let setup = Setup::new(&dir.join("data")).production();
        let setup = setup.flag("--config").flag(&config_file);
        World {
            seed,
            setup: setup.flag("--passphrase-file").flag(&passphrase_file),
            proxy,
            gates: Default::default(),
            keys: Default::default(),
            tally: Tally::default(),
            ends: AtomicBool::new(false),
        }
    }

    fn create(&self, server: &Server) {
        for (kms, keyspace) in KEYSPACES {
            let settings = [("kms", kms), ("allow:anonymous", "all")];
            server
                .unix_client()
                .keyspace_create(&keyspace.parse().unwrap(), &settings)
                .unwrap();
        }
    }

    /// Runs one server, from after the check to its end.
    fn round(&self, server: Server, random: &mut Random, round: u64) {
        let address = server.address();
        let server = Mutex::new(Some(server));
        std::thread::scope(|scope| {
            let ends = Ends(&self.ends);
            let workers: Vec<_> = (0..WORKERS)
                .map(|number| {
                    let client = patient_client(&address);
                    let seed = self.seed ^ (round << 32) ^ ((number as u64 + 1) << 56);
                    scope.spawn(move || Worker::new(self, number, client, seed).run())
                })
                .collect();
            let mut operator = Operator {
                world: self,
                client: server.lock().unwrap().as_ref().unwrap().unix_client(),
                random,
            };
            for _ in 0..ACTIONS {
                if workers.iter().any(|worker| worker.is_finished()) {
                    break;
                }
                operator.act();
                // Work continues for some time, or not while all is stopped: do not wait for any of it.
                let pause = operator.random.below(250);
                std::thread::sleep(Duration::from_millis(pause));
            }
            let is_killed = operator.random.below(2) == 0;
            drop(ends);
            let server = server.lock().unwrap().take().unwrap();
            if is_killed {
                server.kill()
            } else {
                server.stop()
            }
        });
    }

    /// Ends all failures. Asserts that what was locked still is, and opens, and that every key is as acknowledged.
    /// Returns the number of keys.
    fn heal_and_check(&self, server: &Server) -> usize {
        self.proxy.set(Fault::Pass);
        let client = server.unix_client();
        for (gate, (kms, keyspace)) in self.gates.iter().zip(KEYSPACES) {
            let name = keyspace.parse().unwrap();
            if is_odd(gate.locked.load(Ordering::SeqCst)) {
                self.assert_locked(&client, keyspace);
            }
            turn(&gate.locked, false);
            wait_until(&format!("the unlock of {keyspace}"), WITHIN, || {
                unlock(&client, kms, &name) == Some(UnlockState::Done)
            });
            turn(&gate.withdrawn, false);
            let settings = [("allow:anonymous", "all"), ("dek_lease_ms", "3600000")];
            client.keyspace_set(&name, &settings).unwrap();
            gate.may_be_withdrawn.store(false, Ordering::SeqCst);
        }
        let keys = check_all(self, server, &client);
        // Every blob is under the current DEK, and all of them can still be opened.
        wait_until("the end of all rotations", WITHIN, || {
            let keyspaces = client.keyspace_list().unwrap();
            keyspaces.iter().all(|keyspace| keyspace.reseal.is_none())
        });
        check_all(self, server, &client);
        keys
    }

    /// Asserts that an acknowledged lock is in force after the restart: none of the keyspace's keys can be used.
    fn assert_locked(&self, client: &Client, keyspace: &str) {
        for keys in &self.keys {
            for key in keys.lock().unwrap().iter() {
                if key.path.keyspace.as_str() == keyspace {
                    let used = key.sign(client);
                    assert!(used.is_err(), "{}: its lock is lost", key.path);
                }
            }
        }
    }
}

/// Starts an unlock and waits for its end. Returns `None` if it was refused.
fn unlock(client: &Client, kms: &str, keyspace: &KeyspaceName) -> Option<UnlockState> {
    let with = match kms {
        "local" => UnlockWith::Passphrase(PASSPHRASE),
        _ => UnlockWith::Nothing,
    };
    let ticket = client.unlock(keyspace, with).ok()?.value;
    let mut state = UnlockState::Pending;
    wait_until("an unlock's end", WITHIN, || {
        state = client.unlock_status(keyspace, ticket).unwrap().value.state;
        state != UnlockState::Pending
    });
    Some(state)
}

/// The operator, who stops, starts and breaks things.
struct Operator<'a> {
    world: &'a World,
    client: Client,
    random: &'a mut Random,
}

impl Operator<'_> {
    fn act(&mut self) {
        let at = self.random.below(2) as usize;
        let (kms, keyspace) = KEYSPACES[at];
        let name: KeyspaceName = keyspace.parse().unwrap();
        let gate = &self.world.gates[at];
        let action = self.random.below(100);
        println!("  {action} {keyspace}");
        match action {
            0..20 => self.rotate(&name),
            20..35 => {
                self.fail_amid_rotation();
                self.rotate(&"there".parse().unwrap());
            }
            35..40 => self.rotate_newborn(),
            40..47 => {
                self.client.lock(&name).expect("a lock depends on nothing");
                turn(&gate.locked, true);
                count(&self.world.tally.locks);
            }
            47..65 => {
                turn(&gate.locked, false);
                // It fails while the KMS does.
                let _ = unlock(&self.client, kms, &name);
            }
            65..75 => {
                let fault = self.fault();
                self.world.proxy.set(fault);
            }
            75..85 => self.world.proxy.set(Fault::Pass),
            85..90 => {
                let none = [("allow:anonymous", "none")];
                gate.may_be_withdrawn.store(true, Ordering::SeqCst);
                self.client
                    .keyspace_set(&name, &none)
                    .expect("so does this");
                turn(&gate.withdrawn, true);
            }
            90..95 => {
                turn(&gate.withdrawn, false);
                let all = [("allow:anonymous", "all")];
                self.client.keyspace_set(&name, &all).unwrap();
                gate.may_be_withdrawn.store(false, Ordering::SeqCst);
            }
            _ => {
                let leases = ["500", "3600000"];
                let lease = leases[self.random.below(2) as usize];
                let lease = [("dek_lease_ms", lease)];
                self.client.keyspace_set(&name, &lease).unwrap();
            }
        }
    }

    /// Makes the KMS fail in the middle of the next rotation, which generates a DEK, verifies it, and unwraps it for the
    /// shards.
    fn fail_amid_rotation(&mut self) {
        let requests = [1, 2, 2, 3][self.random.below(4) as usize];
        let fault = self.fault();
        self.world.proxy.set(Fault::Pass);
        self.world.proxy.set_after(requests, fault);
    }

    /// Rotates an empty keyspace while the KMS fails, and immediately creates keys: nothing has to be resealed, so only
    /// keys written in the meantime keep the older DEK in use.
    fn rotate_newborn(&mut self) {
        let mut keys = self.world.keys[WORKERS].lock().unwrap();
        let keyspace = format!("young-{}", self.random.next());
        let name: KeyspaceName = keyspace.parse().unwrap();
        self.world.proxy.set(Fault::Pass);
        let kms = [("kms", "bao")];
        // The KMS was unreachable a moment ago, so a backoff may still apply.
        if self.client.keyspace_create(&name, &kms).is_err() {
            return;
        }
        self.fail_amid_rotation();
        self.rotate(&name);
        let client = self.client.with_deadline(DEADLINE);
        for number in 0..8 {
            let mut key = Key::new(format!("{keyspace}/key-{number}").parse().unwrap());
            let options = KeyOptions::default();
            let made = client.key_generate(&key.path, Algorithm::Ed25519, options);
            match made {
                Ok(_) => key.version_min = 1,
                Err(error) if error.outcome() == CallEffect::NotDone => continue,
                Err(_) => {}
            }
            keys.push(key);
        }
    }

    fn fault(&mut self) -> Fault {
        let faults = [
            Fault::Down,
            Fault::Down,
            Fault::Hang,
            Fault::Delay(Duration::from_millis(300)),
            Fault::Throttle { retry_after_s: 1 },
            Fault::Deny,
            Fault::Error,
        ];
        faults[self.random.below(faults.len() as u64) as usize]
    }

    fn rotate(&self, name: &KeyspaceName) {
        let client = self.client.with_deadline(DEADLINE);
        match client.keyspace_rotate(name) {
            Ok(_) => count(&self.world.tally.rotations),
            Err(error) => {
                // Locked, already rotating, its KMS fails, or the disk is slow.
                let status = error.status();
                let is_slow_disk = error.to_string().contains("no answer for");
                assert!(status != Some(Status::Internal) || is_slow_disk, "{error}");
                let is_late = matches!(error, Error::Deadline { .. });
                assert!(status.is_some() || is_late, "{error}");
            }
        }
    }
}
