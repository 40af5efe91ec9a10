//! A connection with many requests in flight, whose answers are matched by request id.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use keyway_protocol::{
    Hello, Octets, Request, RequestFrame, ResponseFlags, ResponseFrame, ServerHello, Status,
    VERSION,
};

use super::Server;

/// The deadline of requests to a server on a machine that builds concurrently, µs. Without one the server waits 4 s for
/// the disk.
pub const PATIENT_US: u32 = 240_000_000;

/// Time limit for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(300);

/// A stream socket of either kind.
pub trait Stream: Read + Write {
    /// Limits how long a read may take.
    fn limit_reads(&self);
    /// Makes reads non-blocking, or blocking again.
    fn wait_for_reads(&self, wait: bool);
}

impl Stream for TcpStream {
    fn limit_reads(&self) {
        self.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    }

    fn wait_for_reads(&self, wait: bool) {
        self.set_nonblocking(!wait).unwrap();
    }
}

impl Stream for UnixStream {
    fn limit_reads(&self) {
        self.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
    }

    fn wait_for_reads(&self, wait: bool) {
        self.set_nonblocking(!wait).unwrap();
    }
}

/// The parts of an answer that these tests use.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The request's id.
    pub request_id: u64,
    /// The status.
    pub status: Status,
    /// The version that was used.
    pub key_version: u32,
    /// The age of the key that was used.
    pub key_age_ms: u32,
    /// Another shard executed it.
    pub is_forwarded: bool,
    /// The answer.
    pub payload: Vec<u8>,
}

/// A connection after HELLO.
pub struct Pipeline {
    stream: Box<dyn Stream + Send>,
    inbox: Vec<u8>,
    /// Bytes of `inbox` already consumed.
    taken: usize,
    outbox: Vec<u8>,
    next_id: u64,
    /// Answers that a test has taken before it counts them.
    pub taken_early: usize,
    /// The ids of the keyspaces that the peer may use, by name.
    pub keyspaces: HashMap<String, u32>,
}

impl Pipeline {
    /// Connects over TCP, as `anonymous`.
    pub fn tcp(server: &Server) -> Pipeline {
        Pipeline::over(TcpStream::connect(server.address()).unwrap())
    }

    /// Connects to a shard's own port.
    pub fn shard(server: &Server, shard: usize) -> Pipeline {
        Pipeline::over(TcpStream::connect(server.shard_address(shard)).unwrap())
    }

    /// Connects over the Unix socket, as the server's user.
    pub fn unix(server: &Server) -> Pipeline {
        let path = server.endpoints["unix"].as_str().unwrap();
        Pipeline::over(UnixStream::connect(path).unwrap())
    }

    fn over(stream: impl Stream + Send + 'static) -> Pipeline {
        stream.limit_reads();
        let mut pipeline = Pipeline {
            stream: Box::new(stream),
            inbox: Vec::new(),
            taken: 0,
            outbox: Vec::new(),
            next_id: 1,
            taken_early: 0,
            keyspaces: HashMap::new(),
        };
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            client_name: "pipeline",
        };
        let reply = pipeline.ask(&Request::Hello(hello), 0, b"");
        assert_eq!(reply.status, Status::Ok);
        let hello = ServerHello::decode(&reply.payload).unwrap();
        let keyspaces = hello.keyspaces.iter();
        pipeline.keyspaces = keyspaces
            .map(|entry| (entry.name.to_string(), entry.id))
            .collect();
        pipeline
    }

    /// Returns the id of a keyspace that the peer may use.
    pub fn keyspace(&self, name: &str) -> u32 {
        self.keyspaces[name]
    }

    /// Queues a request, to be sent by [`Pipeline::send`]. Returns its id.
    pub fn queue(
        &mut self,
        request: &Request<'_>,
        keyspace_id: u32,
        key_id: &[u8],
        deadline_us: u32,
    ) -> u64 {
        let request_id = self.next_id;
        self.next_id += 1;
        let frame = Pipeline::encode(request_id, request, keyspace_id, key_id, deadline_us);
        self.outbox.extend_from_slice(&frame);
        request_id
    }

    /// Encodes a request.
    pub fn encode(
        request_id: u64,
        request: &Request<'_>,
        keyspace_id: u32,
        key_id: &[u8],
        deadline_us: u32,
    ) -> Vec<u8> {
        let mut payload = Vec::new();
        request.encode_payload(&mut payload).unwrap();
        let frame = RequestFrame {
            code: request.opcode().code(),
            request_id,
            keyspace_id,
            deadline_us,
            key_id: Octets(key_id),
            payload: Octets(&payload),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        bytes
    }

    /// Sends the queued requests in one write.
    pub fn send(&mut self) {
        let bytes = std::mem::take(&mut self.outbox);
        self.stream.write_all(&bytes).expect("the server takes it");
    }

    fn take(&mut self) -> Option<Reply> {
        let (frame, taken) = ResponseFrame::decode(&self.inbox[self.taken..]).unwrap()?;
        let reply = Reply {
            request_id: frame.request_id,
            status: frame.status,
            key_version: frame.key_version,
            key_age_ms: frame.key_age_ms,
            is_forwarded: frame.flags.contains(ResponseFlags::FORWARDED),
            payload: frame.payload.to_vec(),
        };
        self.taken += taken;
        if self.taken == self.inbox.len() {
            self.inbox.clear();
            self.taken = 0;
        }
        Some(reply)
    }

    /// Returns the answers that have arrived, without waiting for more.
    pub fn take_arrived(&mut self) -> Vec<Reply> {
        self.stream.wait_for_reads(false);
        let mut chunk = [0; 16 << 10];
        while let Ok(read @ 1..) = self.stream.read(&mut chunk) {
            self.inbox.extend_from_slice(&chunk[..read]);
        }
        self.stream.wait_for_reads(true);
        std::iter::from_fn(|| self.take()).collect()
    }

    /// Repeats one request until its key is loaded.
    pub fn ask_until_loaded(
        &mut self,
        request: &Request<'_>,
        keyspace_id: u32,
        key_id: &[u8],
    ) -> Reply {
        loop {
            let reply = self.ask(request, keyspace_id, key_id);
            if !matches!(reply.status, Status::Retry | Status::NeedsUnlock) {
                return reply;
            }
        }
    }

    /// Waits for the next answer, to any request.
    pub fn reply(&mut self) -> Reply {
        loop {
            if let Some(reply) = self.take() {
                return reply;
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => panic!("the server closed the connection"),
                Ok(read) => self.inbox.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Sends one request and waits for its answer. No other request may be in flight.
    pub fn ask(&mut self, request: &Request<'_>, keyspace_id: u32, key_id: &[u8]) -> Reply {
        self.ask_within(request, keyspace_id, key_id, PATIENT_US)
    }

    /// As [`Pipeline::ask`], with a deadline; 0 for none.
    pub fn ask_within(
        &mut self,
        request: &Request<'_>,
        keyspace_id: u32,
        key_id: &[u8],
        deadline_us: u32,
    ) -> Reply {
        let id = self.queue(request, keyspace_id, key_id, deadline_us);
        self.send();
        let reply = self.reply();
        assert_eq!(reply.request_id, id);
        reply
    }
}
