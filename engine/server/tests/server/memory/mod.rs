//! The server's memory, read from outside: a known secret is somewhere in it while its key is live, and nowhere 100 ms of
//! run time after expiry, lock or revocation. Key memory is locked, excluded from core dumps and wiped in forks.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod kms_secrets;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::common::{Server, WITHIN, exchange, wait_until};
use crate::outages::stand;
use keyway_client::blocking::Client;
use keyway_client::{Algorithm, Input, KeyFormat, KeyOptions, KeyPath, Scheme, Status, Usage};
use keyway_protocol::{Hello, Material, NewKey, Octets, Request};
use keyway_protocol::{KeyImport, ResponseFlags};

const SHARDS: u16 = 2;
/// How long after the event the secret may remain.
const GONE_WITHIN: Duration = Duration::from_millis(100);
/// Fewest turns of a shard in that time, if it gets processor time.
const TURNS: u64 = 50;
/// Long enough never to occur by chance, short enough to find a part of a secret.
const NEEDLE_LEN: usize = 16;
const SECRET_LEN: usize = 32;
const CHUNK_LEN: usize = 1 << 20;
/// The harness starts servers with this much key memory a shard.
const ARENA_KIB: u64 = 16 << 10;

const ALGORITHMS: [Algorithm; 3] = [
    Algorithm::Ed25519,
    Algorithm::Aes256Gcm,
    Algorithm::HmacSha256,
];

/// A secret with every bit flipped, so that the test's own memory does not contain it.
struct Flipped(Vec<u8>);

impl Flipped {
    fn of(secret: &[u8]) -> Flipped {
        assert!(secret.len() >= NEEDLE_LEN);
        Flipped(secret.iter().map(|byte| !byte).collect())
    }

    /// Returns the parts that are searched for.
    fn needles(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chunks_exact(NEEDLE_LEN)
    }

    /// Returns `true` if a part of the secret is at the start of `place`.
    fn is_at(&self, place: &[u8]) -> bool {
        let equal = |part: &[u8]| {
            part.iter()
                .zip(place)
                .all(|(flipped, byte)| !flipped == *byte)
        };
        self.needles().any(equal)
    }
}

/// A key, and its secret.
struct Known {
    key: KeyPath,
    algorithm: Algorithm,
    flipped: Flipped,
}

impl AsRef<Flipped> for Known {
    fn as_ref(&self) -> &Flipped {
        &self.flipped
    }
}

impl AsRef<Flipped> for Flipped {
    fn as_ref(&self) -> &Flipped {
        self
    }
}

impl Known {
    fn new(key: &str, algorithm: Algorithm) -> Known {
        let mut flipped = [0; SECRET_LEN];
        File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut flipped)
            .unwrap();
        Known {
            key: key.parse().unwrap(),
            algorithm,
            flipped: Flipped(flipped.to_vec()),
        }
    }

    fn secret(&self) -> Vec<u8> {
        self.flipped.0.iter().map(|byte| !byte).collect()
    }

    fn import(&self, client: &Client) {
        let options = KeyOptions {
            exportable: true,
            ..KeyOptions::default()
        };
        let (algorithm, secret) = (Some(self.algorithm), self.secret());
        client
            .key_import(&self.key, algorithm, options, KeyFormat::Raw, &secret)
            .unwrap();
    }

    /// Uses the secret in every operation that passes it near the wire or a library.
    fn work(&self, client: &Client) {
        let key = &self.key;
        client.get(key, 0).unwrap();
        match self.algorithm {
            Algorithm::Ed25519 => {
                client
                    .sign(key, Scheme::Default, Input::Message(b"message"))
                    .unwrap();
            }
            Algorithm::Aes256Gcm => {
                let sealed = client.encrypt(key, b"aad", b"text").unwrap().value;
                client.decrypt(key, b"aad", &sealed).unwrap();
            }
            _ => {
                let tag = client.mac(key, b"message").unwrap().value;
                client.verify_mac(key, b"message", &tag).unwrap();
            }
        }
    }
}

/// Returns how often each secret occurs in the server's memory, or `None` if it may not be read.
fn occurrences(server: &Server, known: &[impl AsRef<Flipped>]) -> Option<Vec<usize>> {
    let memory = match File::open(format!("/proc/{}/mem", server.pid())) {
        Ok(memory) => memory,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            assert!(
                std::env::var_os("CI").is_none(),
                "reading the server's memory: {error}"
            );
            eprintln!("SKIPPED: the server's memory may not be read ({error}); run it as root");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
    let mut may_begin = [false; 256];
    for needle in known.iter().flat_map(|known| known.as_ref().needles()) {
        may_begin[usize::from(!needle[0])] = true;
    }
    let mut counts = vec![0; known.len()];
    let mut buffer = vec![0; CHUNK_LEN];
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (start, end) = words.next().unwrap().split_once('-').unwrap();
        if !words.next().unwrap().starts_with('r') {
            continue;
        }
        let mut at = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        while at < end {
            let len = CHUNK_LEN.min((end - at) as usize);
            // Devices and the kernel's own pages cannot be read, and contain no secrets.
            if memory.read_exact_at(&mut buffer[..len], at).is_err() {
                break;
            }
            for place in buffer[..len].windows(NEEDLE_LEN) {
                if may_begin[usize::from(place[0])] {
                    for (count, known) in counts.iter_mut().zip(known) {
                        *count += usize::from(known.as_ref().is_at(place));
                    }
                }
            }
            // The next chunk overlaps, so that no secret hides on a boundary.
            at += if len < CHUNK_LEN {
                len
            } else {
                len - NEEDLE_LEN
            } as u64;
        }
    }
    Some(counts)
}

/// Uses the keys until the secrets of the first two are found: they may be between two refreshes during one scan. Returns
/// `false` if memory cannot be read.
fn is_found_while_live(server: &Server, client: &Client, known: &[Known]) -> bool {
    for _ in 0..5 {
        known.iter().for_each(|known| known.work(client));
        let Some(counts) = occurrences(server, known) else {
            return false;
        };
        if counts[..2].iter().all(|count| *count > 0) {
            return true;
        }
    }
    panic!("live secrets were not found: the search finds nothing");
}

/// Returns how often each shard's thread has gone to sleep. The threads that a shard starts have its name, and less to
/// do.
fn sleeps(server: &Server) -> BTreeMap<String, u64> {
    let mut sleeps = BTreeMap::new();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    for task in tasks {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap();
        let status = std::fs::read_to_string(task.join("status")).unwrap();
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let count: u64 = count.unwrap().trim().parse().unwrap();
        if name.starts_with("shard-") {
            let most = sleeps.entry(name).or_insert(0);
            *most = count.max(*most);
        }
    }
    sleeps
}

/// Asserts that nothing is left once every shard has had 100 ms to run since `event`. On a busy machine that is later
/// than 100 ms: a shard sleeps once or twice in each tick of 2 ms, and those sleeps are counted here.
fn assert_gone(server: &Server, known: &[Known], event: Instant, what: &str) {
    std::thread::sleep((event + GONE_WITHIN).saturating_duration_since(Instant::now()));
    let before = sleeps(server);
    assert_eq!(before.len(), usize::from(SHARDS));
    wait_until("turns of the shards", WITHIN, || {
        let now = sleeps(server);
        let mut shards = before.iter();
        shards.all(|(shard, count)| now[shard] >= count + TURNS)
    });
    let Some(counts) = occurrences(server, known) else {
        return;
    };
    assert_eq!(counts, vec![0; known.len()], "{ALGORITHMS:?} after {what}");
}

fn keys(keyspace: &str) -> Vec<Known> {
    let path = |algorithm: &Algorithm| format!("{keyspace}/{algorithm}");
    ALGORITHMS
        .iter()
        .map(|algorithm| Known::new(&path(algorithm), *algorithm))
        .collect()
}

/// Starts a server with a keyspace.
fn setup(dir: &tempfile::TempDir, keyspace: &str, settings: &[(&str, &str)]) -> (Server, Client) {
    let server = Server::dev(dir, SHARDS);
    let client = server.client();
    client
        .keyspace_create(&keyspace.parse().unwrap(), settings)
        .unwrap();
    (server, client)
}

#[test]
fn expired_key_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    // Without refreshes ahead of need, an unused key expires.
    let (server, client) = setup(&dir, "short", &[("max_in_flight", "0")]);
    let known = keys("short");
    known.iter().for_each(|known| known.import(&client));
    if is_found_while_live(&server, &client, &known) {
        let shorter = [("soft_ttl_ms", "2000"), ("hard_ttl_ms", "3000")];
        client
            .keyspace_set(&"short".parse().unwrap(), &shorter)
            .unwrap();
        let expired = Instant::now() + Duration::from_millis(3_000);
        assert_gone(&server, &known, expired, "expiry");
    }
}

#[test]
fn locked_keyspace_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = setup(&dir, "locked", &[]);
    let known = keys("locked");
    known.iter().for_each(|known| known.import(&client));
    if is_found_while_live(&server, &client, &known) {
        client.lock(&"locked".parse().unwrap()).unwrap();
        assert_gone(&server, &known, Instant::now(), "lock");
    }
}

/// A real OpenBao no longer allows the use of the transit key: within a lease nothing of the keyspace is left, and a
/// keyspace of another KMS is not affected.
#[test]
fn keyspace_refused_by_its_kms_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let Some((bao, setup)) = stand(dir.path()) else {
        return;
    };
    let server = setup.start();
    let client = server.client();
    client
        .keyspace_create(&"refused".parse().unwrap(), &[("kms", "bao")])
        .unwrap();
    let (known, others) = (keys("refused"), keys("prod"));
    for known in known.iter().chain(&others) {
        known.import(&client);
    }
    if !is_found_while_live(&server, &client, &known) {
        return;
    }
    let shorter = [("dek_lease_ms", "2000")];
    client
        .keyspace_set(&"refused".parse().unwrap(), &shorter)
        .unwrap();
    bao.remove_policy("keyway");
    let message = Input::Message(b"message");
    wait_until("the refusal", WITHIN, || {
        client
            .sign(&known[0].key, Scheme::Default, message)
            .is_err()
    });
    let refused = client.sign(&known[0].key, Scheme::Default, message);
    assert_eq!(refused.unwrap_err().status(), Some(Status::NeedsUnlock));
    assert_gone(&server, &known, Instant::now(), "the KMS's refusal");
    assert!(is_found_while_live(&server, &client, &others));
}

#[test]
fn revoked_key_is_wiped() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = setup(&dir, "revoked", &[]);
    let known = keys("revoked");
    known.iter().for_each(|known| known.import(&client));
    if is_found_while_live(&server, &client, &known) {
        known
            .iter()
            .for_each(|known| _ = client.key_revoke(&known.key).unwrap());
        assert_gone(&server, &known, Instant::now(), "revocation");
    }
}

#[test]
fn an_import_leaves_no_copy_on_its_way_even_through_another_shard() {
    let dir = tempfile::tempdir().unwrap();
    let (server, client) = setup(&dir, "imported", &[]);
    let keyspace = client.keyspace_list().unwrap().last().unwrap().id;
    let known = keys("imported");
    let (mut forwarded, mut streams) = (0, Vec::new());
    // At one shard and at the other: each key is created once, and refused once.
    for shard in 0..usize::from(SHARDS) {
        let mut stream = TcpStream::connect(server.shard_address(shard)).unwrap();
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            client_name: "memory",
        };
        exchange(&mut stream, &Request::Hello(hello), 0, b"", 0);
        for known in &known {
            let new_key = NewKey {
                algorithm: Some(known.algorithm),
                exportable: true,
                usage: Usage::default(),
                not_after_unix_ms: 0,
            };
            let secret = known.secret();
            let material = Material {
                format: KeyFormat::Raw,
                bytes: Octets(&secret),
            };
            let import = Request::KeyImport(KeyImport { new_key, material });
            let id = known.key.key_id.as_bytes();
            let (status, flags, _) = exchange(&mut stream, &import, keyspace, id, 0);
            let expected = if shard == 0 {
                Status::Ok
            } else {
                Status::Conflict
            };
            assert_eq!(status, expected);
            forwarded += usize::from(flags.contains(ResponseFlags::FORWARDED));
        }
        // The connections stay open: their buffers are also scanned.
        streams.push(stream);
    }
    assert_eq!(
        forwarded,
        known.len(),
        "each was sent to a wrong shard once"
    );
    // Nothing in between, since other work might overwrite what the imports left.
    client.lock(&"imported".parse().unwrap()).unwrap();
    assert_gone(&server, &known, Instant::now(), "import and lock");
    drop(streams);
}

#[test]
fn key_memory_is_locked_left_out_of_dumps_and_wiped_in_forks() {
    let dir = tempfile::tempdir().unwrap();
    let (server, _client) = setup(&dir, "any", &[]);
    let smaps = match std::fs::read_to_string(format!("/proc/{}/smaps", server.pid())) {
        Ok(smaps) => smaps,
        Err(error) => {
            assert!(
                std::env::var_os("CI").is_none(),
                "reading the server's mappings: {error}"
            );
            eprintln!("SKIPPED: the server's mappings may not be read ({error}); run it as root");
            return;
        }
    };
    let (mut size_kib, mut locked_kib, mut arenas_kib) = (0, 0, 0);
    let kib = |value: &str| value.trim().trim_end_matches(" kB").parse::<u64>().unwrap();
    for line in smaps.lines() {
        match line.split_once(':') {
            Some(("Size", value)) => size_kib = kib(value),
            Some(("Locked", value)) => locked_kib = kib(value),
            Some(("VmFlags", flags)) => {
                let has = |flag| flags.split_whitespace().any(|word| word == flag);
                if has("lo") && has("dd") && has("wf") {
                    assert_eq!(
                        locked_kib, size_kib,
                        "key memory that is not locked as a whole"
                    );
                    arenas_kib += size_kib;
                }
            }
            _ => {}
        }
    }
    let expected_kib = u64::from(SHARDS) * ARENA_KIB;
    assert!(
        arenas_kib >= expected_kib,
        "{arenas_kib} KiB of {expected_kib} are protected"
    );
}
