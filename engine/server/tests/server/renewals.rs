//! Logins at a real OpenBao that end within a lease: the server renews them at half of their time, in use or not, so no
//! lease ends early and no key is wiped. Before, a token was renewed by a call that found it due, and calls come with
//! half of a lease between them.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::time::{Duration, Instant};

use keyway_client::Options;
use keyway_client::blocking::Client;
use keyway_testkit::openbao::{Mode, OpenBao};
use serde_json::json;

use crate::common::{Server, Setup};
use crate::logins::{POLICY, create, is_served, key, keyspace, stand, with_token};

/// A token's time in successive trials, in s. A machine that pauses for longer than half of it loses any token.
const TTLS_S: [u64; 3] = [5, 30, 120];
/// How many of these times the server is observed: longer than a lease.
const TTLS: u32 = 5;
/// The lease of a keyspace in use, in those times.
const LEASE_TTLS: u64 = 4;
/// A token is renewed when half of its time is left. If the test pauses for this part of it, so may the server.
const PAUSE_PART: u32 = 8;

/// Whether the keyspace is used.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Use {
    Idle,
    InUse,
}

/// Returns the sum of the KMS's calls of this kind that succeeded.
fn calls(server: &Server, operation: &str) -> f64 {
    let (_, metrics) = server.http("/metrics");
    let operation = format!("operation=\"{operation}\"");
    let counts = metrics.lines().filter(|line| {
        line.starts_with("keyway_kms_calls_total{")
            && line.contains(&operation)
            && line.contains("outcome=\"ok\"")
    });
    let values = counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

/// The longest pause of the test itself, which asks the server all the time.
struct Pauses {
    last: Instant,
    longest: Duration,
}

impl Pauses {
    fn note(&mut self) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
    }
}

/// Observes a server over several lifetimes of its login. Returns what was wrong, and whether the machine paused.
fn observe(server: &Server, ttl: Duration, usage: Use) -> (Vec<String>, bool) {
    // It waits as long as a caller's client would.
    let client = Client::connect_with(Options::new(server.address().parse().unwrap())).unwrap();
    let lease = match usage {
        // It lasts an hour, so only the upkeep makes calls.
        Use::Idle => String::new(),
        Use::InUse => (LEASE_TTLS * ttl.as_secs() * 1000).to_string(),
    };
    let settings = match usage {
        Use::Idle => vec![],
        Use::InUse => vec![("dek_lease_ms", lease.as_str())],
    };
    create(&client, 1, &settings);
    let mut wrong = Vec::new();
    let began = Instant::now();
    let mut pauses = Pauses {
        last: began,
        longest: Duration::ZERO,
    };
    while began.elapsed() < ttl * TTLS && wrong.is_empty() {
        if usage == Use::InUse
            && let Err(error) = client.mac(&key(0), b"message")
        {
            wrong.push(format!("a caller saw {error}"));
        }
        // A refused call is repeated until its deadline, which is no pause of the machine.
        pauses.last = Instant::now();
        let _ = server.http("/metrics");
        std::thread::sleep(Duration::from_millis(20));
        pauses.note();
    }
    // One more call needs the login, and finds it.
    let made = client.keyspace_create(&keyspace(1), &[]);
    wrong.extend(made.err().map(|error| format!("a new keyspace: {error}")));
    if !is_served(&client, 0) {
        wrong.push("the key is not served".to_owned());
    }
    let log = server.log();
    for line in ["DEK lease ended", "purged", "could not be renewed"] {
        if log.contains(line) {
            wrong.push(format!("{line}: {log}"));
        }
    }
    let (logins, renewals) = (calls(server, "login"), calls(server, "renew"));
    if logins != 1.0 || renewals < 1.0 {
        wrong.push(format!("{logins} logins and {renewals} renewals"));
    }
    (wrong, pauses.longest > ttl / PAUSE_PART)
}

/// What keeps a KMS running.
type Kept = Box<dyn std::any::Any + Send>;

/// Repeats the trial, for an idle server and one in use, with longer times until the machine has not paused in one.
/// `start` starts a server over a directory whose login ends after a time in s.
fn in_time(start: impl Fn(&Path, u64) -> Option<(Server, Kept)> + Sync) {
    let try_it = |usage: Use| {
        for ttl_s in TTLS_S {
            let dir = tempfile::tempdir().unwrap();
            let Some((server, _kms)) = start(dir.path(), ttl_s) else {
                return;
            };
            let (wrong, has_paused) = observe(&server, Duration::from_secs(ttl_s), usage);
            if wrong.is_empty() {
                return;
            }
            assert!(has_paused, "{ttl_s} s, {usage:?}: {wrong:?}");
            eprintln!("{ttl_s} s, {usage:?}: the machine paused: {wrong:?}");
        }
        panic!("the machine pauses for many seconds");
    };
    std::thread::scope(|scope| {
        let idle = scope.spawn(|| try_it(Use::Idle));
        try_it(Use::InUse);
        idle.join().unwrap();
    });
}

fn with_a_token(dir: &Path, period_s: u64) -> Option<(Server, Kept)> {
    let token = with_token(json!({ "period": format!("{period_s}s") }));
    let stand = stand(dir, token, "")?;
    let server = stand.setup.start();
    Some((server, Box::new(stand)))
}

fn with_a_certificate(dir: &Path, ttl_s: u64) -> Option<(Server, Kept)> {
    let bao = OpenBao::start_or_skip(Mode::Tls)?;
    bao.enable_transit("transit");
    bao.create_key("keyway", true);
    bao.write_key_policy(POLICY, "transit", "keyway");
    bao.enable_auth("cert");
    let ca = std::fs::read_to_string(bao.ca_file()).unwrap();
    let role = json!({
        "certificate": ca, "token_policies": [POLICY], "token_ttl": format!("{ttl_s}s"),
    });
    bao.write("auth/cert/certs/keyway", &role);
    let config = format!(
        "[kms.bao]\nprovider = \"vault\"\naddress = {:?}\nkey = \"keyway\"\nca_file = {:?}\n\
         auth = {{ method = \"cert\", cert_file = {:?}, key_file = {:?} }}\n",
        bao.url(),
        bao.ca_file(),
        bao.client_cert_file(),
        bao.client_key_file(),
    );
    let config_file = dir.join("keywayd.toml");
    std::fs::write(&config_file, config).unwrap();
    let setup = Setup::new(&dir.join("data")).shards(1);
    let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
    Some((setup.start(), Box::new(bao)))
}

#[test]
fn a_token_that_is_shorter_than_a_lease_is_kept() {
    in_time(with_a_token);
}

#[test]
fn a_login_with_a_certificate_that_is_shorter_than_a_lease_is_kept() {
    in_time(with_a_certificate);
}
