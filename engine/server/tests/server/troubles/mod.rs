//! Faults of a KMS and their observable effects: each fault at the real component, on a live server. The observations are
//! the matrix in docs/KMS.md, and must equal the committed one.
//!
//! `KEYWAY_WRITE_MATRIX=1 cargo test -p keyway-server --test server troubles -- --test-threads 1` rewrites it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod aws;
mod matrix;
mod token;
mod vault;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, KeyOptions, KeyPath, KeyspaceName, Status, UnlockState, UnlockWith,
};

use crate::command_line::operator::Operator;
use crate::common::{Ends, Server, Setup, wait_until};
use matrix::Row;

/// Time limit on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// After this time, metrics show what has happened.
const METRICS_AGE_MAX: Duration = Duration::from_secs(3);

/// Short, so that it ends soon; half of it suffices for a renewal.
const LEASE_MS: &str = "8000";

fn shop() -> KeyspaceName {
    "shop".parse().unwrap()
}

fn key() -> KeyPath {
    "shop/key".parse().unwrap()
}

fn mac(client: &Client) -> Result<(), Option<Status>> {
    let made = client.mac(&key(), b"message");
    made.map(drop).map_err(|error| error.status())
}

/// A server with the KMS `main`, and a keyspace that uses it.
struct Shop {
    server: Server,
    /// The part of the matrix.
    matrix: &'static str,
    rows: Vec<Row>,
}

/// How a fault ends.
enum Recovery {
    /// Without an action at the server.
    Automatic,
    /// By this command at the server, once the KMS has recovered.
    Unlocked,
}

impl Shop {
    /// `table`: that of the KMS, without its first line and its provider.
    fn open(matrix: &'static str, dir: &Path, table: &str, env: &[(&str, &Path)]) -> Shop {
        Shop::open_within(&[], None, matrix, dir, table, env)
    }

    /// As [`Shop::open`], run by the command `within`, and with a KMS that an operator unlocks with `pin`.
    fn open_within(
        within: &[&str],
        pin: Option<&[u8]>,
        matrix: &'static str,
        dir: &Path,
        table: &str,
        env: &[(&str, &Path)],
    ) -> Shop {
        let provider = matrix.split(' ').next().unwrap_or(matrix);
        let config = format!(
            "default_kms = \"spare\"\n[kms.spare]\nprovider = \"local\"\n\
             [kms.main]\nprovider = \"{provider}\"\n{table}\n\
             [kms.main.budget]\ncall_ms_max = 1500\n"
        );
        let config_file = dir.join("keywayd.toml");
        std::fs::write(&config_file, config).unwrap();
        let setup = Setup::new(&dir.join("data")).shards(1);
        let setup = setup.flag("--config").flag(config_file.to_str().unwrap());
        let mut command = setup.command();
        if let Some((program, words)) = within.split_first() {
            let inner = command;
            command = std::process::Command::new(program);
            command.args(words).arg(inner.get_program());
            command.args(inner.get_args());
            command.stdin(std::process::Stdio::null());
        }
        command.envs(env.iter().copied());
        let server = setup.start_as(command);
        let client = server.client();
        let settings = [("kms", "main"), ("dek_lease_ms", LEASE_MS)];
        wait_until("the keyspace", WITHIN, || {
            if let Some(pin) = pin {
                let main = "main".parse().unwrap();
                client.kms_unlock(&main, UnlockWith::Pin(pin)).unwrap();
            }
            client.keyspace_create(&shop(), &settings).is_ok()
        });
        let made = client.key_generate(&key(), Algorithm::HmacSha256, KeyOptions::default());
        made.unwrap();
        Shop {
            server,
            matrix,
            rows: Vec::new(),
        }
    }

    /// Causes a fault with `begin`, records all observations, ends it with `end`, and records how callers are served
    /// again.
    fn suffer(&mut self, trouble: &'static str, begin: impl FnOnce(), end: impl FnOnce()) {
        let server = &self.server;
        let client = server.client();
        wait_until("service before the trouble", WITHIN, || {
            mac(&client).is_ok()
        });
        let log_before = server.log().len();
        let since = |server: &Server| server.log()[log_before..].to_owned();
        let mended = under_load(server, || {
            let mut failing_since = None;
            begin();
            wait_until(&format!("{trouble}: the end of service"), WITHIN, || {
                // A keyspace whose KMS fails is not idle. The metrics are those of the last second.
                if since(server).contains("unwrap failed") {
                    failing_since.get_or_insert_with(Instant::now);
                }
                let is_seen = failing_since.is_some_and(|at| at.elapsed() > METRICS_AGE_MAX);
                let state = state(server).0;
                assert!(!is_seen || state != Some("idle"), "{trouble}");
                mac(&client) == Err(Some(Status::NeedsUnlock))
            });
            let line = wait_for_line(server, log_before);
            let (state, alerts) = wait_for_state(server);
            let finding = wait_for_finding(server);
            wait_for_the_cause(server, &line, trouble, self.rows.len());
            let log = since(server);
            // The cause of the end of service: the lease's own end, or a denial before it.
            let was_denied = log.contains("the KMS denied the keyspace: purged");
            let callers = match was_denied {
                true => "wiped at the second refusal, then NEEDS_UNLOCK",
                false => "served to the end of the lease, then NEEDS_UNLOCK",
            };
            if !was_denied {
                assert!(log.contains("DEK lease ended"), "{trouble}: {log}");
            }
            end();
            let mended = match was_denied {
                false => Recovery::Automatic,
                true => {
                    unlock(&client, trouble);
                    Recovery::Unlocked
                }
            };
            wait_until(&format!("{trouble}: service again"), WITHIN, || {
                mac(&client).is_ok()
            });
            (callers, line, state, alerts, finding, mended)
        });
        let (callers, line, state, alerts, finding, mended) = mended;
        self.rows.push(Row {
            trouble,
            callers: callers.to_owned(),
            state,
            alerts,
            line,
            finding,
            recovery: match mended {
                Recovery::Automatic => "automatically".to_owned(),
                Recovery::Unlocked => "`keyway unlock`".to_owned(),
            },
        });
    }

    /// Compares with the committed matrix, or writes it.
    fn close(self) {
        matrix::check(self.matrix, &self.rows);
    }
}

/// Uses the key continuously, as clients would: an unused keyspace is not renewed.
fn under_load<T>(server: &Server, then: impl FnOnce() -> T) -> T {
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = server.client();
        let ends_seen = &ends;
        scope.spawn(move || {
            while !ends_seen.load(Ordering::Relaxed) {
                let _ = mac(&client);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let _ends = Ends(&ends);
        then()
    })
}

/// Returns the log's first line about a failed unwrap: its class and cause.
fn wait_for_line(server: &Server, from: usize) -> String {
    let mut found = String::new();
    wait_until("the log line", WITHIN, || {
        let log = server.log();
        let line = log[from..]
            .lines()
            .find(|line| line.contains("unwrap failed"));
        let Some(line) = line else { return false };
        let part = |after: &str, until: &[char]| {
            let rest = line.split_once(after).map_or("", |(_, rest)| rest);
            rest.split(until).next().unwrap_or_default().to_owned()
        };
        let cause = part("cause=", &[' ']).replace('"', "");
        let class = part("error=", &[':']);
        found = format!("`cause={cause} error={class}: …`");
        true
    });
    found
}

/// Returns the keyspace's state, and all metrics.
fn state(server: &Server) -> (Option<&'static str>, String) {
    let (_, metrics) = server.http("/metrics");
    let holds = |series: &str| metrics.lines().any(|line| line == format!("{series} 1"));
    let states = ["acquiring", "denied", "locked", "idle", "live", "renewing"];
    let state = states.into_iter().find(|state| {
        holds(&format!(
            "keyway_keyspace_state{{keyspace=\"shop\",state=\"{state}\"}}"
        ))
    });
    (state, metrics)
}

/// Returns the keyspace's state in STATUS once the service has ended, and the committed alerts that will fire for it.
fn wait_for_state(server: &Server) -> (String, String) {
    let mut seen = (String::new(), String::new());
    wait_until("the state", WITHIN, || {
        let (state, metrics) = state(server);
        assert_ne!(state, Some("idle"), "after the end of its lease");
        let alerts = matrix::alerts(&metrics);
        let is_over = matches!(state, Some("acquiring" | "denied" | "locked"));
        if let Some(state) = state.filter(|_| is_over && !alerts.is_empty()) {
            seen = (
                state.to_owned(),
                alerts.into_iter().collect::<Vec<_>>().join(", "),
            );
            return true;
        }
        false
    });
    seen
}

/// Returns what doctor reports about the KMS, or about a keyspace that it denies.
fn wait_for_finding(server: &Server) -> String {
    let operator = Operator::new();
    let mut found = BTreeSet::new();
    wait_until("doctor's finding", WITHIN, || {
        let said = operator.run(server, "keyway doctor --duration 2s --json");
        let document: serde_json::Value = serde_json::from_str(&said.out).unwrap_or_default();
        let findings = document["findings"].as_array();
        let ids = findings
            .into_iter()
            .flatten()
            .filter(|it| it["severity"] != "note")
            .filter_map(|it| it["id"].as_str());
        found = ids
            .filter(|id| matches!(*id, "kms-breaker-open" | "keyspace-denied" | "kms-locked"))
            .map(str::to_owned)
            .collect();
        !found.is_empty()
    });
    // The most severe one: a denied keyspace is more specific than its KMS.
    found
        .iter()
        .find(|id| *id == "keyspace-denied")
        .or(found.first())
        .cloned()
        .unwrap()
}

/// Returns the clauses of a trouble that are the same whatever was asked: without addresses, numbers of requests, and times
/// until the next try.
fn provider_words(what: &str) -> impl Iterator<Item = &str> {
    let parts = what.split(": ");
    let clauses = parts.flat_map(|part| part.split([';', ',', '(', ')', '"']));
    let words = clauses.map(|clause| match clause.split_once("://") {
        Some((_, address)) => address.split_once(' ').map_or("", |(_, rest)| rest),
        None => clause.trim(),
    });
    words.filter(|words| {
        let varies = ["request ", "next login", "not called"];
        words.len() >= 12 && !varies.iter().any(|varying| words.contains(varying))
    })
}

/// Waits until each command that shows the KMS while it fails names the cause: the word for it in the log and in STATUS, or
/// the provider's own words.
///
/// The fault: doctor said "the KMS was called and has not answered" of a sealed KMS, and `keyway status` nothing.
fn wait_for_the_cause(server: &Server, line: &str, trouble: &str, number: usize) {
    let operator = Operator::new();
    let listed = operator.run(server, "keyway kms list --json").out;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut kmses = listed["kms"].as_array().unwrap().iter();
    let of_main = kmses.find(|kms| kms["name"] == "main").unwrap();
    let what = of_main["trouble"]["what"].as_str().unwrap();
    let mut words = vec![
        line.split(['=', ' ']).nth(1).unwrap(),
        of_main["trouble"]["cause"].as_str().unwrap(),
    ];
    words.extend(provider_words(what));
    // Some faults do not hinder the making of a data key: then the name is taken.
    let create = format!("keyspace create other-{number} --kms main");
    for command in ["kms list", "doctor --duration 2s --json", "status", &create] {
        // A client retries what is unavailable until its own deadline.
        let script = format!("command keyway --timeout 5s {command} || true");
        let mut text = String::new();
        let began = Instant::now();
        while !text.contains(": created, id") && !words.iter().any(|words| text.contains(words)) {
            let goes_on = began.elapsed() < WITHIN;
            assert!(
                goes_on,
                "{trouble}: {words:?} are not in what `{command}` says: {text}"
            );
            let ended = operator.shell(server, &script);
            text = ended.out + &ended.err;
        }
    }
}

fn unlock(client: &Client, trouble: &str) {
    wait_until(&format!("{trouble}: the unlock"), WITHIN, || {
        let ticket = client.unlock(&shop(), UnlockWith::Nothing).unwrap().value;
        let mut state = UnlockState::Pending;
        wait_until("the end of the unlock", WITHIN, || {
            state = client.unlock_status(&shop(), ticket).unwrap().value.state;
            state != UnlockState::Pending
        });
        state == UnlockState::Done
    });
}
