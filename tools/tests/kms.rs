//! Unlocks, initialisation and moves: secrets as input, shares as output, DEK rotations.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use keyway_protocol::UnlockKind;
use support::{Server, State};

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Runs it with this input; it must end with 0. What it prints.
fn done(server: &Server, args: &str, input: &[u8]) -> String {
    let output = server.keyway_with(args, input);
    assert_eq!(code(&output), 0, "{args}: {}", err(&output));
    out(&output).to_owned()
}

fn secrets(server: &Server) -> Vec<(UnlockKind, Vec<u8>)> {
    server.state.lock().unwrap().secrets.clone()
}

#[test]
fn a_secret_is_read_from_its_descriptor_up_to_the_line_feed() {
    for (option, kind) in [
        ("--passphrase-fd", UnlockKind::Passphrase),
        ("--pin-fd", UnlockKind::Pin),
        ("--share-fd", UnlockKind::Share),
    ] {
        let server = Server::start();
        done(
            &server,
            &format!("unlock prod {option} 0"),
            b"right one\nrest",
        );
        let args = format!("kms unlock local {option} 0");
        done(&server, &args, b"right one\nrest");
        let came = (kind, b"right one".to_vec());
        assert_eq!(secrets(&server), [came.clone(), came]);
        for (input, fd, told) in [
            (&b"\n"[..], 0, "is empty"),
            (&[b'x'; 1_025], 0, "more than 1024 bytes"),
            (b"", 99, "3 3<FILE"),
        ] {
            let refused = server.keyway_with(&format!("unlock prod {option} {fd}"), input);
            assert_eq!(code(&refused), 2, "{option} {fd}");
            assert!(err(&refused).contains(told), "{}", err(&refused));
        }
        assert_eq!(
            secrets(&server).len(),
            2,
            "what cannot be right is not sent"
        );
    }
}

#[test]
fn without_an_option_nothing_is_given() {
    let server = Server::start();
    done(&server, "unlock prod", b"");
    assert_eq!(secrets(&server), [(UnlockKind::Nothing, Vec::new())]);
}

#[test]
fn force_goes_with_a_pin_and_reaches_the_server() {
    let server = Server::start();
    done(&server, "unlock prod --pin-fd 0 --force", b"1234");
    done(&server, "kms unlock hsm --pin-fd 0 --force", b"right");
    done(&server, "unlock prod --pin-fd 0", b"1234");
    assert_eq!(server.state.lock().unwrap().forced, 2);
    for without_a_pin in ["unlock prod --force", "kms unlock --share-fd 0 --force"] {
        let output = server.keyway_with(without_a_pin, b"words");
        assert_eq!(code(&output), 2, "{without_a_pin}");
    }
    assert_eq!(server.state.lock().unwrap().forced, 2);
}

#[test]
fn retry_is_requested_and_reported() {
    let server = Server::with(State {
        pending: 1,
        ..State::default()
    });
    let text = done(&server, "unlock prod --retry", b"");
    assert!(text.contains("the server keeps trying until the KMS answers"));
    assert_eq!(server.state.lock().unwrap().watched, 1);
    let text = done(&server, "unlock prod --ticket 42", b"");
    assert_eq!(text, "prod: pending: calling the KMS, 4 attempts\n");
}

#[test]
fn a_share_is_answered_with_the_number_of_missing_ones() {
    let server = Server::start();
    for expected in [
        "prod: 1 of 3 shares given; 2 more open it\n",
        "prod: 2 of 3 shares given; 1 more opens it\n",
        "prod: unlocked, 3 keys loaded again\n",
    ] {
        // The share is verified after the server has answered: at first there is no result.
        server.state.lock().unwrap().pending = 2;
        assert_eq!(
            done(&server, "unlock prod --share-fd 0", b"right"),
            expected
        );
    }
}

#[test]
fn a_share_that_is_wrong_is_refused() {
    let server = Server::start();
    let wrong = server.keyway_with("unlock prod --share-fd 0", b"wrong");
    assert_eq!((code(&wrong), out(&wrong)), (1, ""));
    assert!(
        err(&wrong).contains("unlock prod: failed"),
        "{}",
        err(&wrong)
    );
    let wrong = server.keyway_with("kms unlock --share-fd 0", b"wrong");
    assert_eq!((code(&wrong), out(&wrong)), (1, ""));
    assert!(!err(&wrong).contains("policy"), "{}", err(&wrong));
}

#[test]
fn a_share_that_is_not_judged_in_time_can_be_followed() {
    // So short that waiting is soon over; a slow machine needs more even for the answer that gives the ticket.
    let give = |timeout: &str| {
        let server = Server::with(State {
            pending: u32::MAX,
            ..State::default()
        });
        let args = format!("unlock prod --share-fd 0 --timeout {timeout}");
        server.keyway_with(&args, b"right")
    };
    let mut gifts = ["300ms", "3s", "30s"].into_iter().map(give);
    let pending = gifts.find(|pending| code(pending) == 4);
    let pending = pending.expect("the share is given within 30 s");
    assert!(err(&pending).contains("`keyway unlock prod --ticket 43 --wait`"));
}

#[test]
fn a_kms_is_unlocked_share_by_share() {
    let server = Server::start();
    for expected in [
        "local: 1 of 3 shares given; 2 more open it\n",
        "local: 2 of 3 shares given; 1 more opens it\n",
        "local: unlocked\n",
    ] {
        assert_eq!(done(&server, "kms unlock --share-fd 0", b"right"), expected);
    }
    let server = Server::start();
    assert_eq!(
        done(&server, "kms unlock hsm --share-fd 0 --json", b"right"),
        "{\"given\":1,\"kms\":\"hsm\",\"state\":\"locked\",\"threshold\":3}\n"
    );
    assert_eq!(
        done(&server, "kms unlock hsm --pin-fd 0 --json", b"right"),
        "{\"kms\":\"hsm\",\"state\":\"unlocked\"}\n"
    );
}

#[test]
fn shares_are_written_once_each_on_its_own_line() {
    let server = Server::start();
    let output = server.keyway("kms init --shares 3 --threshold 2");
    assert_eq!(code(&output), 0, "{}", err(&output));
    assert_eq!(
        out(&output),
        "local: initialised, any 2 of 3 shares unlock it\n\
         share 1 of 3: right words 1\n\
         share 2 of 3: right words 2\n\
         share 3 of 3: right words 3\n"
    );
    assert!(err(&output).contains("shown this once"), "{}", err(&output));
    let output = server.keyway("kms init hsm --shares 2 --threshold 2 --json");
    assert_eq!(
        out(&output),
        "{\"initialised\":true,\"kms\":\"hsm\",\"shares\":[\"right words 1\",\
         \"right words 2\"],\"threshold\":2}\n"
    );
}

#[test]
fn shares_in_a_file_are_for_its_owner_and_not_on_standard_output() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shares");
    let args = format!("kms init --shares 2 --threshold 2 --out {}", path.display());
    let text = done(&server, &args, b"");
    assert_eq!(text, "local: initialised, any 2 of 2 shares unlock it\n");
    let written = "share 1 of 2: right words 1\nshare 2 of 2: right words 2\n";
    assert_eq!(fs::read_to_string(&path).unwrap(), written);
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // A second time there is nothing to show, and the file is all that is left of the first.
    let args = args.replace("init", "init made");
    let refused = server.keyway(&args);
    assert_eq!(code(&refused), 1, "{}", err(&refused));
    assert_eq!(fs::read_to_string(&path).unwrap(), written);
}

#[test]
fn shares_that_have_no_place_to_go_are_not_made() {
    let server = Server::start();
    for (args, told) in [
        (
            "kms init --shares 3 --threshold 2 --out /dev/null/shares",
            "cannot write /dev/null/shares",
        ),
        ("kms init --shares 3 --threshold 4", "a threshold of 4"),
    ] {
        let refused = server.keyway(args);
        assert_eq!((code(&refused), out(&refused)), (2, ""), "{args}");
        assert!(err(&refused).contains(told), "{}", err(&refused));
        assert!(!err(&refused).contains("shown this once"));
    }
}

#[test]
fn a_kms_is_made_under_a_passphrase_and_has_no_shares() {
    let server = Server::start();
    let output = server.keyway_with("kms init --passphrase-fd 0", b"correct horse\n");
    assert_eq!(
        (code(&output), out(&output), err(&output)),
        (0, "local: initialised\n", "")
    );
    let came = (UnlockKind::Passphrase, b"correct horse".to_vec());
    assert_eq!(secrets(&server), [came]);
    let refused = server.keyway_with("kms init made --passphrase-fd 0", b"correct horse");
    assert_eq!(code(&refused), 1);
    assert!(
        err(&refused).contains("exists already"),
        "{}",
        err(&refused)
    );
}

#[test]
fn kmses_are_listed_out_of_the_status() {
    let server = Server::start();
    assert_eq!(
        done(&server, "kms list", b""),
        "\
KMS    PROVIDER  STATE     CALLS IN FLIGHT  RATE LEFT  RETRIES LEFT  BREAKER  CALLS/H FORECAST
local  local     unlocked                0         10             5  closed               12.2
"
    );
    let json = done(&server, "kms list --json", b"");
    let document: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["kms"][0]["calls"][0]["operation"], "unwrap");
    let json = done(&server, "status --json", b"");
    let whole: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&whole["pid"], &whole["kms"]),
        (&7.into(), &document["kms"])
    );
}

#[test]
fn a_keyspace_is_made_on_the_kms_that_is_named() {
    let server = Server::start();
    let args = "keyspace create staging --kms vault-eu soft_ttl_ms=60000";
    assert_eq!(done(&server, args, b""), "staging: created, id 7\n");
    let settings = server.state.lock().unwrap().settings.clone();
    assert_eq!(settings, ["soft_ttl_ms=60000\nkms=vault-eu\n"]);
}

#[test]
fn a_rotation_is_followed_until_every_key_is_sealed_again() {
    let server = Server::with(State {
        reseal_left: 42,
        ..State::default()
    });
    assert_eq!(
        done(&server, "keyspace rotate prod", b""),
        "prod: rotated, DEK generation 3\n\
         its keys are sealed again in the background; see: keyway keyspace list prod\n"
    );
    let listed = done(&server, "keyspace list prod", b"");
    let under_way = "rotation in progress: 0 of 42 keys sealed again\n";
    assert!(listed.contains(under_way), "{listed}");
    assert_eq!(
        done(&server, "keyspace rotate prod --wait", b""),
        "prod: rotated, DEK generation 3\nprod: all keys are sealed under it\n"
    );
    assert_eq!(server.state.lock().unwrap().reseal_left, 0);
    assert_eq!(
        done(&server, "keyspace rotate prod --json", b""),
        "{\"generation\":3,\"keyspace\":\"prod\"}\n"
    );

    server.state.lock().unwrap().reseal_left = 42;
    let pending = server.keyway("keyspace rotate prod --wait=1ms");
    assert_eq!(code(&pending), 4, "{}", err(&pending));
    assert!(err(&pending).contains("`keyway keyspace list prod`"));
}

#[test]
fn a_rewrapping_says_that_a_rotation_should_follow() {
    let server = Server::start();
    let output = server.keyway("keyspace rewrap prod --kms vault-eu");
    assert_eq!(
        (code(&output), out(&output)),
        (0, "prod: wrapped by KMS vault-eu\n")
    );
    assert!(err(&output).contains("keyway keyspace rotate prod"));
    let refused = server.keyway("keyspace rewrap prod --kms nowhere");
    assert_eq!((code(&refused), out(&refused)), (1, ""));
}

#[test]
fn a_kms_or_everything_is_locked() {
    let server = Server::start();
    let output = server.keyway("kms lock local");
    assert_eq!(
        (code(&output), out(&output)),
        (0, "local: locked, with every keyspace that it wraps\n")
    );
    let refused = server.keyway("kms lock nowhere");
    assert_eq!((code(&refused), out(&refused)), (1, ""));
    let output = server.keyway("lock --all");
    assert_eq!(
        (code(&output), out(&output)),
        (0, "every keyspace and every KMS: locked\n")
    );
}

/// What cannot be taken back is asked about first. Where there is no terminal to ask on, nothing is done.
#[test]
fn retired_deks_are_destroyed_when_somebody_means_it() {
    let server = Server::start();
    let asked = server.keyway("keyspace destroy-deks prod");
    assert_eq!((code(&asked), out(&asked)), (2, ""), "{}", err(&asked));
    assert!(err(&asked).contains("--yes"), "{}", err(&asked));
    let output = server.keyway("keyspace destroy-deks prod --yes");
    assert_eq!(
        (code(&output), out(&output)),
        (0, "prod: 2 retired DEKs destroyed\n")
    );
}
