//! Operations with OpenSSL as a second opinion, refusals and their statuses, versions, ages, expiry.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::common::{Server, Setup, ask, has_program, past_the_start};
use keyway_client::blocking::Client;
use keyway_client::{
    Algorithm, Answer, Error, Input, KeyFormat, KeyOptions, KeyPath, KeyState, Scheme, Status,
    Usage,
};
use keyway_protocol::{Hello, InputKind, Octets, Request, ServerHello, Sign, VERSION};

const MESSAGE: &[u8] = b"pay 5 to bob";

fn path(text: &str) -> KeyPath {
    text.parse().unwrap()
}

fn sign(client: &Client, key: &KeyPath) -> Result<Answer<Vec<u8>>, Error> {
    client.sign(key, Scheme::Default, Input::Message(MESSAGE))
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    let error = result.unwrap_err();
    error
        .status()
        .unwrap_or_else(|| panic!("not refused by the server: {error}"))
}

fn generate(client: &Client, key: &str, algorithm: Algorithm) -> KeyPath {
    let key = path(key);
    client
        .key_generate(&key, algorithm, KeyOptions::default())
        .unwrap();
    key
}

/// Runs openssl in `dir`. Returns its output, if it succeeds.
fn openssl(dir: &Path, words: &str) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(words.split(' '))
        .current_dir(dir)
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {words}: {complaint}");
    output.stdout
}

struct Foreign {
    name: &'static str,
    genpkey: &'static str,
    algorithm: Algorithm,
    /// Scheme, the openssl arguments that create or check such a signature, and the hash.
    schemes: &'static [(Scheme, &'static str, Option<&'static str>)],
}

const FOREIGN: [Foreign; 4] = [
    Foreign {
        name: "ed25519",
        genpkey: "-algorithm ED25519",
        algorithm: Algorithm::Ed25519,
        schemes: &[(Scheme::Ed25519, "", None)],
    },
    Foreign {
        name: "p256",
        genpkey: "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        algorithm: Algorithm::EcdsaP256,
        schemes: &[
            (Scheme::EcdsaSha256, " -digest sha256", Some("sha256")),
            (Scheme::EcdsaSha384, " -digest sha384", Some("sha384")),
            (Scheme::EcdsaSha512, " -digest sha512", Some("sha512")),
        ],
    },
    Foreign {
        name: "p384",
        genpkey: "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        algorithm: Algorithm::EcdsaP384,
        schemes: &[
            (Scheme::EcdsaSha256, " -digest sha256", Some("sha256")),
            (Scheme::EcdsaSha384, " -digest sha384", Some("sha384")),
            (Scheme::EcdsaSha512, " -digest sha512", Some("sha512")),
        ],
    },
    Foreign {
        name: "rsa",
        genpkey: "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        algorithm: Algorithm::Rsa2048,
        schemes: &[
            (Scheme::RsaPkcs1Sha256, " -digest sha256", Some("sha256")),
            (Scheme::RsaPkcs1Sha512, " -digest sha512", Some("sha512")),
            (
                Scheme::RsaPssSha256,
                " -digest sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest",
                Some("sha256"),
            ),
            (
                Scheme::RsaPssSha384,
                " -digest sha384 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest",
                Some("sha384"),
            ),
        ],
    },
];

#[test]
fn openssl_and_the_server_accept_each_others_signatures() {
    if !has_program("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let at = dir.path();
    std::fs::write(at.join("msg"), MESSAGE).unwrap();
    for foreign in &FOREIGN {
        let name = foreign.name;
        openssl(at, &format!("genpkey {} -out {name}.pem", foreign.genpkey));
        openssl(
            at,
            &format!("pkcs8 -topk8 -nocrypt -in {name}.pem -outform DER -out {name}.der"),
        );
        openssl(at, &format!("pkey -in {name}.pem -pubout -out {name}.pub"));
        let public = openssl(at, &format!("pkey -in {name}.pem -pubout -outform DER"));
        let forms = [
            ("pem", KeyFormat::Pem, Some(foreign.algorithm)),
            ("der", KeyFormat::Pkcs8Der, Some(foreign.algorithm)),
            ("pem", KeyFormat::Detect, None),
            ("der", KeyFormat::Detect, None),
        ];
        for (number, (extension, format, algorithm)) in forms.into_iter().enumerate() {
            let material = std::fs::read(at.join(format!("{name}.{extension}"))).unwrap();
            let key = path(&format!("prod/{name}-{number}"));
            client
                .key_import(&key, algorithm, KeyOptions::default(), format, &material)
                .unwrap();
            assert_eq!(client.public_key(&key, 0).unwrap().value, public, "{key}");
            if foreign.name.starts_with('p') {
                let input = Input::Message(MESSAGE);
                let jws = client.sign(&key, Scheme::DefaultJws, input).unwrap().value;
                assert!(matches!(jws.len(), 64 | 96), "r and s: {}", jws.len());
                client
                    .verify(&key, Scheme::DefaultJws, input, &jws, 0)
                    .unwrap();
                let as_der = client.verify(&key, Scheme::Default, input, &jws, 0);
                assert_eq!(refused(as_der), Status::Mismatch);
            }
            for (scheme, words, hash) in foreign.schemes {
                let signed = client
                    .sign(&key, *scheme, Input::Message(MESSAGE))
                    .unwrap()
                    .value;
                std::fs::write(at.join("sig"), signed).unwrap();
                let check = format!(
                    "pkeyutl -verify -rawin -pubin -inkey {name}.pub -in msg -sigfile sig{words}"
                );
                openssl(at, &check);
                openssl(
                    at,
                    &format!("pkeyutl -sign -rawin -inkey {name}.pem -in msg -out theirs{words}"),
                );
                let theirs = std::fs::read(at.join("theirs")).unwrap();
                client
                    .verify(&key, *scheme, Input::Message(MESSAGE), &theirs, 0)
                    .unwrap();
                let other = client.verify(&key, *scheme, Input::Message(b"other"), &theirs, 0);
                assert_eq!(refused(other), Status::Mismatch);
                if let Some(hash) = hash {
                    let digest = openssl(at, &format!("dgst -{hash} -binary msg"));
                    let signed = client
                        .sign(&key, *scheme, Input::Digest(&digest))
                        .unwrap()
                        .value;
                    std::fs::write(at.join("sig"), signed).unwrap();
                    openssl(at, &check);
                    client
                        .verify(&key, *scheme, Input::Digest(&digest), &theirs, 0)
                        .unwrap();
                    let short = client.sign(&key, *scheme, Input::Digest(&digest[1..]));
                    assert_eq!(refused(short), Status::BadRequest);
                }
            }
        }
    }
}

#[test]
fn macs_agree_with_openssl() {
    if !has_program("openssl") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    std::fs::write(dir.path().join("msg"), MESSAGE).unwrap();
    for (algorithm, hash) in [
        (Algorithm::HmacSha256, "sha256"),
        (Algorithm::HmacSha384, "sha384"),
        (Algorithm::HmacSha512, "sha512"),
    ] {
        let key = path(&format!("prod/{hash}"));
        let secret = [0x5a; 64];
        let options = KeyOptions::default();
        client
            .key_import(&key, Some(algorithm), options, KeyFormat::Raw, &secret)
            .unwrap();
        let hex = "5a".repeat(secret.len());
        let words = format!("dgst -{hash} -mac HMAC -macopt hexkey:{hex} -binary msg");
        assert_eq!(
            client.mac(&key, MESSAGE).unwrap().value,
            openssl(dir.path(), &words)
        );
    }
}

#[test]
fn what_a_key_cannot_or_may_not_do_is_refused_with_a_clear_status() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let signer = generate(&client, "prod/signer", Algorithm::Ed25519);
    let mac = generate(&client, "prod/mac", Algorithm::HmacSha256);
    let sealer = generate(&client, "prod/sealer", Algorithm::Aes256Gcm);
    let deriver = generate(&client, "prod/deriver", Algorithm::HkdfSha256);
    let sealed = client.encrypt(&sealer, b"", MESSAGE).unwrap().value;
    for key in [&mac, &sealer, &deriver] {
        assert_eq!(refused(sign(&client, key)), Status::Unsupported, "{key}");
        assert_eq!(
            refused(client.public_key(key, 0)),
            Status::Unsupported,
            "{key}"
        );
    }
    for key in [&signer, &mac, &deriver] {
        assert_eq!(
            refused(client.encrypt(key, b"", MESSAGE)),
            Status::Unsupported,
            "{key}"
        );
        assert_eq!(
            refused(client.decrypt(key, b"", &sealed)),
            Status::Unsupported,
            "{key}"
        );
    }
    for key in [&signer, &sealer, &deriver] {
        assert_eq!(
            refused(client.mac(key, MESSAGE)),
            Status::Unsupported,
            "{key}"
        );
    }
    for key in [&signer, &mac, &sealer] {
        assert_eq!(
            refused(client.derive(key, b"", b"", 32)),
            Status::Unsupported,
            "{key}"
        );
    }
    let scheme = client.sign(&signer, Scheme::RsaPssSha256, Input::Message(MESSAGE));
    assert_eq!(refused(scheme), Status::Unsupported);
    let digest = client.sign(&signer, Scheme::Ed25519, Input::Digest(&[0; 32]));
    assert_eq!(refused(digest), Status::Unsupported);
    assert_eq!(refused(client.get(&signer, 0)), Status::Forbidden);
    assert_eq!(refused(client.get(&mac, 0)), Status::Forbidden);

    let verifier = path("prod/verifier");
    let options = KeyOptions {
        usage: Usage::VERIFY,
        ..KeyOptions::default()
    };
    client
        .key_generate(&verifier, Algorithm::Ed25519, options)
        .unwrap();
    assert_eq!(refused(sign(&client, &verifier)), Status::Forbidden);
    let message = Input::Message(MESSAGE);
    let verified = client.verify(&verifier, Scheme::Default, message, &[0; 64], 0);
    assert_eq!(refused(verified), Status::Mismatch);

    assert_eq!(
        refused(sign(&client, &path("prod/nobody"))),
        Status::NotFound
    );
    assert_eq!(
        refused(sign(&client, &path("nowhere/nobody"))),
        Status::NoKeyspace
    );
    let again = client.key_generate(&signer, Algorithm::Ed25519, KeyOptions::default());
    assert_eq!(refused(again), Status::Conflict);
    assert_eq!(
        refused(client.key_rotate(&path("prod/nobody"), None)),
        Status::NotFound
    );
    assert_eq!(
        refused(client.key_revoke(&path("prod/nobody"))),
        Status::NotFound
    );
}

#[test]
fn a_revoked_key_stays_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let key = generate(&client, "prod/alice", Algorithm::Ed25519);
    let other = generate(&client, "prod/bob", Algorithm::Ed25519);
    let signed = sign(&client, &key).unwrap().value;
    client.key_revoke(&key).unwrap();
    let check = |client: &Client| {
        past_the_start(|| sign(client, &other)).unwrap();
        let used = past_the_start(|| sign(client, &key));
        assert_eq!(refused(used), Status::Revoked);
        let verified = client.verify(&key, Scheme::Default, Input::Message(MESSAGE), &signed, 0);
        assert_eq!(refused(verified), Status::Revoked);
        assert_eq!(refused(client.public_key(&key, 0)), Status::Revoked);
        assert_eq!(refused(client.key_rotate(&key, None)), Status::Revoked);
        let again = client.key_generate(&key, Algorithm::Ed25519, KeyOptions::default());
        assert!(matches!(refused(again), Status::Revoked | Status::Conflict));
        assert!(sign(client, &other).is_ok());
        let listed = client.key_list(&key.keyspace).unwrap();
        let state = |key: &KeyPath| listed.iter().find(|row| row.key_id == key.key_id);
        assert_eq!(state(&key).map(|row| row.state), Some(KeyState::Revoked));
        assert_eq!(state(&other).map(|row| row.state), Some(KeyState::Active));
    };
    check(&client);
    server.kill();
    let server = setup.start();
    check(&server.client());
    server.stop();
    check(
        &Setup::new(&dir.path().join("data"))
            .shards(1)
            .start()
            .client(),
    );
}

/// REVOKE stopped the key's use immediately, before it checked whether the key exists. For a missing key it returned
/// NOT_FOUND, and left a revocation: afterwards every client got REVOKED, and a key created under that name could not be
/// used until the server was restarted.
#[test]
fn key_created_after_revoking_a_missing_key_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let client = server.client();
    let key = path("prod/alice");
    assert_eq!(refused(client.key_revoke(&key)), Status::NotFound);
    assert_eq!(refused(sign(&client, &key)), Status::NotFound);
    assert_eq!(refused(client.force_refresh(&key)), Status::NotFound);
    generate(&client, "prod/alice", Algorithm::Ed25519);
    assert_eq!(sign(&client, &key).unwrap().key_version, 1);
    client.key_revoke(&key).unwrap();
    assert_eq!(refused(sign(&client, &key)), Status::Revoked);
}

#[test]
fn the_newest_version_signs_and_older_ones_still_verify_and_decrypt() {
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(2);
    let server = setup.start();
    let client = server.client();
    let signer = generate(&client, "prod/signer", Algorithm::Ed25519);
    let sealer = generate(&client, "prod/sealer", Algorithm::ChaCha20Poly1305);
    let mac = generate(&client, "prod/mac", Algorithm::HmacSha256);
    let message = Input::Message(MESSAGE);
    let mut signatures = vec![sign(&client, &signer).unwrap().value];
    let sealed = client.encrypt(&sealer, b"", MESSAGE).unwrap().value;
    let tag = client.mac(&mac, MESSAGE).unwrap().value;
    for key in [&sealer, &mac] {
        assert_eq!(client.key_rotate(key, None).unwrap().key_version, 2);
    }
    assert_eq!(
        client.encrypt(&sealer, b"", MESSAGE).unwrap().key_version,
        2
    );
    assert_ne!(client.mac(&mac, MESSAGE).unwrap().value, tag);
    // A ninth version used to drop the first.
    for version in 2..=9 {
        // The last is imported.
        let material = (version == 9).then_some((KeyFormat::Raw, &[9; 32][..]));
        assert_eq!(
            client.key_rotate(&signer, material).unwrap().key_version,
            version
        );
        let signed = sign(&client, &signer).unwrap();
        assert_eq!(signed.key_version, version);
        signatures.push(signed.value);
    }
    let check = |client: &Client| {
        // Each of them may be the first to be used on its shard.
        for key in [&signer, &sealer, &mac] {
            past_the_start(|| client.force_refresh(key)).unwrap();
        }
        assert_eq!(sign(client, &signer).unwrap().value, signatures[8]);
        for (version, signature) in (1u32..).zip(&signatures) {
            let any = client.verify(&signer, Scheme::Default, message, signature, 0);
            let exact = client.verify(&signer, Scheme::Default, message, signature, version);
            assert_eq!(any.unwrap().key_version, version);
            assert_eq!(exact.unwrap().key_version, version);
            let other = client.verify(
                &signer,
                Scheme::Default,
                message,
                signature,
                1 + version % 9,
            );
            assert_eq!(refused(other), Status::Mismatch);
        }
        let opened = client.decrypt(&sealer, b"", &sealed).unwrap();
        assert_eq!((&*opened.value, opened.key_version), (MESSAGE, 1));
        assert_eq!(
            client.verify_mac(&mac, MESSAGE, &tag).unwrap().key_version,
            1
        );
        assert_ne!(
            client.public_key(&signer, 8).unwrap().value,
            client.public_key(&signer, 9).unwrap().value
        );
    };
    check(&client);
    server.kill();
    check(&setup.start().client());
}

#[test]
fn a_request_whose_deadline_has_passed_is_not_carried_out() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    // It has not been used yet, so it must be read first, which takes longer than 1 us.
    let key = generate(&client, "prod/cold", Algorithm::Ed25519);
    let mut stream = std::net::TcpStream::connect(server.shard_address(0)).unwrap();
    let hello = Hello {
        version_min: VERSION,
        version_max: VERSION,
        client_name: "late",
    };
    let answer = ask(&mut stream, &Request::Hello(hello), 0, b"", 0);
    let keyspace = ServerHello::decode(&answer.1).unwrap().keyspaces[0].id;
    let input = Octets(MESSAGE);
    let request = Request::Sign(Sign {
        scheme: Scheme::Default,
        kind: InputKind::Message,
        input,
    });
    let (status, text) = ask(&mut stream, &request, keyspace, key.key_id.as_bytes(), 1);
    assert_eq!(
        status,
        Status::DeadlineExceeded,
        "{}",
        String::from_utf8_lossy(&text)
    );
    // The connection and the key are not affected.
    let (status, _) = ask(
        &mut stream,
        &request,
        keyspace,
        key.key_id.as_bytes(),
        60_000_000,
    );
    assert!(matches!(status, Status::Ok | Status::Retry), "{status:?}");
    sign(&client, &key).unwrap();
}

#[test]
fn a_key_past_its_not_after_is_invalid() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let key = path("prod/short-lived");
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap();
    // Long enough for generating the key: on a slow machine more than 2 s.
    let not_after_unix_ms = [2_000, 20_000, 200_000].into_iter().find_map(|life_ms| {
        let not_after_unix_ms = u64::try_from(now().as_millis()).unwrap() + life_ms;
        let options = KeyOptions {
            not_after_unix_ms,
            ..KeyOptions::default()
        };
        let made = client.key_generate(&key, Algorithm::Ed25519, options);
        made.ok().map(|_| not_after_unix_ms)
    });
    let not_after_unix_ms = not_after_unix_ms.expect("a key that is to live for 200 s is made");
    let refusal = loop {
        let Err(error) = sign(&client, &key) else {
            continue;
        };
        break error;
    };
    assert_eq!(refusal.status(), Some(Status::Invalid), "{refusal}");
    let now = now();
    assert!(
        now >= Duration::from_millis(not_after_unix_ms),
        "refused before its time"
    );
    assert_eq!(refused(sign(&client, &key)), Status::Invalid);
    assert_eq!(refused(client.public_key(&key, 0)), Status::Invalid);
    assert_eq!(refused(client.key_rotate(&key, None)), Status::BadRequest);
}

#[test]
fn ages_grow_and_a_forced_refresh_starts_them_anew() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let key = generate(&client, "prod/alice", Algorithm::Ed25519);
    let mut age_ms = sign(&client, &key).unwrap().key_age_ms;
    let loaded_by = Instant::now();
    while age_ms < 50 {
        let answer = sign(&client, &key).unwrap();
        assert!(
            answer.key_age_ms >= age_ms,
            "{} after {age_ms}",
            answer.key_age_ms
        );
        assert!(!answer.stale);
        age_ms = answer.key_age_ms;
    }
    let idle = Duration::from_millis(60);
    std::thread::sleep(idle);
    let since = loaded_by.elapsed().as_millis();
    assert!(u128::from(sign(&client, &key).unwrap().key_age_ms) >= since);
    let began = Instant::now();
    assert_eq!(client.force_refresh(&key).unwrap().key_version, 1);
    let age_ms = sign(&client, &key).unwrap().key_age_ms;
    assert!(
        u128::from(age_ms) <= began.elapsed().as_millis(),
        "{age_ms} ms: not reloaded"
    );
    assert_eq!(
        refused(client.force_refresh(&path("prod/nobody"))),
        Status::NotFound
    );
}

#[test]
fn a_stale_key_is_served_with_its_mark_where_that_is_wished() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 1);
    let client = server.client();
    let settings = |on_soft_expiry| {
        [
            ("soft_ttl_ms", "200"),
            ("hard_ttl_ms", "3600000"),
            ("jitter_pct", "0"),
            ("max_in_flight", "0"),
            ("sign_wait_budget_us", "1000000"),
            ("on_soft_expiry", on_soft_expiry),
        ]
    };
    let serving = "serving".parse().unwrap();
    client
        .keyspace_create(&serving, &settings("serve_stale"))
        .unwrap();
    client
        .keyspace_create(&"waiting".parse().unwrap(), &settings("wait"))
        .unwrap();
    let serving = generate(&client, "serving/key", Algorithm::Ed25519);
    let waiting = generate(&client, "waiting/key", Algorithm::Ed25519);
    let first = sign(&client, &serving).unwrap();
    let mut stale = 0;
    let mut fresh_after_stale = false;
    let mut waited_in_vain = 0;
    // The age is taken after the operation, which may have begun before the soft TTL ended; only the caller knows how
    // long ago at most.
    let timed_sign = |key: &KeyPath| {
        let began = Instant::now();
        let answer = sign(&client, key).unwrap();
        let age_ms = u128::from(answer.key_age_ms);
        let fresh_ms_max = 200 + began.elapsed().as_millis() + 1;
        let is_right = age_ms >= 200 && answer.stale || age_ms <= fresh_ms_max && !answer.stale;
        assert!(is_right, "{age_ms} ms, stale: {}", answer.stale);
        answer
    };
    while stale < 3 || !fresh_after_stale {
        let answer = timed_sign(&serving);
        assert_eq!(answer.value, first.value);
        stale += u32::from(answer.stale);
        fresh_after_stale |= stale > 0 && !answer.stale;
        // With the policy to wait nothing stale is served, unless the load took longer than the wait budget.
        waited_in_vain += u32::from(timed_sign(&waiting).stale);
    }
    let timeouts = "singleflight_wait_timeout_total{keyspace=\"waiting\"}";
    server.wait_for_metric(timeouts, |count| count >= f64::from(waited_in_vain));
}
