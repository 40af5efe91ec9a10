//! Every command against a server that speaks the real codec: what it prints, as text and as
//! JSON, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::fs;
use std::process::{Output, Stdio};

use support::{Server, State, keyway};

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// Runs each command and compares its standard output; each must end with 0.
fn golden(server: &Server, lines: &[(&str, &str)]) {
    for (args, expected) in lines {
        let output = server.keyway_with(args, b"hello");
        assert_eq!(code(&output), 0, "{args}: {}", err(&output));
        assert_eq!(out(&output), *expected, "{args}");
        assert_eq!(err(&output), "", "{args}");
    }
}

#[test]
fn text_for_people() {
    golden(
        &Server::start(),
        &[
            ("keyspace create staging", "staging: created, id 7\n"),
            (
                "keyspace set prod max_in_flight=0 soft_ttl_ms=60000",
                "prod: max_in_flight = 0\nprod: soft_ttl_ms = 60000\n",
            ),
            (
                "keyspace set prod max_in_flight=256 low_water_pct=9 --for 15m",
                "prod: max_in_flight = 256 for 15 min\nprod: low_water_pct = 9 for 15 min\n",
            ),
            (
                "keyspace history prod",
                "\
WHEN                  WHO       WHAT           FROM  TO   UNTIL
2026-11-26T00:35:00Z  expired   max_in_flight  256   64   -
2026-11-26T00:20:00Z  uid:1000  max_in_flight  64    256  2026-11-26T00:35:00Z
2026-11-25T09:46:40Z  server    created        -     -    -
",
            ),
            (
                "keyspace history prod --limit 1",
                "\
WHEN                  WHO      WHAT           FROM  TO  UNTIL
2026-11-26T00:35:00Z  expired  max_in_flight  256   64  -
",
            ),
            (
                "keyspace list",
                "\
ID  KEYSPACE  STATE     KMS    DEK GENERATION  SOFT TTL  HARD TTL  DEK LEASE  MAX IN FLIGHT
 1  prod      unlocked  local               2    10 min       1 h        1 h             64
 7  staging   locked    -                   -         -         -          -              -
",
            ),
            (
                "keyspace list prod",
                "\
keyspace prod, id 1, unlocked, KMS local, DEK generation 2
SETTING         VALUE
dek_lease_ms    3600000
hard_ttl_ms     3600000
max_in_flight   64
soft_ttl_ms     600000
allow:uid:1000  sign,verify
",
            ),
            (
                "key generate prod/alice --alg ed25519",
                "prod/alice: generated, version 1\n",
            ),
            ("key import prod/bob", "prod/bob: imported, version 1\n"),
            ("key rotate prod/alice", "prod/alice: rotated, version 4\n"),
            ("key revoke prod/alice", "prod/alice: revoked\n"),
            ("refresh prod/alice", "prod/alice: refreshed, version 3\n"),
            (
                "key list prod",
                "\
KEY    VERSION  ALGORITHM  STATE    OLDEST  REVOKED
alice        1  ed25519    active        1  -
bob          2  -          revoked       -  -
torn         3  -          damaged       -  -
zoe         12  ed25519    active        6  7, 9
4 keys
1 key damaged: the server's store cannot read what it has of them. Import them again from your copy: \
`keyway key import KEYSPACE/KEY --file FILE`; without a copy, give them up: \
`keyway key revoke KEYSPACE/KEY`, then `keyway key delete KEYSPACE/KEY`
",
            ),
            (
                "public prod/alice",
                "-----BEGIN PUBLIC KEY-----\nAAEC\n-----END PUBLIC KEY-----\n",
            ),
            ("key public prod/alice --der", "\0\u{1}\u{2}"),
            ("sign prod/alice", "default:message:hello"),
            (
                "sign prod/alice --scheme rsa-pss-sha256",
                "rsa-pss-sha256:message:hello",
            ),
            ("sign prod/alice --digest", "default:digest:hello"),
            ("sign prod/alice --format jws", "default-jws:message:hello"),
            ("mac prod/m", "olleh"),
            ("derive prod/d --len 3 --info x", "xxx"),
            ("get prod/alice", "\0\u{1}\u{2}"),
            (
                "hot prod",
                "\
KEY        SHARD  REQUESTS  PER SECOND  WAITERS  REHYDRATE MS   SHARE
alice          1     ~4800       ~53.3        9         1.250  ~80.0%
tenants/7      0      ~320        ~3.6        -        ~0.080   ~5.3%
in the last 1 min 30 s: 6000 requests, 12 waiters and 1.400 ms of rehydration in all
unlisted keys: at most 1 request each
requests are estimates: one in 16, chosen at random, was counted
",
            ),
            (
                "hot prod --by waiters",
                "\
KEY        SHARD  REQUESTS  PER SECOND  WAITERS  REHYDRATE MS  SHARE
alice          1      4801        53.3        9         1.250  75.0%
tenants/7      0      ~320        ~3.6        -        ~0.080      -
in the last 1 min 30 s: 6000 requests, 12 waiters and 1.400 ms of rehydration in all
unlisted keys: at most 1 waiter each
",
            ),
            (
                "hot prod --by rehydrate-time",
                "in the last 1 min 30 s: 0 requests, 0 waiters and 0.000 ms of rehydration in all\n",
            ),
            ("lock prod", "prod: locked\n"),
            (
                "unlock prod",
                "prod: unlock started (ticket 42)\n\
                 follow it with: keyway unlock prod --ticket 42 --wait\n",
            ),
            (
                "unlock prod --wait",
                "prod: unlocked, 3 keys loaded again\n",
            ),
            (
                "status",
                "\
keywayd 0.1.0, pid 7, 2 shards

KMS    PROVIDER  STATE     CALLS IN FLIGHT  RATE LEFT  RETRIES LEFT  BREAKER  CALLS/H FORECAST
local  local     unlocked                0         10             5  closed               12.2

KMS    KEYSPACE  OPERATION  OUTCOME  CALLS
local  prod      unwrap     ok           1

no keyspaces

no shards
",
            ),
        ],
    );
}

#[test]
fn documents_for_scripts() {
    golden(
        &Server::start(),
        &[
            (
                "--json keyspace create staging",
                "{\"id\":7,\"keyspace\":\"staging\"}\n",
            ),
            (
                "keyspace set prod max_in_flight=0 --json",
                "{\"keyspace\":\"prod\",\"set\":{\"max_in_flight\":\"0\"}}\n",
            ),
            (
                "keyspace set prod max_in_flight=0 --for 90s --json",
                "{\"for_ms\":90000,\"keyspace\":\"prod\",\"set\":{\"max_in_flight\":\"0\"}}\n",
            ),
            (
                "keyspace history prod --limit 2 --json",
                "{\"changes\":[{\"from\":\"256\",\"to\":\"64\",\"unix_ms\":1795653300000,\
                 \"until_unix_ms\":null,\"what\":\"max_in_flight\",\"who\":\"expired\"},\
                 {\"from\":\"64\",\"to\":\"256\",\"unix_ms\":1795652400000,\
                 \"until_unix_ms\":1795653300000,\"what\":\"max_in_flight\",\
                 \"who\":\"uid:1000\"}],\"keyspace\":\"prod\"}\n",
            ),
            (
                "hot prod --by rehydrate-time --limit 5 --json",
                "{\"by\":\"rehydrate-time\",\"keys\":[],\"keyspace\":\"prod\",\
                 \"requests_counted_one_in\":1,\"totals\":{\"rehydrate_us\":0,\"requests\":0,\
                 \"waiters\":0},\"unlisted_max\":1,\"window_ms\":90000}\n",
            ),
            (
                "keyspace list staging --json",
                "{\"keyspaces\":[{\"allow\":{},\"generation\":null,\"id\":7,\"kms\":null,\
                 \"locked\":true,\"name\":\"staging\",\"overrides\":{},\"reseal\":null,\"retired_deks\":null,\
                 \"settings\":{}}]}\n",
            ),
            (
                "key generate prod/alice --alg ed25519 --json",
                "{\"key\":\"alice\",\"key_age_ms\":0,\"keyspace\":\"prod\",\"stale\":false,\
                 \"version\":1}\n",
            ),
            (
                "key list prod --json",
                "{\"keys\":[\
                 {\"algorithm\":\"ed25519\",\"key\":\"alice\",\"oldest_version\":1,\"revoked_versions\":[],\
                 \"state\":\"active\",\"version\":1},\
                 {\"algorithm\":null,\"key\":\"bob\",\"oldest_version\":null,\"revoked_versions\":null,\
                 \"state\":\"revoked\",\"version\":2},\
                 {\"algorithm\":null,\"key\":\"torn\",\"oldest_version\":null,\"revoked_versions\":null,\
                 \"state\":\"damaged\",\"version\":3},\
                 {\"algorithm\":\"ed25519\",\"key\":\"zoe\",\"oldest_version\":6,\"revoked_versions\":[7,9],\
                 \"state\":\"active\",\"version\":12}],\
                 \"keyspace\":\"prod\"}\n",
            ),
            (
                "sign prod/alice --json",
                "{\"key\":\"alice\",\"key_age_ms\":250,\"keyspace\":\"prod\",\
                 \"signature\":\"ZGVmYXVsdDptZXNzYWdlOmhlbGxv\",\"stale\":true,\"version\":3}\n",
            ),
            (
                "get prod/alice --json",
                "{\"key\":\"alice\",\"key_age_ms\":250,\"keyspace\":\"prod\",\
                 \"secret\":\"AAEC\",\"stale\":true,\"version\":3}\n",
            ),
            (
                "public prod/alice --json",
                "{\"key\":\"alice\",\"key_age_ms\":250,\"keyspace\":\"prod\",\
                 \"public_key_pem\":\"-----BEGIN PUBLIC KEY-----\\nAAEC\\n-----END PUBLIC KEY-----\
                 \\n\",\"stale\":true,\"version\":3}\n",
            ),
            (
                "lock prod --json",
                "{\"keyspace\":\"prod\",\"locked\":true}\n",
            ),
            (
                "unlock prod --json --wait=1m",
                "{\"keys_reloaded\":3,\"keyspace\":\"prod\",\"message\":\"\",\"state\":\"done\",\
                 \"ticket\":42}\n",
            ),
        ],
    );
}

#[test]
fn what_is_encrypted_comes_back_with_the_same_associated_data() {
    let server = Server::start();
    let sealed = server.keyway_with("encrypt prod/e --aad hex:0102", b"plain");
    assert_eq!(code(&sealed), 0, "{}", err(&sealed));
    let opened = server.keyway_with("decrypt prod/e --aad hex:0102", &sealed.stdout);
    assert_eq!(out(&opened), "plain");
}

#[test]
fn files_are_read_and_written_where_they_are_named() {
    let server = Server::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    fs::write(path("msg"), "hello").unwrap();
    fs::write(path("good"), "good").unwrap();
    let args = format!("sign prod/alice --in {} --out {}", path("msg"), path("sig"));
    let signed = server.keyway(&args);
    assert_eq!((code(&signed), out(&signed)), (0, ""));
    assert_eq!(fs::read(path("sig")).unwrap(), b"default:message:hello");

    let args = format!("verify prod/alice --in {} --sig", path("msg"));
    let verified = server.keyway(&format!("{args} {}", path("good")));
    let text = "Verified OK (version 2)\n";
    assert_eq!((code(&verified), out(&verified)), (0, text));
    let refused = server.keyway(&format!("{args} {}", path("sig")));
    assert_eq!(
        (code(&refused), out(&refused)),
        (1, "Verification failed\n")
    );
    assert_eq!(err(&refused), "");
    let refused = server.keyway(&format!("{args} {} --json", path("sig")));
    let text = "{\"key\":\"alice\",\"keyspace\":\"prod\",\"verified\":false}\n";
    assert_eq!((code(&refused), out(&refused)), (1, text));
}

#[test]
fn settings_reach_the_server_as_they_were_written() {
    let server = Server::start();
    let set = "keyspace set prod maxInFlight=0 refreshWindow=1000 allow:uid:1000=sign,verify";
    assert_eq!(code(&server.keyway(set)), 0);
    assert_eq!(
        server.state.lock().unwrap().settings,
        ["maxInFlight=0\nrefreshWindow=1000\nallow:uid:1000=sign,verify\n"]
    );
    let set = "keyspace set prod maxInFlight=0 --for 1h";
    assert_eq!(code(&server.keyway(set)), 0);
    assert_eq!(
        server.state.lock().unwrap().settings[1],
        "maxInFlight=0\nfor_ms=3600000\n"
    );
    for bad in ["0s", "soon", "1.5h"] {
        let refused = server.keyway(&format!("keyspace set prod maxInFlight=0 --for {bad}"));
        assert_eq!(code(&refused), 2, "{bad}");
        assert!(err(&refused).contains("--for"), "{}", err(&refused));
    }
}

#[test]
fn what_goes_back_by_itself_is_listed_with_its_end() {
    let server = Server::with(State {
        overrides: r#""max_in_flight":{"until_unix_ms":1795652400000,"then":"5"},
            "allow:uid:9":{"until_unix_ms":1795652401000,"then":"sign"}"#,
        ..State::default()
    });
    let list = server.keyway("keyspace list prod");
    let expected = "\
keyspace prod, id 1, unlocked, KMS local, DEK generation 2
SETTING         VALUE
dek_lease_ms    3600000
hard_ttl_ms     3600000
max_in_flight   64 until 2026-11-26T00:20:00Z, then 5
soft_ttl_ms     600000
allow:uid:1000  sign,verify
allow:uid:9     none until 2026-11-26T00:20:01Z, then sign
";
    assert_eq!(out(&list), expected);
    let list = server.keyway("keyspace list");
    let below = "\
prod: allow:uid:9 none until 2026-11-26T00:20:01Z, then sign
prod: max_in_flight 64 until 2026-11-26T00:20:00Z, then 5
";
    assert!(out(&list).ends_with(below), "{}", out(&list));
}

#[test]
fn an_unlock_is_followed_until_it_is_done_has_failed_or_takes_too_long() {
    let server = Server::with(State {
        pending: 2,
        ..State::default()
    });
    let done = server.keyway("unlock prod --wait");
    assert_eq!(
        (code(&done), out(&done)),
        (0, "prod: unlocked, 3 keys loaded again\n")
    );
    let failed = server.keyway("unlock prod --ticket 1 --wait");
    assert_eq!((code(&failed), out(&failed)), (1, ""));
    assert!(
        err(&failed).contains("wrong passphrase"),
        "{}",
        err(&failed)
    );

    let server = Server::with(State {
        pending: u32::MAX,
        ..State::default()
    });
    let pending = server.keyway("unlock prod --wait=1ms");
    assert_eq!(code(&pending), 4);
    assert!(err(&pending).contains("`keyway unlock prod --ticket 42 --wait`"));
}

#[test]
fn exit_codes_and_messages_say_whose_turn_it_is() {
    let server = Server::start();
    for (args, exit, told) in [
        (
            "sign prod/forbidden",
            1,
            "sign prod/forbidden: forbidden: uid:1000 may not sign in prod",
        ),
        ("sign nowhere/alice", 1, "no keyspace \"nowhere\""),
        ("keyspace list nowhere", 1, "no keyspace nowhere"),
        (
            "sign prod/alice --in missing-file",
            2,
            "cannot read missing-file",
        ),
        ("sign alice", 2, "write KEYSPACE/KEY, as in prod/alice"),
        ("decrypt prod/e", 2, "decrypt prod/e"),
        ("verify prod/alice --sig -", 2, "standard input"),
        (
            "sign prod/locked",
            4,
            "the keyspace needs to be unlocked (ticket 42)\n  \
             run `keyway unlock prod --wait`, then try again",
        ),
        ("sign prod/unavailable", 4, "try again in 60s"),
        ("key revoke prod/gone", 3, "may still have been made"),
    ] {
        let output = server.keyway(args);
        assert_eq!(code(&output), exit, "{args}: {}", err(&output));
        assert!(err(&output).contains(told), "{args}: {}", err(&output));
        assert_eq!(out(&output), "", "{args}");
    }
    let too_long = server.keyway_with("sign prod/alice", &[0; 65_537]);
    assert_eq!(code(&too_long), 2);
    assert!(err(&too_long).contains("--digest"));
}

#[test]
fn errors_are_documents_too_if_json_is_asked_for() {
    let output = Server::start().keyway("sign prod/locked --json");
    assert_eq!(
        err(&output),
        "{\"error\":{\"exit_code\":4,\"message\":\"sign prod/locked: the keyspace needs to be \
         unlocked (ticket 42)\",\"remedy\":\"run `keyway unlock prod --wait`, then try again\",\
         \"status\":\"needs_unlock\",\"ticket\":42}}\n"
    );
    assert_eq!(out(&output), "");
}

#[test]
fn a_server_that_nobody_can_reach_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let addr = format!("unix:{}", folder.path().join("none.sock").display());
    let output = keyway().args(["status", "--addr", &addr]).output().unwrap();
    assert_eq!(code(&output), 3);
    assert!(err(&output).contains(&format!("cannot reach {addr}")));
    assert!(err(&output).contains("KEYWAY_ADDR"));
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let server = Server::start();
    for args in ["key list prod", "sign prod/alice", "status --json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = server.command(args);
        let output = command
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert_eq!((code(&output), err(&output)), (0, ""), "{args}");
    }
}

/// The words of a server went to the terminal with the escape sequences in them, and with line ends,
/// behind which anything could stand.
#[test]
fn nothing_that_a_server_sends_acts_on_the_terminal() {
    let server = Server::start();
    for args in [
        "key revoke prod/hostile",
        "sign prod/hostile",
        "key revoke prod/hostile --json",
        "public prod/hostile --json",
    ] {
        let output = server.keyway(args);
        assert_eq!(code(&output), 1, "{args}: {}", err(&output));
        let shown = format!("{}{}", out(&output), err(&output));
        assert!(shown.contains("owned"), "{args}: {shown}");
        let acts = |char: char| char != '\n' && (char.is_control() || char == '\u{202e}');
        assert!(!shown.chars().any(acts), "{args}: {shown:?}");
        assert!(!shown.lines().any(|line| line == "keyway: done"), "{args}");
    }
}

/// Hexadecimal text, base64 and line ends were taken for the secret in silence.
#[test]
fn a_raw_secret_is_what_it_is_named_and_else_it_is_asked() {
    let server = Server::start();
    let import = |args: &str, input: &[u8]| {
        let line = format!("key import prod/{args} --alg hmac-sha256");
        server.keyway_with(&line, input)
    };
    let hex = b"000102030405060708090a0b0c0d0e0f\n";
    for format in ["", " --format raw"] {
        let refused = import(&format!("a{format}"), hex);
        assert_eq!(code(&refused), 2);
        let told = err(&refused);
        assert!(
            told.contains("32 characters of hex and a line end"),
            "{told}"
        );
        assert!(told.contains("--encoding hex") && told.contains("--encoding raw"));
        assert!(!told.contains("0a0b"), "{told}");
    }
    assert!(server.state.lock().unwrap().keys.is_empty());
    for (index, encoding) in ["hex", "raw", "base64"].into_iter().enumerate() {
        let done = import(&format!("a{index} --encoding {encoding}"), hex);
        assert_eq!(code(&done), 0, "{}", err(&done));
    }
    // PEM and JWKs are the server's to read.
    for document in [&b"-----BEGIN X-----\n"[..], b"{\"kty\":\"oct\"}\n"] {
        assert_eq!(code(&import("doc", document)), 0);
        server.state.lock().unwrap().keys.clear();
    }
}

/// "Resource temporarily unavailable" was what a server that does not answer was called.
#[test]
fn a_server_that_says_nothing_is_told_as_that() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let output = keyway()
        .args(["--addr", &addr.to_string(), "--timeout", "200ms", "status"])
        .output()
        .unwrap();
    assert_eq!(code(&output), 3);
    let told = err(&output);
    assert!(told.contains("no answer in the time allowed"), "{told}");
    assert!(told.contains("--timeout"), "{told}");
    let output = keyway()
        .args(["--addr", &addr.to_string(), "status"])
        .env("KEYWAY_TIMEOUT", "200ms")
        .output()
        .unwrap();
    assert!(err(&output).contains("no answer in the time allowed"));
    let invalid = keyway()
        .arg("status")
        .env("KEYWAY_TIMEOUT", "soon")
        .output()
        .unwrap();
    assert_eq!(code(&invalid), 2);
    let path = format!("unix:/tmp/{}", "x".repeat(120));
    let output = keyway().args(["--addr", &path, "status"]).output().unwrap();
    assert!(err(&output).contains("at most 107 bytes, and this one has 125"));
}

#[test]
fn a_digest_of_another_length_than_the_schemes_is_told_with_both() {
    let server = Server::start();
    let args = "sign prod/a --scheme ecdsa-sha384 --digest";
    let refused = server.keyway_with(args, &[7; 32]);
    assert_eq!(code(&refused), 2);
    let told = err(&refused);
    assert!(
        told.contains("a digest of 32 bytes, and ecdsa-sha384 takes 48"),
        "{told}"
    );
    assert_eq!(code(&server.keyway_with(args, &[7; 48])), 0);
}
