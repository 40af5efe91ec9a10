//! `keyway` with keywayd: a production server is configured, restarted, and unlocked again with a passphrase, a PIN and
//! three of five shares, each by the commands that an operator types. Wrong secrets are refused with a message and
//! counted.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

pub(crate) mod operator;

use keyway_testkit::softhsm::{self, SoftHsm};

use crate::common::{Server, Setup, WITHIN, wait_until};
use operator::Operator;

/// Creates a keyspace `prod` with a key, and a signature made with it in `sig`.
fn make_key(operator: &Operator, server: &Server) {
    operator.write("msg", "hello\n");
    let created = operator.done(server, "keyway keyspace create prod");
    assert_eq!(created, "prod: created, id 1\n");
    operator.done(server, "keyway key generate prod/alice --alg ed25519");
    operator.done(server, "keyway sign prod/alice --in msg --out sig");
}

/// Asserts that the key exists and cannot be used, and that the error contains the remedy.
fn assert_needs_unlock(operator: &Operator, server: &Server, unlock: &str) {
    let signature = operator.read("sig");
    for doing in [
        "sign prod/alice --in msg --out sig",
        "verify prod/alice --in msg --sig sig",
    ] {
        let refused = operator.run(server, &format!("keyway {doing}"));
        let told = [
            "prod/alice: the keyspace needs to be unlocked (ticket ",
            &format!("`{unlock}`, then try again"),
        ];
        refused.refused(4, &told);
        let refused = operator.run(server, &format!("keyway {doing} --json"));
        refused.refused(4, &["\"status\":\"needs_unlock\""]);
    }
    assert_eq!(
        operator.read("sig"),
        signature,
        "a refused sign wrote over its output"
    );
}

/// Asserts that the key is the same as before the restart.
fn assert_works(operator: &Operator, server: &Server) {
    let verified = operator.done(server, "keyway verify prod/alice --in msg --sig sig");
    assert_eq!(verified, "Verified OK (version 1)\n");
    operator.done(server, "keyway sign prod/alice --in msg --out again");
    assert_eq!(operator.read("again"), operator.read("sig"));
}

/// Asserts that the output is that of an unlock that has opened the keyspace.
fn assert_unlocked(said: &str) {
    let loaded = said.strip_prefix("prod: unlocked, ");
    let loaded = loaded.and_then(|rest| rest.strip_suffix(" loaded again\n"));
    assert!(loaded.is_some(), "{said}");
}

fn unlocks(kms: &str, keyspace: &str, outcome: &str) -> String {
    format!(
        "keyway_kms_calls_total{{kms=\"{kms}\",keyspace=\"{keyspace}\",operation=\"unlock\",outcome=\"{outcome}\"}}"
    )
}

/// Asserts that this many unlocks of `prod` were denied, in the metrics and in the output of `keyway status`.
fn assert_counted(operator: &Operator, server: &Server, kms: &str, count: u32) {
    let series = unlocks(kms, "prod", "denied");
    server.wait_for_metric(&series, |value| value >= f64::from(count));
    assert_eq!(server.metric(&series), Some(f64::from(count)));
    let count = count.to_string();
    let row = [kms, "prod", "unlock", "denied", &count];
    wait_until("the count in `keyway status`", WITHIN, || {
        let status = operator.done(server, "keyway status");
        let mut rows = status.lines().map(str::split_whitespace);
        rows.any(|words| words.eq(row))
    });
}

#[test]
fn a_passphrase_unlocks_after_a_restart() {
    let operator = Operator::new();
    let (right, wrong) = ("correct horse battery", "wrong horse battery");
    operator.write("passphrase.txt", &format!("{right}\n"));
    operator.write("wrong.txt", &format!("{wrong}\n"));
    // Too short to be chosen.
    operator.write("short.txt", "horse");
    let setup = operator.setup();
    let server = setup.start();
    let early = operator.run(&server, "keyway keyspace create prod");
    early.refused(
        1,
        &["conflict: locked: the KMS local has no key of its own yet; create it: keyway kms init"],
    );
    let short = operator.run(&server, "keyway kms init --passphrase-fd 3 3<short.txt");
    short.refused(
        1,
        &["the passphrase has 5 bytes, fewer than 8; choose a longer one"],
    );
    let made = operator.done(
        &server,
        "keyway kms init --passphrase-fd 3 3<passphrase.txt",
    );
    assert_eq!(made, "local: initialised\n");
    make_key(&operator, &server);
    assert_works(&operator, &server);
    server.stop();

    let server = setup.start();
    assert_needs_unlock(&operator, &server, "keyway unlock prod --wait --passphrase");
    let nothing = operator.run(&server, "keyway unlock prod --wait");
    nothing.refused(
        1,
        &["the KMS local is locked and needs a passphrase; run `keyway unlock prod --wait --passphrase`"],
    );
    for file in ["wrong", "short"] {
        let line = format!("keyway unlock prod --wait --passphrase-fd 3 3<{file}.txt");
        let told = "keyway: unlock prod: failed: denied: the passphrase does not open the KEK file";
        operator.run(&server, &line).refused(1, &[told]);
    }
    assert_counted(&operator, &server, "local", 2);
    assert_needs_unlock(&operator, &server, "keyway unlock prod --wait --passphrase");

    let unlocked = operator.done(
        &server,
        "keyway unlock prod --wait --passphrase-fd 3 3<passphrase.txt",
    );
    assert_unlocked(&unlocked);
    assert_works(&operator, &server);
    operator.assert_kept(&server, &[right.to_owned(), wrong.to_owned()]);
}

const TOKEN_KEY: &str = "keyway";

/// Starts the server with a token as its only KMS. A spy logs the calls of the token's module.
fn start_with_token(operator: &Operator, token: &SoftHsm) -> Server {
    let table = format!(
        "[kms.hsm]\nprovider = \"pkcs11\"\nmodule = {:?}\ntoken = {:?}\nkey = {TOKEN_KEY:?}\n",
        token.spy(),
        token.token_label(),
    );
    operator.write("keywayd.toml", &table);
    let config = operator.path("keywayd.toml");
    let setup: Setup = operator.setup();
    let setup = setup.flag("--config").flag(config.to_str().unwrap());
    let mut command = setup.command();
    command.envs(token.env());
    setup.start_as(command)
}

#[test]
fn a_pin_unlocks_after_a_restart() {
    let Some(token) = softhsm::start_or_skip() else {
        return;
    };
    token.create_aes_key(TOKEN_KEY);
    let operator = Operator::new();
    let wrong = "4321-nobody";
    operator.write("pin.txt", &format!("{}\n", token.pin()));
    operator.write("wrong.txt", &format!("{wrong}\n"));
    let server = start_with_token(&operator, &token);
    let opened = operator.done(&server, "keyway kms unlock hsm --pin-fd 3 3<pin.txt");
    assert_eq!(opened, "hsm: unlocked\n");
    make_key(&operator, &server);
    server.stop();

    let server = start_with_token(&operator, &token);
    assert_needs_unlock(&operator, &server, "keyway unlock prod --wait --pin");
    let nothing = operator.run(&server, "keyway unlock prod --wait");
    nothing.refused(
        1,
        &["the KMS hsm is locked and needs a PIN; run `keyway unlock prod --wait --pin`"],
    );
    let logins = token.calls("C_Login");
    let refused = operator.run(&server, "keyway unlock prod --wait --pin-fd 3 3<wrong.txt");
    let told = [
        "keyway: unlock prod: failed: denied: token keyway-test refuses the PIN",
        "it counts wrong PINs and may lock after a few",
        "a wrong one is never sent again automatically",
    ];
    refused.refused(1, &told);
    assert_counted(&operator, &server, "hsm", 1);
    assert!(token.is_pin_count_low(), "the token has counted it, too");
    assert_needs_unlock(&operator, &server, "keyway unlock prod --wait --pin");
    assert_eq!(
        token.calls("C_Login"),
        logins + 1,
        "sent once for each time it is given"
    );

    let unlocked = operator.done(&server, "keyway unlock prod --wait --pin-fd 3 3<pin.txt");
    assert_unlocked(&unlocked);
    assert_works(&operator, &server);
    assert!(!token.is_pin_count_low());
    operator.assert_kept(&server, &[token.pin().to_owned(), wrong.to_owned()]);
}

/// Copies each holder's share from the file that `kms init` wrote into a file of its own: `share-1.txt` to `share-5.txt`.
fn hand_out(operator: &Operator) -> Vec<String> {
    let written = String::from_utf8(operator.read("shares.txt")).unwrap();
    let mut shares = Vec::new();
    for (number, line) in (1..).zip(written.lines()) {
        let share = line.strip_prefix(&format!("share {number} of 5: "));
        let share = share.expect("each share has its number before it");
        operator.write(&format!("share-{number}.txt"), &format!("{share}\n"));
        shares.push(share.to_owned());
    }
    shares
}

/// Returns a share with each of two copying mistakes: a word that does not exist, and two words swapped.
fn mistype(share: &str) -> (String, String) {
    let mut words: Vec<&str> = share.split(' ').collect();
    let misspelt = format!("{}q", words[5]);
    let with_misspelt = [&words[..5], &[&misspelt], &words[6..]].concat().join(" ");
    let place = (0..words.len() - 1).find(|&i| words[i] != words[i + 1]);
    let place = place.expect("the words are random");
    words.swap(place, place + 1);
    (with_misspelt, words.join(" "))
}

#[test]
fn three_of_five_shares_unlock_after_a_restart() {
    let operator = Operator::new();
    let setup = operator.setup();
    let server = setup.start();
    let made = operator.run(
        &server,
        "keyway kms init --shares 5 --threshold 3 --out shares.txt",
    );
    assert!(made.err.contains("are shown this once"), "{}", made.err);
    assert_eq!(
        made.done(),
        "local: initialised, any 3 of 5 shares unlock it\n"
    );
    let mut secrets = hand_out(&operator);
    assert_eq!(secrets.len(), 5);
    let (misspelt, swapped) = mistype(&secrets[3]);
    operator.write("misspelt.txt", &format!("{misspelt}\n"));
    operator.write("swapped.txt", &format!("{swapped}\n"));
    secrets.extend([misspelt, swapped]);
    make_key(&operator, &server);
    server.stop();

    let server = setup.start();
    assert_needs_unlock(&operator, &server, "keyway unlock prod --share");
    let give = |file: &str| format!("keyway unlock prod --wait --share-fd 3 3<{file}.txt");
    let nothing = operator.run(&server, "keyway unlock prod --wait");
    nothing.refused(
        1,
        &["needs shares; each holder of a share runs `keyway unlock prod --share`"],
    );
    let refused = operator.run(&server, &give("misspelt"));
    let told = "denied: word 6 of the share is not in the word list; compare that word";
    refused.refused(1, &["keyway: unlock prod: failed: ", told]);
    assert_counted(&operator, &server, "local", 1);

    // Two holders wait for the third. A faulty share is reported only to its holder, and does not affect those who wait.
    let mut holders = Vec::new();
    for (file, given) in [("share-5", 1.0), ("share-1", 2.0)] {
        holders.push(operator.start(&server, &give(file)));
        server.wait_for_metric(&unlocks("local", "prod", "ok"), |value| value >= given);
    }
    for (file, told) in [
        ("share-5", "denied: share 5 was given already"),
        (
            "swapped",
            "denied: the share's checksum is wrong: a word is mistyped",
        ),
    ] {
        let refused = operator.run(&server, &give(file));
        refused.refused(1, &["keyway: unlock prod: failed: ", told]);
        let refused = operator.run(
            &server,
            &format!("keyway kms unlock --share-fd 3 3<{file}.txt"),
        );
        refused.refused(1, &["keyway: kms unlock local: ", told]);
    }
    assert_counted(&operator, &server, "local", 3);
    assert_needs_unlock(&operator, &server, "keyway unlock prod --share");
    assert!(holders.iter_mut().all(|holder| holder.is_waiting()));
    assert_unlocked(&operator.done(&server, &give("share-3")));
    for holder in holders {
        assert_unlocked(&holder.end().done());
    }
    assert_works(&operator, &server);
    operator.assert_kept(&server, &secrets);
}
