//! Malformed input of every kind: each gets a clear status or a closed connection, nothing panics, and no other client is
//! affected. `KEYWAY_HOSTILE_S` sets the duration of the random input; `KEYWAY_HOSTILE_SEED` repeats it.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Ends, Random, Server, Setup, WITHIN};
use keyway_client::{Algorithm, Input, KeyOptions, KeyPath, Scheme, Status, UnlockWith};
use keyway_protocol::limits::FRAME_LEN_MAX;
use keyway_protocol::{Hello, Octets, Opcode, Request, RequestFrame, ResponseFrame, Sign};

const SHARDS: u16 = 2;
const NOISY_CONNECTIONS: u64 = 4;
const HOSTILE_S_DEFAULT: u64 = 10;
/// Readers that send requests and never read.
const STALLED_READERS: usize = 8;
/// Most memory of all of them together in the server: a send buffer of 1 MiB and an answer beyond it each, twice for
/// growth, and allowance for the rest of the process.
const RSS_GROWTH_BYTES_MAX: u64 = 64 << 20;
/// What each requests in total, if it can.
const ASKED_BYTES_MAX: usize = 64 << 20;
/// What a slow reader reads in total, always with more to come.
const SLOW_READ_BYTES: usize = 256 << 20;

const _: () = assert!(SLOW_READ_BYTES as u64 > 2 * RSS_GROWTH_BYTES_MAX);

/// A connection that can send any bytes.
pub struct Raw {
    pub stream: TcpStream,
    inbox: Vec<u8>,
}

/// An answer: request id, status, payload.
pub type Answer = (u64, Status, Vec<u8>);

impl Raw {
    pub fn connect(address: &str) -> Raw {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_read_timeout(Some(WITHIN)).unwrap();
        Raw {
            stream,
            inbox: Vec::new(),
        }
    }

    pub fn greeted(address: &str) -> Raw {
        let mut raw = Raw::connect(address);
        raw.send(&hello(1, 1));
        assert_eq!(raw.answer().expect("HELLO is answered").1, Status::Ok);
        raw
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server takes it");
    }

    /// Returns the next answer, or `None` once the connection is closed. Bytes that are not an answer fail the test.
    pub fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some(answer) = self.take() {
                return Some(answer);
            }
            match self.read() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("neither an answer nor an end: {error}"),
            }
        }
    }

    fn take(&mut self) -> Option<Answer> {
        let decoded = ResponseFrame::decode(&self.inbox).expect("an answer is well-formed");
        let (frame, len) = decoded?;
        let answer = (frame.request_id, frame.status, frame.payload.to_vec());
        self.inbox.drain(..len);
        Some(answer)
    }

    fn read(&mut self) -> std::io::Result<usize> {
        let mut chunk = [0; 64 << 10];
        let count = self.stream.read(&mut chunk)?;
        self.inbox.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    pub fn ask(&mut self, bytes: &[u8]) -> Answer {
        self.send(bytes);
        self.answer().expect("an answer")
    }

    /// Asserts that the bytes end the connection, after an answer with `status`.
    fn loses(mut self, bytes: &[u8], status: Status) {
        assert_eq!(self.ask(bytes).1, status);
        assert_eq!(self.answer(), None);
    }
}

pub fn frame(code: u8, id: u64, keyspace: u32, key: &[u8], payload: &[u8]) -> Vec<u8> {
    let frame = RequestFrame {
        code,
        request_id: id,
        keyspace_id: keyspace,
        deadline_us: 0,
        key_id: Octets(key),
        payload: Octets(payload),
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

pub fn hello(version_min: u8, version_max: u8) -> Vec<u8> {
    let hello = Request::Hello(Hello {
        version_min,
        version_max,
        client_name: "hostile",
    });
    let mut payload = Vec::new();
    hello.encode_payload(&mut payload).unwrap();
    frame(Opcode::Hello.code(), 1, 0, b"", &payload)
}

pub fn ping(id: u64, payload: &[u8]) -> Vec<u8> {
    frame(Opcode::Ping.code(), id, 0, b"", payload)
}

pub(crate) fn sign(id: u64, keyspace: u32, key: &[u8]) -> Vec<u8> {
    let kind = keyway_protocol::InputKind::Message;
    let sign = Request::Sign(Sign {
        scheme: Scheme::Default,
        kind,
        input: Octets(b"message"),
    });
    let mut payload = Vec::new();
    sign.encode_payload(&mut payload).unwrap();
    frame(Opcode::Sign.code(), id, keyspace, key, &payload)
}

fn path(text: &str) -> KeyPath {
    text.parse().unwrap()
}

/// Creates Ed25519 keys, so many that every shard has some, and returns the signature of `message` with each.
pub(crate) fn good_keys(server: &Server) -> Vec<(KeyPath, Vec<u8>)> {
    let client = server.client();
    let keys = (0..8).map(|i| path(&format!("prod/good-{i}")));
    let with_signature = keys.map(|key| {
        let options = KeyOptions::default();
        client
            .key_generate(&key, Algorithm::Ed25519, options)
            .unwrap();
        let message = Input::Message(b"message");
        let signature = client.sign(&key, Scheme::Default, message).unwrap().value;
        client
            .verify(&key, Scheme::Default, message, &signature, 0)
            .unwrap();
        (key, signature)
    });
    with_signature.collect()
}

fn threads(server: &Server) -> HashSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    tasks
        .map(|task| task.unwrap().file_name().into_string().unwrap())
        .collect()
}

pub fn rss_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Asserts that every shard answers, and none of its handlers has panicked.
fn assert_unharmed(server: &Server) {
    for shard in 0..SHARDS {
        let mut raw = Raw::greeted(&server.shard_address(shard.into()));
        assert_eq!(
            raw.ask(&ping(2, b"there?")),
            (2, Status::Ok, b"there?".to_vec())
        );
        let series = format!("keyway_shard_panics_total{{shard=\"{shard}\"}}");
        server.wait_for_metric(&series, |panics| panics == 0.0);
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn noise_is_answered_or_cut_off_and_disturbs_nobody() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text: String| text.parse::<u64>().unwrap())
    };
    let seconds = number("KEYWAY_HOSTILE_S").unwrap_or(HOSTILE_S_DEFAULT);
    let seed = number("KEYWAY_HOSTILE_SEED").unwrap_or_else(|| {
        std::time::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .subsec_nanos()
            .into()
    });
    println!("KEYWAY_HOSTILE_SEED={seed} KEYWAY_HOSTILE_S={seconds}");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, SHARDS);
    let keys = good_keys(&server);
    let noise = server
        .client()
        .keyspace_create(&"noise".parse().unwrap(), &[])
        .unwrap()
        .value;
    let before = threads(&server);
    let over = AtomicBool::new(false);
    let (signed, sent, answered) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let good = scope.spawn(|| {
            let client = server.client();
            while !over.load(Ordering::Relaxed) {
                for (key, signature) in &keys {
                    let answer = client.sign(key, Scheme::Default, Input::Message(b"message"));
                    assert_eq!(answer.expect("the good client is served").value, *signature);
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        for thread in 0..NOISY_CONNECTIONS {
            let (server, over, sent, answered) = (&server, &over, &sent, &answered);
            scope.spawn(move || {
                let mut random = Random(seed ^ thread << 48);
                while !over.load(Ordering::Relaxed) {
                    let (out, back) = make_noise(server, noise, &mut random);
                    sent.fetch_add(out, Ordering::Relaxed);
                    answered.fetch_add(back, Ordering::Relaxed);
                }
            });
        }
        let _over = Ends(&over);
        let ends = Instant::now() + Duration::from_secs(seconds);
        let client = server.client();
        let noise_keyspace = "noise".parse().unwrap();
        while Instant::now() < ends && !good.is_finished() {
            // Random input can lock the keyspace, and then little else would happen. It can do so while this unlock is in
            // progress, which is then refused.
            let refused = client.unlock(&noise_keyspace, UnlockWith::Nothing).err();
            assert!(refused.is_none_or(|error| error.status().is_some()));
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    println!("{sent:?} frames of noise, {answered:?} answers, {signed:?} signatures beside them");
    assert!(signed.into_inner() > 0 && answered.into_inner() > 0);
    assert!(threads(&server).is_superset(&before), "a thread is gone");
    assert_unharmed(&server);
}

/// Sends random input on one connection. Returns the number of frames sent and of answers received.
fn make_noise(server: &Server, keyspace: u32, random: &mut Random) -> (u64, u64) {
    let address = match random.below(3) {
        0 => server.address(),
        shard => server.shard_address(shard as usize - 1),
    };
    let mut raw = Raw::connect(&address);
    raw.stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    let (mut sent, mut answered) = (0, 0);
    if random.below(10) > 0 {
        raw.send(&hello(1, 1));
    }
    for _ in 0..random.below(200) {
        if raw.stream.write_all(&noise(keyspace, random)).is_err() {
            break;
        }
        sent += 1;
        if random.below(8) == 0 && matches!(raw.read(), Ok(0)) {
            break;
        }
        while raw.take().is_some() {
            answered += 1;
        }
    }
    (sent, answered)
}

/// Returns something like a frame, or unlike any. Never about a keyspace other than `keyspace`: what the protocol allows
/// every client is not a fault.
fn noise(keyspace: u32, random: &mut Random) -> Vec<u8> {
    if random.below(20) == 0 {
        return random.bytes(200);
    }
    let codes = [
        1, 2, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x20, 0x21, 0x22, 0x28,
    ];
    let more = [0x29, 0x2a, 0x2b, 0x2c, 0x30, 0x31, 0x32, 0x33, 0x34, 0x77];
    let at = random.below(24) as usize;
    let code = codes.iter().chain(&more).nth(at).copied().unwrap();
    let key = format!("key-{}", random.below(1_024));
    let mut payload = random.bytes(300);
    // Half of them with small numbers, as in most fields.
    if random.below(2) == 0 {
        payload.iter_mut().for_each(|byte| *byte %= 4);
    }
    let mut bytes = match random.below(5) {
        0 => sign(random.next(), keyspace, key.as_bytes()),
        1 => frame(code, random.next(), keyspace, b"", &payload),
        // Some of it has to succeed, so that later requests find a key.
        2 => {
            let algorithm = [1, 2, 16, 32][random.below(4) as usize];
            let new_key = [algorithm, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let generate = Opcode::KeyGenerate.code();
            frame(generate, random.next(), keyspace, key.as_bytes(), &new_key)
        }
        _ => frame(code, random.next(), keyspace, key.as_bytes(), &payload),
    };
    if random.below(3) == 0 {
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        bytes[16..20].copy_from_slice(&keyspace.to_le_bytes());
    }
    if random.below(100) == 0 {
        bytes.truncate(random.below(bytes.len() as u64) as usize);
    }
    bytes
}

#[test]
fn every_wrong_request_has_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, SHARDS);
    let keys = good_keys(&server);
    let address = server.address();
    let good = keys[0].0.key_id.as_bytes();

    // These end the connection.
    let too_long = (FRAME_LEN_MAX as u32).to_le_bytes();
    Raw::greeted(&address).loses(&[&too_long[..], &[0; 40]].concat(), Status::BadRequest);
    Raw::greeted(&address).loses(&u32::MAX.to_le_bytes(), Status::BadRequest);
    Raw::greeted(&address).loses(&[0; 32], Status::BadRequest);
    Raw::connect(&address).loses(&ping(1, b""), Status::BadRequest);
    Raw::connect(&address).loses(&sign(1, 1, good), Status::BadRequest);
    Raw::connect(&address).loses(&frame(0x77, 1, 0, b"", b""), Status::BadRequest);
    Raw::connect(&address).loses(&hello(2, 9), Status::Unsupported);
    Raw::connect(&address).loses(
        b"GET / HTTP/1.1\r\nHost: keyway\r\n\r\n",
        Status::BadRequest,
    );

    // After these the connection stays open.
    let mut raw = Raw::greeted(&address);
    assert_eq!(raw.ask(&frame(0x77, 2, 0, b"", b"")).1, Status::Unsupported);
    assert_eq!(raw.ask(&sign(3, 77, good)).1, Status::NoKeyspace);
    assert_eq!(raw.ask(&sign(4, 1, b"no such key")).1, Status::BadRequest);
    assert_eq!(raw.ask(&sign(5, 1, b"new\nline")).1, Status::BadRequest);
    assert_eq!(raw.ask(&sign(6, 1, b"")).1, Status::BadRequest);
    assert_eq!(raw.ask(&sign(7, 1, b"nobody")).1, Status::NotFound);
    let mac = Opcode::Mac.code();
    assert_eq!(
        raw.ask(&frame(mac, 8, 1, good, b"message")).1,
        Status::Unsupported
    );
    assert_eq!(
        raw.ask(&frame(Opcode::Sign.code(), 9, 1, good, b"")).1,
        Status::BadRequest
    );
    let mut late = sign(10, 1, b"never-loaded");
    late[20..24].copy_from_slice(&1_u32.to_le_bytes());
    assert_eq!(raw.ask(&late).1, Status::DeadlineExceeded);

    // The same number twice is two requests.
    raw.send(&[ping(11, b"one"), ping(11, b"two")].concat());
    assert_eq!(raw.answer(), Some((11, Status::Ok, b"one".to_vec())));
    assert_eq!(raw.answer(), Some((11, Status::Ok, b"two".to_vec())));

    // More than a connection may have in flight: all are answered, in any order.
    let ids = 100..4_100_u64;
    let requests: Vec<u8> = ids.clone().flat_map(|id| sign(id, 1, good)).collect();
    let mut writer = raw.stream.try_clone().unwrap();
    let mut missing: HashSet<u64> = ids.collect();
    std::thread::scope(|scope| {
        scope.spawn(move || writer.write_all(&requests).unwrap());
        while !missing.is_empty() {
            let (id, status, signature) = raw.answer().expect("all are answered");
            assert_eq!((status, &signature), (Status::Ok, &keys[0].1));
            assert!(missing.remove(&id), "{id} was answered twice");
        }
    });

    // Half-closed: there may be answers, and there is an end.
    let mut raw = Raw::greeted(&address);
    raw.send(&sign(1, 1, good));
    raw.stream.shutdown(Shutdown::Write).unwrap();
    while raw.answer().is_some() {}
    assert_unharmed(&server);
}

#[test]
fn peers_that_stall_cost_little_and_are_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::dev(&dir, SHARDS);
    let keys = good_keys(&server);
    let victim = server.shard_address(0);
    let client = server.client();
    let before = rss_bytes(&server);

    let silent = Raw::connect(&victim);
    let mut half_header = Raw::connect(&victim);
    half_header.send(&hello(1, 1)[..9]);
    let mut half_frame = Raw::greeted(&victim);
    half_frame.send(&ping(2, &[7; 100])[..50]);
    let request = ping(3, &[7; 60_000]);
    let stalled: Vec<Raw> = (0..STALLED_READERS)
        .map(|_| {
            let mut raw = Raw::greeted(&victim);
            raw.stream
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let mut asked = 0;
            while asked < ASKED_BYTES_MAX && raw.stream.write_all(&request).is_ok() {
                asked += request.len();
            }
            assert!(
                asked < ASKED_BYTES_MAX,
                "the server reads on without being read"
            );
            raw
        })
        .collect();
    read_slowly(&victim, &request);
    let grown = rss_bytes(&server).saturating_sub(before);
    assert!(
        grown < RSS_GROWTH_BYTES_MAX,
        "the server has grown by {grown} bytes"
    );
    for (key, signature) in &keys {
        let answer = client
            .sign(key, Scheme::Default, Input::Message(b"message"))
            .unwrap();
        assert_eq!(answer.value, *signature);
    }
    // The remaining connection is the good client's, which the server does not close.
    let open = "keyway_shard_connections{shard=\"0\"}";
    server.wait_for_metric(open, |count| count <= 1.0);
    drop((silent, half_header, half_frame, stalled));
    assert_unharmed(&server);
}

/// Always has more requested than it has read.
fn read_slowly(address: &str, request: &[u8]) {
    let mut raw = Raw::greeted(address);
    let mut writer = raw.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || while writer.write_all(request).is_ok() {});
        let mut read = 0;
        while read < SLOW_READ_BYTES {
            read += raw.read().unwrap();
            raw.inbox.clear();
        }
        raw.stream.shutdown(Shutdown::Both).unwrap();
    });
}

#[test]
fn beyond_the_limit_a_connection_is_refused_until_another_ends() {
    const CONNECTIONS_MAX: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let setup = Setup::new(&dir.path().join("data")).shards(1);
    let limit = CONNECTIONS_MAX.to_string();
    let server = setup.flag("--connections-max").flag(&limit).start();
    let address = server.address();
    let mut open: Vec<Raw> = (0..CONNECTIONS_MAX)
        .map(|_| Raw::greeted(&address))
        .collect();
    assert_eq!(Raw::connect(&address).answer(), None);
    open.pop();
    let began = Instant::now();
    loop {
        let mut raw = Raw::connect(&address);
        // It may already be closed.
        let _ = raw.stream.write_all(&hello(1, 1));
        if raw
            .answer()
            .is_some_and(|(_, status, _)| status == Status::Ok)
        {
            break;
        }
        assert!(began.elapsed() < WITHIN, "the place was not given back");
    }
    for raw in &mut open {
        assert_eq!(raw.ask(&ping(2, b"")).1, Status::Ok);
    }
}
