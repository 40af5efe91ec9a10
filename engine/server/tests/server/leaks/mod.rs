//! No message, log line, JSON document or panic text contains bytes of the imported keys, intact or damaged.
//!
//! The fault: messages of parsers quoted what they had read: a label, a member's value, a line of a file.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod containers;
mod search;

use crate::command_line::operator::Operator;
use crate::common::{Server, Setup};
use search::{Secrets, base64};

/// Keys from OpenSSL: the name, the options, and the range of secret bytes at the end of their PKCS#8 document.
const KEYS: [(&str, &str, std::ops::Range<usize>); 3] = [
    ("ed", "-algorithm ed25519", 16..48),
    (
        "ec",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        36..68,
    ),
    // The exponent begins there, followed by the primes.
    (
        "rsa",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        310..1_180,
    ),
];

/// The damage to a file, as a shell line from `FILE` to `BAD`.
const DAMAGES: [&str; 12] = [
    "cat FILE > BAD",
    "head -c 100 FILE > BAD",
    "tail -c 100 FILE > BAD",
    "tr 'A-M' 'N-Z' < FILE > BAD",
    "sed 's/[a-z0-9]/#/5' FILE > BAD",
    "tr -d '\\n' < FILE > BAD",
    "sed 's/PRIVATE KEY/OTHER/' FILE > BAD",
    "(echo '-----BEGIN '$(sed -n 2p FILE)'-----'; sed -n 2p FILE; echo '-----END OTHER-----') > BAD",
    "(sed 1q FILE; echo \"Note: $(sed -n 2p FILE)\"; sed 1,2d FILE) > BAD",
    "(printf '{\"kty\":\"%s\",\"d\":' \"$(sed -n 2p FILE)\"; sed -n 2p FILE) > BAD",
    "(printf '{\"kty\":\"OKP\",\"crv\":\"'; sed -n 2p FILE; printf '\",\"d\":7}') > BAD",
    "iconv -f UTF-8 -t UTF-16 FILE > BAD",
];

/// Creates the keys in the operator's directory, and returns their secret parts.
fn make(operator: &Operator, server: &Server) -> Secrets {
    let mut secrets = Secrets::default();
    for (name, options, secret) in KEYS {
        let script = format!(
            "openssl genpkey {options} -out {name}.pem
             openssl pkcs8 -topk8 -nocrypt -in {name}.pem -outform DER -out {name}.der"
        );
        assert_eq!(operator.shell(server, &script).code, 0);
        let der = operator.read(&format!("{name}.der"));
        secrets.add(&der[secret]);
    }
    secrets
}

fn look(operator: &Operator, server: &Server, secrets: &Secrets) {
    let (_, metrics) = server.http("/metrics");
    for (what, text) in [
        ("a message", operator.said()),
        ("the log", server.log()),
        ("the metrics", metrics),
    ] {
        let found = secrets.found_in(text.as_bytes());
        assert!(
            found.is_none(),
            "{what} holds a part of a secret behind: {found:?}"
        );
    }
}

#[test]
fn no_part_of_an_imported_key_is_printed() {
    let operator = Operator::new();
    let setup = Setup::new(&operator.path("data")).shards(2);
    let server = setup.flag("--log-level").flag("debug").start();
    let mut secrets = make(&operator, &server);
    let raw: Vec<u8> = (0..40_u8).map(|i| i.wrapping_mul(167) ^ 0x5a).collect();
    secrets.add(&raw);
    operator.write("secret.b64", &base64(&raw));
    for (key, (name, ..)) in KEYS.iter().enumerate() {
        for (damage, line) in DAMAGES.iter().enumerate() {
            let id = format!("prod/k{key}-{damage}");
            let script = format!(
                "cp {name}.pem FILE; {line}
                 for format in detect pem pkcs8-der jwk raw
                 do keyway --json key import {id}-$format --file BAD --format $format || true
                 keyway key import {id}-$format --file BAD --format $format --alg hmac-sha256 || true
                 done
                 keyway key import {id} --file BAD --encoding base64 || true
                 rm -rf keys; mkdir keys; cp BAD keys/many-{key}-{damage}
                 keyway import prod --dir keys || true
                 printf '{{\"id\":\"%s\",\"%s\":\"%s\"}}\\n' x \"$(sed -n 2p BAD)\" y > lines
                 printf '{{\"id\":\"x\",\"key\":\"%s\",\"alg\":\"%s\"}}\\n' \"$(sed -n 2p BAD)\" \"$(sed -n 2p FILE)\" >> lines
                 printf '{{\"id\":\"x\",\"key\":%s}}\\n' \"$(sed -n 2p BAD)\" >> lines
                 keyway --json import prod --ndjson lines || true
                 echo hello | keyway sign {id}-detect --out sig || true"
            );
            operator.shell(&server, &script).done();
        }
    }
    operator
        .shell(
            &server,
            "for encoding in raw hex base64 base64url
             do keyway key import prod/$encoding --file secret.b64 --encoding $encoding --alg hmac-sha256 || true
             done
             keyway key import prod/plain --file secret.b64 --alg hmac-sha256 || true
             keyway --json status; keyway --json key list prod; keyway --json doctor --duration 2s || true",
        )
        .done();
    assert!(operator.said().contains("imported, version 1"));
    look(&operator, &server, &secrets);
}

#[test]
fn no_part_of_a_key_is_in_the_text_of_a_panic() {
    let operator = Operator::new();
    let setup = Setup::new(&operator.path("data")).shards(2);
    let mut command = setup.command();
    command.env("KEYWAY_PLANT", "operation:bad");
    let server = setup.start_as(command);
    let secrets = make(&operator, &server);
    let script = "keyway key import prod/bad --file ed.pem
                  echo hello | keyway sign prod/bad --out sig || true";
    operator.shell(&server, script).done();
    server.wait_for_log("panicked");
    look(&operator, &server, &secrets);
}
