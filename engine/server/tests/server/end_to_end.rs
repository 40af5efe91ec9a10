//! Every operation over the wire: the same answers at any shard count and on every path.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use crate::common::{Server, Setup, past_the_start};
use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Input, KeyFormat, KeyOptions, KeyPath, Scheme, Status};
use keyway_protocol::{
    Derive, Hello, InputKind, Octets, Request, RequestFrame, ResponseFlags, ResponseFrame,
    ServerHello, Sign, VERSION,
};

const MESSAGE: &[u8] = b"the message";
const AAD: &[u8] = b"associated data";

/// Keys of each fast algorithm, so that every shard of four owns some.
const KEYS_EACH: usize = 6;

const EXPORTABLE: KeyOptions = KeyOptions {
    exportable: true,
    usage: keyway_client::Usage::NONE,
    not_after_unix_ms: 0,
};

const ALGORITHMS: [Algorithm; 12] = [
    Algorithm::Ed25519,
    Algorithm::EcdsaP256,
    Algorithm::EcdsaP384,
    Algorithm::Rsa2048,
    Algorithm::Rsa3072,
    Algorithm::Rsa4096,
    Algorithm::HmacSha256,
    Algorithm::HmacSha384,
    Algorithm::HmacSha512,
    Algorithm::Aes256Gcm,
    Algorithm::ChaCha20Poly1305,
    Algorithm::HkdfSha256,
];

fn path(text: &str) -> KeyPath {
    text.parse().unwrap()
}

fn is_rsa(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096
    )
}

/// Returns every key of a test and its algorithm.
fn keys() -> Vec<(KeyPath, Algorithm)> {
    let mut keys = Vec::new();
    for algorithm in ALGORITHMS {
        let count = if is_rsa(algorithm) { 1 } else { KEYS_EACH };
        for number in 0..count {
            keys.push((
                path(&format!("prod/{}-{number}", algorithm.name())),
                algorithm,
            ));
        }
    }
    keys
}

fn generate_all(client: &Client) {
    for (key, algorithm) in keys() {
        let made = client.key_generate(&key, algorithm, EXPORTABLE).unwrap();
        assert_eq!(made.key_version, 1, "{key}");
    }
}

/// Returns the answers that do not change while the key does not: by name, the bytes.
fn lasting_answers(client: &Client) -> BTreeMap<String, Vec<u8>> {
    let mut answers = BTreeMap::new();
    for (key, algorithm) in keys() {
        let mut note =
            |what: &str, bytes: &[u8]| answers.insert(format!("{key} {what}"), bytes.to_vec());
        let secret = past_the_start(|| client.get(&key, 0)).unwrap();
        note("secret", &secret.value);
        match algorithm {
            Algorithm::HmacSha256 | Algorithm::HmacSha384 | Algorithm::HmacSha512 => {
                note("mac", &client.mac(&key, MESSAGE).unwrap().value);
            }
            Algorithm::HkdfSha256 => {
                note(
                    "derived",
                    &client.derive(&key, b"salt", b"info", 77).unwrap().value,
                );
            }
            Algorithm::Aes256Gcm | Algorithm::ChaCha20Poly1305 => {}
            _ => {
                note("public", &client.public_key(&key, 0).unwrap().value);
            }
        }
        let deterministic = match algorithm {
            Algorithm::Ed25519 => Some(Scheme::Ed25519),
            _ if is_rsa(algorithm) => Some(Scheme::RsaPkcs1Sha256),
            _ => None,
        };
        if let Some(scheme) = deterministic {
            let signed = client.sign(&key, scheme, Input::Message(MESSAGE)).unwrap();
            note("signature", &signed.value);
        }
    }
    answers
}

/// Returns answers that differ each time but must remain valid: by key, signature or ciphertext.
fn fleeting_answers(client: &Client) -> Vec<(KeyPath, Vec<u8>)> {
    let mut answers = Vec::new();
    for (key, algorithm) in keys() {
        if algorithm.is_asymmetric() {
            let signed = client
                .sign(&key, Scheme::Default, Input::Message(MESSAGE))
                .unwrap();
            answers.push((key, signed.value));
        } else if algorithm.usages().contains(keyway_client::Usage::ENCRYPT) {
            answers.push((
                key.clone(),
                client.encrypt(&key, AAD, MESSAGE).unwrap().value,
            ));
        }
    }
    answers
}

fn check_fleeting(client: &Client, answers: &[(KeyPath, Vec<u8>)]) {
    for (key, bytes) in answers {
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        if key.key_id.as_str().starts_with("aes") || key.key_id.as_str().starts_with("chacha") {
            assert_eq!(
                &*client.decrypt(key, AAD, bytes).unwrap().value,
                MESSAGE,
                "{key}"
            );
            let refused = client.decrypt(key, b"other data", bytes).unwrap_err();
            assert_eq!(refused.status(), Some(Status::Mismatch), "{key}");
            let refused = client.decrypt(key, AAD, &damaged).unwrap_err();
            assert_eq!(refused.status(), Some(Status::Mismatch), "{key}");
        } else {
            let message = Input::Message(MESSAGE);
            let verified = client
                .verify(key, Scheme::Default, message, bytes, 0)
                .unwrap();
            assert_eq!(verified.key_version, 1, "{key}");
            let other = Input::Message(b"another message");
            let refused = client
                .verify(key, Scheme::Default, other, bytes, 0)
                .unwrap_err();
            assert_eq!(refused.status(), Some(Status::Mismatch), "{key}");
        }
    }
}

#[test]
fn every_key_outlives_changes_of_the_shard_count_with_the_same_answers() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = Setup::new(&data).shards(1).start();
    let client = first.client();
    assert_eq!(client.shard_count(), 1);
    generate_all(&client);
    let lasting = lasting_answers(&client);
    let mut fleeting = fleeting_answers(&client);
    check_fleeting(&client, &fleeting);
    first.stop();
    for shards in [4, 2, 1] {
        let server = Setup::new(&data).shards(shards).start();
        let client = server.client();
        assert_eq!(client.shard_count(), shards);
        assert_eq!(lasting_answers(&client), lasting, "{shards} shards");
        check_fleeting(&client, &fleeting);
        let listed = client.key_list(&"prod".parse().unwrap()).unwrap();
        assert_eq!(listed.len(), keys().len());
        fleeting = fleeting_answers(&client);
        // A crash must not matter: everything acknowledged is on disk.
        server.kill();
    }
}

/// Returns the answers of a server of `shards` with imported secrets.
fn answers_of_imported_keys(shards: u16) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, shards);
    let client = server.client();
    let mut answers = Vec::new();
    for number in 0..8u8 {
        let secret = [number; 32];
        let import = |name: &str, algorithm| {
            let key = path(&format!("prod/{name}-{number}"));
            let options = KeyOptions::default();
            client
                .key_import(&key, Some(algorithm), options, KeyFormat::Raw, &secret)
                .unwrap();
            key
        };
        let key = import("signer", Algorithm::Ed25519);
        let signed = client
            .sign(&key, Scheme::Default, Input::Message(MESSAGE))
            .unwrap();
        client
            .verify(
                &key,
                Scheme::Default,
                Input::Message(MESSAGE),
                &signed.value,
                1,
            )
            .unwrap();
        answers.push(signed.value);
        answers.push(client.public_key(&key, 1).unwrap().value);
        let key = import("mac", Algorithm::HmacSha256);
        let tag = client.mac(&key, MESSAGE).unwrap().value;
        client.verify_mac(&key, MESSAGE, &tag).unwrap();
        answers.push(tag);
        let key = import("derive", Algorithm::HkdfSha256);
        answers.push(
            client
                .derive(&key, b"salt", b"info", 42)
                .unwrap()
                .value
                .to_vec(),
        );
        let key = import("box", Algorithm::Aes256Gcm);
        let sealed = client.encrypt(&key, AAD, MESSAGE).unwrap().value;
        answers.push(client.decrypt(&key, AAD, &sealed).unwrap().value.to_vec());
    }
    answers
}

#[test]
fn servers_with_one_two_and_four_shards_give_the_same_answers() {
    let one = answers_of_imported_keys(1);
    assert_eq!(answers_of_imported_keys(2), one);
    assert_eq!(answers_of_imported_keys(4), one);
}

/// A connection for raw frames.
struct Raw<S> {
    stream: S,
    inbox: Vec<u8>,
    hello: ServerHello,
}

struct RawAnswer {
    status: Status,
    is_forwarded: bool,
    payload: Vec<u8>,
}

impl<S: Read + Write> Raw<S> {
    fn new(stream: S) -> Self {
        let map = keyway_protocol::ShardMap::new([0; 16], vec![0]).unwrap();
        let nobody = ServerHello {
            version: VERSION,
            dev: false,
            more: false,
            this_shard: 0,
            payload_len_max: 0,
            map,
            keyspaces: Vec::new(),
        };
        let mut raw = Raw {
            stream,
            inbox: Vec::new(),
            hello: nobody,
        };
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            client_name: "end-to-end",
        };
        let answer = raw.ask(&Request::Hello(hello), 0, b"");
        assert_eq!(answer.status, Status::Ok);
        raw.hello = ServerHello::decode(&answer.payload).unwrap();
        raw
    }

    fn ask(&mut self, request: &Request<'_>, keyspace_id: u32, key_id: &[u8]) -> RawAnswer {
        let mut payload = Vec::new();
        request.encode_payload(&mut payload).unwrap();
        let frame = RequestFrame {
            code: request.opcode().code(),
            request_id: 7,
            keyspace_id,
            deadline_us: 0,
            key_id: Octets(key_id),
            payload: Octets(&payload),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        loop {
            self.stream.write_all(&bytes).unwrap();
            let answer = self.answer();
            // The key is still being read from the disk.
            if answer.status != Status::Retry {
                return answer;
            }
        }
    }

    fn answer(&mut self) -> RawAnswer {
        loop {
            if let Some((frame, taken)) = ResponseFrame::decode(&self.inbox).unwrap() {
                assert_eq!(frame.request_id, 7);
                let answer = RawAnswer {
                    status: frame.status,
                    is_forwarded: frame.flags.contains(ResponseFlags::FORWARDED),
                    payload: frame.payload.to_vec(),
                };
                self.inbox.drain(..taken);
                return answer;
            }
            let mut chunk = [0; 4096];
            let read = self.stream.read(&mut chunk).unwrap();
            assert_ne!(read, 0, "the server closed the connection");
            self.inbox.extend_from_slice(&chunk[..read]);
        }
    }
}

#[test]
fn the_direct_and_the_forwarded_path_give_the_same_bytes() {
    for shards in [2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::dev(&dir, shards);
        let client = server.client();
        let mut raws: Vec<_> = (0..usize::from(shards))
            .map(|shard| Raw::new(TcpStream::connect(server.shard_address(shard)).unwrap()))
            .collect();
        for (shard, raw) in raws.iter().enumerate() {
            assert_eq!(usize::from(raw.hello.this_shard), shard);
        }
        let unix = server.endpoints["unix"].as_str().unwrap();
        let mut unix = Raw::new(std::os::unix::net::UnixStream::connect(unix).unwrap());
        let unix_shard = unix.hello.this_shard;
        let router = raws[0].hello.map.router;
        let keyspace = raws[0].hello.keyspaces[0].id;
        let mut owners = vec![0; usize::from(shards)];
        for number in 0..24 {
            let signer = path(&format!("prod/signer-{number}"));
            client
                .key_generate(&signer, Algorithm::Ed25519, KeyOptions::default())
                .unwrap();
            let deriver = path(&format!("prod/deriver-{number}"));
            client
                .key_generate(&deriver, Algorithm::HkdfSha256, KeyOptions::default())
                .unwrap();
            let signed = client
                .sign(&signer, Scheme::Default, Input::Message(MESSAGE))
                .unwrap();
            assert!(!signed.forwarded, "the client asks the owner itself");
            let derived = client.derive(&deriver, b"salt", b"info", 64).unwrap();
            let sign = Request::Sign(Sign {
                scheme: Scheme::Default,
                kind: InputKind::Message,
                input: Octets(MESSAGE),
            });
            let derive = Request::Derive(Derive {
                out_len: 64,
                salt: Octets(b"salt"),
                info: Octets(b"info"),
            });
            for (key, request, expected) in [
                (&signer, sign, &signed.value[..]),
                (&deriver, derive, &derived.value[..]),
            ] {
                let owner = router.shard_of(keyspace, key.key_id.as_bytes());
                owners[usize::from(owner)] += 1;
                for (shard, raw) in (0..).zip(&mut raws) {
                    let answer = raw.ask(&request, keyspace, key.key_id.as_bytes());
                    assert_eq!(answer.status, Status::Ok);
                    assert_eq!(answer.payload, expected, "{key} asked at shard {shard}");
                    assert_eq!(
                        answer.is_forwarded,
                        shard != owner,
                        "{key} at shard {shard}"
                    );
                }
                let answer = unix.ask(&request, keyspace, key.key_id.as_bytes());
                assert_eq!(answer.payload, expected);
                assert_eq!(answer.is_forwarded, unix_shard != owner);
            }
        }
        assert!(owners.iter().all(|keys| *keys > 0), "{owners:?}");
    }
}

#[test]
fn the_unix_socket_gives_the_same_answers_as_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, 2);
    let (tcp, unix) = (server.client(), server.unix_client());
    let mut unlike = Vec::new();
    for number in 0..KEYS_EACH {
        let key = path(&format!("prod/key-{number}"));
        unix.key_generate(&key, Algorithm::Ed25519, KeyOptions::default())
            .unwrap();
        let over_tcp = tcp
            .sign(&key, Scheme::Default, Input::Message(MESSAGE))
            .unwrap()
            .value;
        let over_unix = unix
            .sign(&key, Scheme::Default, Input::Message(MESSAGE))
            .unwrap()
            .value;
        if over_tcp != over_unix {
            unlike.push(key);
        }
    }
    assert!(unlike.is_empty(), "{unlike:?}");
}
