//! The commands that messages name for a locked KMS, typed as they are printed: each must unlock.
//!
//! The fault: doctor gave `--passphrase` for every KMS but a token, which vault and aws refuse and a KEK in shares does not
//! take; `keyway kms unlock` without a secret was a usage error; and `--pin` was named where only `--force` helps.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_testkit::softhsm::{self, SoftHsm};
use serde_json::Value;

use crate::command_line::operator::Operator;
use crate::common::{Server, Setup, WITHIN, wait_until};
use crate::outages;

const TOKEN_KEY: &str = "keyway";

/// A KMS, and what opens it.
struct Case<'a> {
    kms: &'static str,
    operator: &'a Operator,
    server: Server,
    /// The files with its secret, or with its shares; none if it needs nothing.
    secrets: Vec<&'static str>,
}

impl Case<'_> {
    fn done(&self, line: &str) -> String {
        self.operator.done(&self.server, line)
    }

    /// Creates the keyspace `shop` at the KMS, with a key.
    fn stock(&self) {
        self.operator.write("msg", "hello\n");
        self.done(&format!("keyway keyspace create shop --kms {}", self.kms));
        self.done("keyway key generate shop/key --alg hmac-sha256");
        self.done("keyway mac shop/key --in msg --out tag");
    }

    fn refused(&self, line: &str) -> String {
        // A client retries what is unavailable until its own deadline.
        let line = line.replacen("keyway ", "command keyway --timeout 30s ", 1);
        let ended = self.operator.shell(&self.server, &line);
        assert_ne!(ended.code, 0, "{}: {line} was done", self.kms);
        ended.err
    }

    fn findings(&self) -> Vec<Value> {
        let ended = self
            .operator
            .run(&self.server, "keyway doctor --duration 2s --json");
        let document: Value = serde_json::from_str(&ended.out).unwrap();
        document["findings"].as_array().unwrap().clone()
    }

    /// What doctor says to run first about this.
    fn finding(&self, id: &str) -> String {
        let mut command = String::new();
        wait_until("doctor's finding", WITHIN, || {
            let findings = self.findings();
            let found = findings.iter().find(|finding| finding["id"] == id);
            command = found.map_or(String::new(), |it| it["next"][0].as_str().unwrap().into());
            !command.is_empty()
        });
        command
    }

    /// Types a command as often as there are secrets.
    fn type_in(&self, from: &str, command: &str) {
        let filled = command
            .replace("NAME", self.kms)
            .replace("KEYSPACE", "shop");
        let secrets = match self.secrets.is_empty() {
            true => vec![""],
            false => self.secrets.clone(),
        };
        for secret in secrets {
            let mut line = filled.clone();
            for option in ["--passphrase", "--pin", "--share"] {
                line = line.replace(option, &format!("{option}-fd 3 3<{secret}"));
            }
            let ended = self.operator.shell(&self.server, &line);
            assert_eq!(
                ended.code, 0,
                "{}: {from} says {command}: {}",
                self.kms, ended.err
            );
        }
    }

    fn is_open(&self) -> bool {
        let status: Value = serde_json::from_str(&self.done("keyway status --json")).unwrap();
        let mut kmses = status["kms"].as_array().unwrap().iter();
        kmses.any(|kms| kms["name"] == self.kms && kms["state"] == "unlocked")
    }

    /// Locks the KMS, asks `from` for a command, and types it. `opens`: what must be open then.
    fn try_out(&self, from: &str, opens: Opens, ask: impl FnOnce() -> String) {
        self.done(&format!("keyway kms lock {}", self.kms));
        wait_until("the lock", WITHIN, || !self.is_open());
        self.type_in(from, &command(&ask()));
        wait_until(&format!("{}: {from}", self.kms), WITHIN, || self.is_open());
        if opens == Opens::Keyspace {
            self.assert_served(from);
        }
    }

    fn assert_served(&self, from: &str) {
        let ended = self
            .operator
            .run(&self.server, "keyway mac shop/key --in msg --out tag");
        assert_eq!(ended.code, 0, "{}: {from}: {}", self.kms, ended.err);
    }

    fn try_all(&self) {
        let kms = self.kms;
        self.try_out("create", Opens::Kms, || {
            self.refused(&format!("keyway keyspace create other --kms {kms}"))
        });
        self.try_out("doctor of the KMS", Opens::Kms, || {
            self.finding("kms-locked")
        });
        self.try_out("kms list", Opens::Kms, || {
            let listed = self.done("keyway kms list");
            let mut lines = listed.lines();
            let line = lines.find(|line| line.starts_with(&format!("{kms}: locked")));
            line.expect(&listed).to_owned()
        });
        self.try_out("doctor of the keyspace", Opens::Keyspace, || {
            self.finding("needs-unlock")
        });
        self.try_out("NEEDS_UNLOCK", Opens::Keyspace, || {
            self.refused("keyway mac shop/key --in msg --out tag")
        });
        self.try_out("a rotation", Opens::Keyspace, || {
            self.refused("keyway keyspace rotate shop")
        });
        if !self.secrets.is_empty() {
            self.try_out("an unlock without a secret", Opens::Keyspace, || {
                self.refused("keyway unlock shop --wait")
            });
            self.try_out("a KMS's unlock without a secret", Opens::Kms, || {
                self.refused(&format!("keyway kms unlock {kms}"))
            });
        }
    }

    /// After a restart a KMS may be locked without an operator's lock.
    fn try_after_restart(&self) {
        let refused = self.refused("keyway mac shop/key --in msg --out tag");
        self.type_in("NEEDS_UNLOCK after a restart", &command(&refused));
        self.assert_served("NEEDS_UNLOCK after a restart");
    }
}

#[derive(PartialEq)]
enum Opens {
    Kms,
    Keyspace,
}

/// The command in a message.
fn command(message: &str) -> String {
    let at = message
        .find("keyway kms unlock")
        .or_else(|| message.find("keyway unlock"));
    let at = at.unwrap_or_else(|| panic!("no command is in: {message}"));
    let end = message[at..].find(['`', ';', ',', '\n']);
    message[at..][..end.unwrap_or(message[at..].len())]
        .trim()
        .to_owned()
}

#[test]
fn of_a_kek_under_a_passphrase() {
    let operator = Operator::new();
    operator.write("passphrase", "correct horse battery\n");
    let setup = operator.setup();
    let mut case = Case {
        kms: "local",
        operator: &operator,
        server: setup.start(),
        secrets: vec!["passphrase"],
    };
    let create = case.refused("keyway keyspace create shop");
    assert!(
        create.contains("keyway kms init NAME --passphrase, or"),
        "{create}"
    );
    case.done("keyway kms init local --passphrase-fd 3 3<passphrase");
    case.stock();
    case.try_all();
    case.done("keyway unlock shop --wait --passphrase-fd 3 3<passphrase");
    case.server.stop();
    case.server = setup.start();
    case.try_after_restart();
}

#[test]
fn of_a_kek_in_shares() {
    let operator = Operator::new();
    let setup = operator.setup();
    let mut case = Case {
        kms: "local",
        operator: &operator,
        server: setup.start(),
        secrets: vec!["share-1", "share-2"],
    };
    case.done("keyway kms init --shares 3 --threshold 2 --out shares");
    let shares = String::from_utf8(operator.read("shares")).unwrap();
    for (number, line) in (1..).zip(shares.lines()) {
        let share = line.split_once(": ").unwrap().1;
        operator.write(&format!("share-{number}"), &format!("{share}\n"));
    }
    case.stock();
    case.try_all();
    case.server.stop();
    case.server = setup.start();
    case.try_after_restart();
}

#[test]
fn of_openbao_which_needs_no_secret() {
    let operator = Operator::new();
    let Some((_bao, setup)) = outages::stand(&operator.path("")) else {
        return;
    };
    let case = Case {
        kms: "bao",
        operator: &operator,
        server: setup.start(),
        secrets: Vec::new(),
    };
    case.stock();
    case.try_all();
}

fn token_setup(operator: &Operator, token: &SoftHsm, more: &str) -> Setup {
    let table = format!(
        "[kms.hsm]\nprovider = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\nkey = {TOKEN_KEY:?}\n{more}",
        token.module(),
        token.token_label(),
    );
    operator.write("keywayd.toml", &table);
    let config = operator.path("keywayd.toml");
    let setup = operator.setup();
    setup.flag("--config").flag(config.to_str().unwrap())
}

fn start_with(token: &SoftHsm, setup: &Setup) -> Server {
    let mut command = setup.command();
    command.envs(token.env());
    setup.start_as(command)
}

#[test]
fn of_a_token() {
    let Some(token) = softhsm::start_or_skip() else {
        return;
    };
    token.create_aes_key(TOKEN_KEY);
    let operator = Operator::new();
    operator.write("pin", &format!("{}\n", token.pin()));
    let setup = token_setup(&operator, &token, "");
    let mut case = Case {
        kms: "hsm",
        operator: &operator,
        server: start_with(&token, &setup),
        secrets: vec!["pin"],
    };
    let create = case.refused("keyway keyspace create shop");
    case.type_in("create", &command(&create));
    case.stock();
    case.try_all();
    case.server.stop();
    case.server = start_with(&token, &setup);
    case.try_after_restart();
}

/// The PIN in a file is refused, and the token counts it: the message about the file names the command that the token's
/// state allows.
#[test]
fn of_a_token_that_has_refused_the_pin_of_the_file() {
    let Some(token) = softhsm::start_or_skip() else {
        return;
    };
    token.create_aes_key(TOKEN_KEY);
    let operator = Operator::new();
    operator.write("pin", &format!("{}\n", token.pin()));
    operator.write("wrong", "4321-nobody\n");
    let wrong = operator.path("wrong");
    std::fs::set_permissions(&wrong, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let setup = token_setup(&operator, &token, &format!("pin_file = {wrong:?}\n"));
    let mut case = Case {
        kms: "hsm",
        operator: &operator,
        server: start_with(&token, &setup),
        secrets: vec!["pin"],
    };
    // The first attempt is made, and counted.
    case.refused("keyway keyspace create shop");
    assert!(token.is_pin_count_low());
    let refused = case.refused("keyway keyspace create shop");
    let first = command(&refused);
    assert!(first.ends_with("--pin"), "{refused}");
    // Another server does not know how many PINs were refused.
    case.server.stop();
    case.server = start_with(&token, &setup);
    let refused = case.refused("keyway keyspace create shop");
    case.type_in("the refusal of the file's PIN", &command(&refused));
    case.stock();
}
