//! Mistakes in flags and in the configuration: the message names what was seen and what to write, and quotes no secret.
//!
//! `--listen localhost:7420` was "invalid socket address syntax". A passphrase in the wrong setting, or a file of another
//! kind given as the configuration, was quoted in the log.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{Setup, prod, refused};

/// `keywayd` on free ports over `data`.
fn keywayd(data: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keywayd"));
    command.args(["--dev", "--shards", "1", "--data"]).arg(data);
    command.args(words).stdin(Stdio::null());
    command
}

#[test]
fn localhost_is_listened_on_and_other_names_are_answered_with_what_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let words = ["--listen", "localhost:0", "--metrics", "localhost:0"];
    let server = Setup::new(&data).start_as(keywayd(&data, &words));
    assert!(server.address().starts_with("127.0.0.1:"));
    server.client().key_list(&prod()).unwrap();
    server.stop();
    for (value, told) in [
        ("keyway.example:7420", "names are not looked up"),
        ("127.0.0.1", "write 127.0.0.1:PORT"),
        (":7420", "0.0.0.0:7420"),
        ("::1:7420x", "the port is a number"),
    ] {
        for flag in ["--listen", "--metrics"] {
            let text = refused(keywayd(&data, &[flag, value]));
            for words in [flag, value, told, "127.0.0.1:7420"] {
                assert!(text.contains(words), "{words:?} is not in {text}");
            }
        }
    }
}

#[test]
fn a_secret_in_the_wrong_place_of_the_configuration_is_not_quoted() {
    const SECRET: &str = "Correct-Horse-7";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keyway.toml");
    let key = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519"])
        .output()
        .unwrap();
    let key = String::from_utf8(key.stdout).unwrap();
    let of_key = key.lines().nth(1).unwrap();
    let vault = "[kms.v]\nprovider = \"vault\"\n";
    for text in [
        format!("{SECRET}\n"),
        format!("passphrase = \"{SECRET}\"\n"),
        format!("passphrase_fd = \"{SECRET}\"\n"),
        format!("log_format = \"{SECRET}\"\n"),
        format!("shards = 1\n{SECRET} = 1\n"),
        format!("[kms.local]\nprovider = \"local\"\npassphrase = \"{SECRET}\"\n"),
        format!("{vault}token = \"{SECRET}\"\n"),
        format!("{vault}unlock_without_secret = \"{SECRET}\"\n"),
        format!("{vault}address = {{ {SECRET} = 1 }}\n"),
        format!("{vault}budget = \"{SECRET}\"\n"),
        format!("{vault}[kms.v.budget]\nrate_per_s = \"{SECRET}\"\n"),
        format!("[kms.p]\nprovider = \"pkcs11\"\npin = \"{SECRET}\"\n"),
        format!("[kms.p]\nprovider = \"pkcs11\"\nslot = \"{SECRET}\"\n"),
        key.clone(),
    ] {
        std::fs::write(&file, &text).unwrap();
        let words = ["--config", file.to_str().unwrap()];
        let told = refused(keywayd(&dir.path().join("data"), &words));
        for secret in [SECRET, of_key] {
            assert!(!told.contains(secret), "{text}: {told}");
        }
        assert!(
            told.contains("keyway.toml") || told.contains("[kms."),
            "{text}: {told}"
        );
    }
}
