//! A keywayd for one test: its own ports and data directory, stopped by process id.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

pub mod alerts;
pub mod browser;
pub mod held_kms;
pub mod pipeline;
pub mod prometheus;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyway_client::blocking::Client;
use keyway_client::{KeyspaceName, Options};
use keyway_protocol::{Octets, Request, RequestFrame, ResponseFlags, ResponseFrame, Status};

/// Time limit for anything in a test. No test passes or fails by how fast the machine is: it waits for a condition, and
/// this limit only turns a hang into a message. See docs/VERIFICATION.md, "A busy machine".
pub const WITHIN: Duration = Duration::from_secs(300);

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// Data directory.
    pub data: PathBuf,
    /// Its addresses, from `endpoints.json`.
    pub endpoints: serde_json::Value,
}

/// The configuration for starting one.
#[derive(Clone, Debug)]
pub struct Setup {
    data: PathBuf,
    flags: Vec<String>,
    dev: bool,
    /// The data directory must be inspected as the server sees it.
    is_mounted: bool,
}

impl Setup {
    /// Configures a development server on free ports over `data`.
    pub fn new(data: &Path) -> Setup {
        Setup {
            data: data.to_owned(),
            flags: Vec::new(),
            dev: true,
            is_mounted: false,
        }
    }

    /// Sets the number of shards.
    pub fn shards(self, shards: u16) -> Setup {
        self.flag("--shards").flag(&shards.to_string())
    }

    /// Without `--dev`.
    pub fn production(mut self) -> Setup {
        self.dev = false;
        self
    }

    /// Uses a file system that only the server's process has mounted at `data`. The socket must be elsewhere.
    pub fn mounted(mut self) -> Setup {
        self.is_mounted = true;
        self
    }

    /// Adds a command-line argument.
    pub fn flag(mut self, word: &str) -> Setup {
        self.flags.push(word.to_owned());
        self
    }

    /// Returns the command, ready to be spawned.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keywayd"));
        command
            .args([
                "--listen",
                "127.0.0.1:0",
                "--metrics",
                "127.0.0.1:0",
                "--arena-mib",
                "16",
            ])
            .arg("--data")
            .arg(&self.data)
            .args(&self.flags)
            .stdin(Stdio::null());
        if self.dev {
            command.arg("--dev");
        }
        command
    }

    /// Starts it and waits until it listens. Its log goes to `server.log` next to the data.
    pub fn start(&self) -> Server {
        self.start_as(self.command())
    }

    /// As above with a custom command, which runs or becomes keywayd.
    pub fn start_as(&self, mut command: Command) -> Server {
        let endpoints = self.data.join("endpoints.json");
        // From an older server that was killed and could not remove it.
        let _ = std::fs::remove_file(&endpoints);
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_path(&self.data))
            .expect("the test's directory is writable");
        let child = command.stderr(log).spawn().expect("keywayd was built");
        let (data, endpoints) = match self.is_mounted {
            true => {
                let root = format!("/proc/{}/root{}", child.id(), self.data.display());
                let data = PathBuf::from(root);
                (data.clone(), data.join("endpoints.json"))
            }
            false => (self.data.clone(), endpoints),
        };
        let mut server = Server {
            child,
            data,
            endpoints: serde_json::Value::Null,
        };
        let began = Instant::now();
        loop {
            if let Ok(text) = std::fs::read_to_string(&endpoints)
                && let Ok(document) = serde_json::from_str(&text)
            {
                server.endpoints = document;
                return server;
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                panic!("keywayd ended with {status}: {}", server.log());
            }
            assert!(
                began.elapsed() < WITHIN,
                "keywayd is not ready: {}",
                server.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts it, and kills it after `pause`, whatever it has reached.
    pub fn start_and_kill(&self, pause: Duration) {
        let mut command = self.command();
        let mut child = command
            .stderr(Stdio::null())
            .spawn()
            .expect("keywayd was built");
        std::thread::sleep(pause);
        child.kill().expect("it was ours");
        child.wait().expect("it was ours");
    }

    /// Starts it, expects a refusal, and returns the message.
    pub fn refused(&self) -> String {
        refused(self.command())
    }
}

/// Runs a command that should refuse to start, and returns the message. A server that starts anyway fails the test
/// instead of blocking it indefinitely.
pub fn refused(mut command: Command) -> String {
    let child = command.stderr(Stdio::piped()).spawn();
    let mut child = child.expect("keywayd was built");
    let status = ended(&mut child, WITHIN);
    let output = child.wait_with_output().expect("it was ours");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused = status.is_some_and(|status| !status.success());
    assert!(refused, "keywayd started although it should refuse: {text}");
    text
}

/// Waits for its end. If it has not ended by then it is killed, and `None` is returned.
pub fn ended(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it was ours") {
            return Some(status);
        }
        if began.elapsed() > within {
            child.kill().expect("it was ours");
            child.wait().expect("it was ours");
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Server {
    /// Starts a development server with that many shards on its own directory.
    pub fn dev(dir: &tempfile::TempDir, shards: u16) -> Server {
        Setup::new(&dir.path().join("data")).shards(shards).start()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns `host:port` for any client.
    pub fn address(&self) -> String {
        self.endpoints["tcp"]
            .as_str()
            .expect("the server wrote it")
            .to_owned()
    }

    /// Returns `host:port` of one shard.
    pub fn shard_address(&self, shard: usize) -> String {
        format!("127.0.0.1:{}", self.endpoints["shard_ports"][shard])
    }

    /// Returns a client at the shared port.
    pub fn client(&self) -> Client {
        patient_client(&self.address())
    }

    /// Returns a client over the Unix socket.
    pub fn unix_client(&self) -> Client {
        let path = self.endpoints["unix"]
            .as_str()
            .expect("the server wrote it");
        patient_client(&format!("unix:{path}"))
    }

    /// GET on the exporter: status line and body.
    pub fn http(&self, path: &str) -> (String, String) {
        let address = self.endpoints["metrics"]
            .as_str()
            .expect("the server wrote it");
        let mut stream = TcpStream::connect(address).expect("the exporter listens");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream
            .read_to_string(&mut text)
            .expect("the exporter answers in UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").expect("an HTTP answer");
        (
            head.lines().next().unwrap_or_default().to_owned(),
            body.to_owned(),
        )
    }

    /// Returns the value of one series of /metrics, as `name{labels}`, or `None` if it is missing.
    pub fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = self.http("/metrics");
        text.lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .map(|value| value.parse().expect("a number"))
    }

    /// Waits until `condition` is true for the series; panics with the last value otherwise.
    pub fn wait_for_metric(&self, series: &str, condition: impl Fn(f64) -> bool) {
        let began = Instant::now();
        loop {
            let value = self.metric(series);
            if value.is_some_and(&condition) {
                return;
            }
            assert!(
                began.elapsed() < WITHIN,
                "{series} is {value:?}; {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.data)).unwrap_or_default()
    }

    /// Waits until a line of its log contains `part`, since logging is asynchronous. Returns the first such line.
    pub fn wait_for_log(&self, part: &str) -> String {
        let mut found = None;
        let what = format!("{part:?} in the log");
        wait_until(&what, WITHIN, || {
            let log = self.log();
            found = log
                .lines()
                .find(|line| line.contains(part))
                .map(str::to_owned);
            found.is_some()
        });
        found.expect("it was waited for")
    }

    /// Waits until it has ended without a signal. Returns its exit status.
    pub fn wait_for_exit(mut self) -> ExitStatus {
        let status = ended(&mut self.child, WITHIN);
        status.unwrap_or_else(|| panic!("keywayd goes on: {}", self.log()))
    }

    /// SIGKILL, as a crash.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it was ours");
    }

    /// SIGTERM, and waits for a clean end.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let status = ended(&mut self.child, WITHIN);
        assert!(
            status.is_some_and(|status| status.success()),
            "keywayd ended with {status:?} (none: it had to be killed): {}",
            self.log()
        );
    }
}

/// Returns a client whose timeout is that of the test, not the default of 5 s.
pub fn patient_client(address: &str) -> Client {
    let address = address.parse().expect("it is an address");
    let options = Options::new(address)
        .deadline(WITHIN)
        .connect_timeout(WITHIN);
    Client::connect_with(options).expect("the server listens")
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the threads of a scope to end once it is dropped. A scope waits for them, also when the test has failed.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

pub fn log_path(data: &Path) -> PathBuf {
    data.with_extension("log")
}

/// Returns `true` if an external program is available: a missing one is an error in CI and a visible skip elsewhere.
pub fn has_program(name: &str) -> bool {
    let found = Command::new(name).arg("--version").output().is_ok()
        || Command::new(name).arg("version").output().is_ok();
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{name} is missing: run `make deps`"
        );
        eprintln!("SKIPPED: {name} is missing; run `make deps` to have this checked");
    }
    found
}

/// Sends one request as a raw frame and waits for its answer: status and payload. The first on a connection must be
/// HELLO.
pub fn ask(
    stream: &mut TcpStream,
    request: &Request<'_>,
    keyspace_id: u32,
    key_id: &[u8],
    deadline_us: u32,
) -> (Status, Vec<u8>) {
    let (status, _, payload) = exchange(stream, request, keyspace_id, key_id, deadline_us);
    (status, payload)
}

/// As [`ask`], with the answer's marks.
pub fn exchange(
    stream: &mut TcpStream,
    request: &Request<'_>,
    keyspace_id: u32,
    key_id: &[u8],
    deadline_us: u32,
) -> (Status, ResponseFlags, Vec<u8>) {
    let mut payload = Vec::new();
    request.encode_payload(&mut payload).unwrap();
    let frame = RequestFrame {
        code: request.opcode().code(),
        request_id: 1,
        keyspace_id,
        deadline_us,
        key_id: Octets(key_id),
        payload: Octets(&payload),
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut inbox = Vec::new();
    loop {
        if let Some((answer, _)) = ResponseFrame::decode(&inbox).unwrap() {
            return (answer.status, answer.flags, answer.payload.to_vec());
        }
        let mut chunk = [0; 1024];
        let read = stream.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "the server closed the connection");
        inbox.extend_from_slice(&chunk[..read]);
    }
}

/// SplitMix64: the printed seed replays a run.
pub struct Random(pub u64);

impl Random {
    /// Returns the next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Returns a number in `0..bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Returns fewer than `len_max` bytes.
    pub fn bytes(&mut self, len_max: u64) -> Vec<u8> {
        (0..self.below(len_max))
            .map(|_| self.next() as u8)
            .collect()
    }
}

/// Returns the keyspace that a development server creates.
pub fn prod() -> KeyspaceName {
    "prod".parse().expect("it is a keyspace's name")
}

/// How long [`repeat_until`] goes on.
const REPEATS_WITHIN: Duration = Duration::from_secs(1_200);

/// Plays a scenario until what it is about has happened in it: when it happens depends on how two programs interleave,
/// which no test decides. It checks what must never happen every time, and returns whether it has seen what it is about.
pub fn repeat_until(what: &str, mut scenario: impl FnMut() -> bool) {
    let (began, mut plays) = (Instant::now(), 1);
    while !scenario() {
        let goes_on = began.elapsed() < REPEATS_WITHIN;
        assert!(goes_on, "{what}: not seen in any of {plays} plays");
        plays += 1;
    }
}

/// Checks every 20 ms until `holds`; panics if it does not within `within`, which is [`WITHIN`] unless there is a reason.
pub fn wait_until(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < within, "{what} took too long");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Repeats a call until the keyspace's DEK is available: immediately after a start it may still be in flight, and the
/// answer is NEEDS_UNLOCK.
pub fn past_the_start<T>(
    mut call: impl FnMut() -> Result<T, keyway_client::Error>,
) -> Result<T, keyway_client::Error> {
    let began = Instant::now();
    loop {
        match call() {
            Err(error)
                if error.status() == Some(Status::NeedsUnlock) && began.elapsed() < WITHIN =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            answer => return answer,
        }
    }
}
