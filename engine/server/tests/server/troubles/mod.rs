//! Faults of a KMS and their observable effects: each fault at the real component, on a live server. The observations are
//! the matrix in docs/KMS.md, and must equal the committed one.
//!
//! `KEYWAY_WRITE_MATRIX=1 cargo test -p keyway-server --test server troubles` rewrites it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod aws;
mod callers;
mod figures;
mod matrix;
mod token;
mod vault;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, KeyOptions, KeyPath, KeyspaceName, Status, UnlockState, UnlockWith,
};

use crate::command_line::operator::Operator;
use crate::common::{Server, Setup, wait_until};
use callers::{Callers, ColdKeys};
use figures::{Figures, Scrape};
use matrix::Row;

/// Time limit on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// After this time, metrics show what has happened.
const METRICS_AGE_MAX: Duration = Duration::from_secs(3);

/// Short, so that it ends soon; half of it suffices for a renewal.
const LEASE_MS: &str = "8000";

const KEYSPACE: &str = "shop";

fn shop() -> KeyspaceName {
    KEYSPACE.parse().unwrap()
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
    cold: ColdKeys,
    rows: Vec<Row>,
}

/// What an operator does at the server once the KMS has recovered: the words of the matrix, and the action.
type Remedy<'a> = (&'static str, &'a dyn Fn(&Server));

impl Shop {
    /// `table`: that of the KMS, without its first line and its provider.
    fn open(provider: &str, dir: &Path, table: &str, env: &[(&str, &Path)]) -> Shop {
        Shop::open_within(&[], None, provider, dir, table, env)
    }

    /// As [`Shop::open`], run by the command `within`, and with a KMS that an operator unlocks with `pin`.
    fn open_within(
        within: &[&str],
        pin: Option<&[u8]>,
        provider: &str,
        dir: &Path,
        table: &str,
        env: &[(&str, &Path)],
    ) -> Shop {
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
        let cold = ColdKeys::default();
        cold.prepare(&server);
        Shop {
            server,
            cold,
            rows: Vec::new(),
        }
    }

    /// Causes a fault with `begin`, records all observations, ends it with `end`, and records how callers are served
    /// again.
    fn suffer(&mut self, trouble: &'static str, begin: impl FnOnce(), end: impl FnOnce()) {
        self.suffer_until(trouble, begin, end, None);
    }

    /// As [`Shop::suffer`], where an operator has to do something after `end`.
    fn suffer_until(
        &mut self,
        trouble: &'static str,
        begin: impl FnOnce(),
        end: impl FnOnce(),
        remedy: Option<Remedy<'_>>,
    ) {
        let server = &self.server;
        let client = server.client();
        wait_until("service before the trouble", WITHIN, || {
            mac(&client).is_ok()
        });
        let log_before = server.log().len();
        let since = |server: &Server| server.log()[log_before..].to_owned();
        let before = Scrape::of(server);
        let number = self.rows.len();
        let row = Callers::during(server, &self.cold, |callers| {
            let mut failing_since = None;
            begin();
            wait_until(&format!("{trouble}: the end of service"), WITHIN, || {
                // A keyspace whose KMS fails is not idle. The metrics are those of the last second.
                if since(server).contains("unwrap failed") {
                    failing_since.get_or_insert_with(Instant::now);
                }
                let is_seen = failing_since.is_some_and(|at| at.elapsed() > METRICS_AGE_MAX);
                let state = state(server);
                assert!(!is_seen || state != Some("idle"), "{trouble}");
                callers.latest() == Some(Status::NeedsUnlock)
            });
            let line = wait_for_line(server, log_before);
            let state = wait_for_state(server);
            let finding = wait_for_the_cause(server, &line, trouble, number);
            let during = Scrape::of(server);
            let log = since(server);
            // The cause of the end of service: the lease's own end, or a denial before it.
            let was_denied = log.contains("the KMS denied the keyspace: purged");
            if !was_denied {
                assert!(log.contains("DEK lease ended"), "{trouble}: {log}");
            }
            let without = callers.without_service_since().expect("service ended");
            wait_until("an answer to each caller", WITHIN, || {
                callers.are_answered_since(without)
            });
            let mended = Instant::now();
            end();
            if was_denied {
                unlock(&client, trouble);
            }
            if let Some((_, act)) = remedy {
                act(server);
            }
            wait_until(&format!("{trouble}: service again"), WITHIN, || {
                callers.latest() == Some(Status::Ok)
            });
            let served = Instant::now();
            wait_until("an answer to each caller", WITHIN, || {
                callers.are_answered_since(served)
            });
            Row {
                trouble,
                answers: callers.answers(mended),
                end: match was_denied {
                    true => "the second refusal",
                    false => "the lease's end",
                },
                state,
                figures: Figures { before, during },
                line,
                finding,
                recovery: match (remedy, was_denied) {
                    (Some((command, _)), _) => command,
                    (None, true) => "`keyway unlock`",
                    (None, false) => "automatically",
                },
            }
        });
        self.rows.push(row);
    }
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

/// Returns the keyspace's state in the metrics.
fn state(server: &Server) -> Option<&'static str> {
    let (_, metrics) = server.http("/metrics");
    let holds = |series: &str| metrics.lines().any(|line| line == format!("{series} 1"));
    let states = ["acquiring", "denied", "locked", "idle", "live", "renewing"];
    states.into_iter().find(|state| {
        holds(&format!(
            "keyway_keyspace_state{{keyspace=\"shop\",state=\"{state}\"}}"
        ))
    })
}

/// Returns the keyspace's state once the service has ended.
fn wait_for_state(server: &Server) -> String {
    let mut seen = String::new();
    wait_until("the state", WITHIN, || {
        let state = state(server);
        assert_ne!(state, Some("idle"), "after the end of its lease");
        let is_over = matches!(state, Some("acquiring" | "denied" | "locked"));
        if let Some(state) = state.filter(|_| is_over) {
            state.clone_into(&mut seen);
        }
        is_over
    });
    seen
}

/// Returns what doctor reports about the KMS, or about a keyspace that it denies, in its JSON document.
fn finding(said: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_str(said).unwrap_or_default();
    let findings = document["findings"].as_array();
    let ids = findings
        .into_iter()
        .flatten()
        .filter(|it| it["severity"] != "note")
        .filter_map(|it| it["id"].as_str());
    let found: BTreeSet<&str> = ids
        .filter(|id| matches!(*id, "kms-breaker-open" | "keyspace-denied" | "kms-locked"))
        .collect();
    // The most severe one: a denied keyspace is more specific than its KMS.
    let denied = found.get("keyspace-denied");
    denied.or(found.first()).map(|id| (*id).to_owned())
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
/// the provider's own words. Returns doctor's finding.
///
/// The fault: doctor said "the KMS was called and has not answered" of a sealed KMS, and `keyway status` nothing.
fn wait_for_the_cause(server: &Server, line: &str, trouble: &str, number: usize) -> String {
    let of_log = line.split(['=', ' ']).nth(1).unwrap().to_owned();
    let repeat = |command: &str, is_right: &dyn Fn(&str, &[String]) -> bool| {
        let operator = Operator::new();
        // A client retries what is unavailable until its own deadline.
        let script = format!("command keyway --timeout 5s {command} || true");
        let (mut text, mut words) = (String::new(), vec![of_log.clone()]);
        let began = Instant::now();
        while !is_right(&text, &words) {
            let goes_on = began.elapsed() < WITHIN;
            assert!(
                goes_on,
                "{trouble}: {words:?} are not in what `{command}` says: {text}"
            );
            let ended = operator.shell(server, &script);
            text = ended.out + &ended.err;
            // One fault may have several errors, such as the SDK's time limit and the server's.
            words.extend(words_of_the_kms(server, &operator));
        }
        text
    };
    let names_it =
        |text: &str, words: &[String]| words.iter().any(|words| text.contains(words.as_str()));
    std::thread::scope(|scope| {
        let repeat = &repeat;
        for command in ["kms list", "status"] {
            scope.spawn(move || repeat(command, &names_it));
        }
        // Some faults do not hinder the making of a data key.
        let create = format!("keyspace create other-{number} --kms main");
        let is_made =
            |text: &str, words: &[String]| text.contains(": created, id") || names_it(text, words);
        scope.spawn(move || repeat(&create, &is_made));
        let is_found =
            |text: &str, words: &[String]| names_it(text, words) && finding(text).is_some();
        let said = repeat("doctor --duration 2s --json", &is_found);
        finding(&said).unwrap_or_default()
    })
}

/// Returns the words for the KMS's trouble in `keyway kms list --json`.
fn words_of_the_kms(server: &Server, operator: &Operator) -> Vec<String> {
    let listed = operator.run(server, "keyway kms list --json").out;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut kmses = listed["kms"].as_array().unwrap().iter();
    let of_main = kmses.find(|kms| kms["name"] == "main").unwrap();
    let text = |name: &str| of_main["trouble"][name].as_str().unwrap_or_default();
    let mut words: Vec<String> = provider_words(text("what")).map(str::to_owned).collect();
    words.extend(Some(text("cause").to_owned()).filter(|cause| !cause.is_empty()));
    words
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
