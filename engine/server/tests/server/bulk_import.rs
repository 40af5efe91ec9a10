//! `keyway import --dir` with a real server: of two different keys none is dropped without a word, and what was not looked at
//! is not called the same.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use crate::command_line::operator::{Ended, Operator};
use crate::common::Setup;

/// The fault: with `--skip-existing`, one of two different keys was counted as "there already", and the exit code was 0.
#[test]
fn of_two_files_of_one_name_the_message_names_both() {
    let operator = Operator::new();
    let server = Setup::new(&operator.path("data")).shards(2).start();
    let shell = |script: &str| operator.shell(&server, script);
    let import = |options: &str| shell(&format!("keyway import prod --dir keys {options}"));
    let counted = |ended: &Ended, code: i32, summary: &str, told: &[&str]| {
        let Ended { out, err, .. } = ended;
        assert_eq!((ended.code, &**out), (code, summary), "{err}");
        for words in told {
            assert!(err.contains(words), "{words:?} is not in {err}");
        }
    };
    // Different keys, the same key twice, and names that differ in their extension's presence.
    shell(
        "mkdir keys
         openssl genpkey -algorithm ed25519 -out keys/tls.key
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out keys/tls.pem
         openssl genpkey -algorithm ed25519 -out keys/same.key; cp keys/same.key keys/same.pem
         openssl genpkey -algorithm ed25519 -out keys/bare; openssl genpkey -algorithm ed25519 -out keys/bare.pem
         openssl genpkey -algorithm ed25519 -out keys/only.pem",
    )
    .done();
    let both = [
        "tls: tls.key and tls.pem make the same key id, and only tls.key is the key now",
        "same: same.key and same.pem make the same key id",
        "bare: bare and bare.pem make the same key id, and only bare is the key now",
        "give the other one another name, and import it again",
    ];
    counted(&import(""), 1, "prod: 4 keys imported, 3 failed\n", &both);
    let resumed = "prod: 0 keys imported, 4 there already and not compared, 3 failed\n";
    counted(&import("--skip-existing"), 1, resumed, &both);
    // The first of each is the key.
    let first = "keyway public prod/tls | cmp - first; keyway public prod/bare | cmp - bare";
    shell(&format!(
        "openssl pkey -in keys/tls.key -pubout -out first; openssl pkey -in keys/bare -pubout -out bare
         {first}"
    ))
    .done();
    // As the message says.
    let script = "mv keys/tls.pem keys/tls-2.pem; rm keys/same.pem; mv keys/bare.pem keys/bare-2.pem
        keyway import prod --dir keys --skip-existing
        openssl pkey -in keys/tls-2.pem -pubout | (keyway public prod/tls-2 | cmp - /dev/fd/3) 3<&0";
    let renamed = shell(script);
    counted(
        &renamed,
        0,
        "prod: 2 keys imported, 4 there already and not compared\n",
        &[],
    );

    // A name that the server has already, with another key in the file: a failure that names the file, or with
    // `--skip-existing` said to be what was not compared.
    shell("rm -r keys; mkdir keys; openssl genpkey -algorithm ed25519 -out keys/tls.pem").done();
    let told = ["tls.pem: CONFLICT"];
    counted(&import(""), 1, "prod: 0 keys imported, 1 failed\n", &told);
    let skipped = "prod: 0 keys imported, 1 there already and not compared\n";
    counted(&import("--skip-existing"), 0, skipped, &[]);
    shell("keyway public prod/tls | cmp - first").done();
}

/// The fault: a link to nowhere ended the import before its first key, in words about the directory.
#[test]
fn a_file_that_cannot_be_read_is_named_and_the_others_are_imported() {
    let operator = Operator::new();
    let server = Setup::new(&operator.path("data")).shards(1).start();
    let ended = operator.shell(
        &server,
        "mkdir keys
         openssl genpkey -algorithm ed25519 -out keys/a.pem
         ln -s nowhere keys/b.pem
         openssl genpkey -algorithm ed25519 -out keys/c.pem
         keyway import prod --dir keys",
    );
    let Ended { code, out, err, .. } = ended;
    assert_eq!(
        (code, &*out),
        (1, "prod: 2 keys imported, 1 failed\n"),
        "{err}"
    );
    assert!(err.contains("keys/b.pem"), "{err}");
}
