//! A server that speaks the codec and does what a scenario tells it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use keyway_protocol::limits::PAYLOAD_LEN_MAX;
use keyway_protocol::{
    KeyspaceEntry, Opcode, RequestFrame, ResponseFlags, ResponseHead, ResponseWriter, Router,
    ServerHello, ShardMap, Status, VERSION,
};

pub const SEED: [u8; 16] = [7; 16];

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// 0 for the listener of any shard, else 1 + the shard.
    pub listener: usize,
    /// Which connection of the server's life it came by, from 0.
    pub connection: usize,
    pub opcode: Opcode,
    pub request_id: u64,
    pub keyspace_id: u32,
    pub deadline_us: u32,
    pub key_id: Vec<u8>,
    pub payload: Vec<u8>,
}

/// What the server does upon a request.
pub enum Reaction {
    /// Send these bytes; they may be answers to earlier requests of the connection as well.
    Send(Vec<u8>),
    /// Nothing, temporarily or indefinitely.
    Hold,
    /// Close this connection.
    Close,
    /// Close all connections.
    CloseAll,
}

pub struct Server {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    react: Box<React>,
}

type React = dyn Fn(&Incoming) -> Reaction + Send + Sync;

struct State {
    hello: ServerHello,
    hello_refusal: Option<&'static str>,
    seen: Vec<Incoming>,
    connections: Vec<Connection>,
    closed_count: usize,
}

enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Where each listener is, and what the map says of the shards.
struct Place {
    address: String,
    ports: Vec<u16>,
}

impl Server {
    /// One listener for any shard, one for each of `shard_count`. HELLO is answered automatically,
    /// with the keyspace `prod`, id 1.
    pub fn start(
        shard_count: u16,
        react: impl Fn(&Incoming) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let listeners: Vec<_> = (0..=shard_count)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let ports: Vec<_> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        let place = Place {
            address: format!("127.0.0.1:{}", ports[0]),
            ports: ports[1..].to_vec(),
        };
        let server = Self::new(place, react);
        for (index, listener) in listeners.into_iter().enumerate() {
            let shared = Arc::clone(&server.shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream.unwrap();
                    stream.set_nodelay(true).unwrap();
                    serve(
                        &shared,
                        index,
                        stream.try_clone().unwrap(),
                        Connection::Tcp(stream),
                    );
                }
            });
        }
        server
    }

    /// The same on Unix sockets: `path` and `path.0`, `path.1`, ….
    pub fn start_unix(
        path: &Path,
        shard_count: u16,
        react: impl Fn(&Incoming) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let place = Place {
            address: format!("unix:{}", path.display()),
            ports: vec![0; shard_count.into()],
        };
        let server = Self::new(place, react);
        for index in 0..=usize::from(shard_count) {
            let path = match index {
                0 => path.to_owned(),
                _ => format!("{}.{}", path.display(), index - 1).into(),
            };
            let listener = UnixListener::bind(path).unwrap();
            let shared = Arc::clone(&server.shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let stream = stream.unwrap();
                    serve(
                        &shared,
                        index,
                        stream.try_clone().unwrap(),
                        Connection::Unix(stream),
                    );
                }
            });
        }
        server
    }

    fn new(place: Place, react: impl Fn(&Incoming) -> Reaction + Send + Sync + 'static) -> Self {
        let hello = ServerHello {
            version: VERSION,
            dev: true,
            more: false,
            this_shard: 0,
            payload_len_max: PAYLOAD_LEN_MAX as u32,
            map: ShardMap::new(SEED, place.ports).unwrap(),
            keyspaces: vec![keyspace(1, "prod")],
        };
        let state = State {
            hello,
            hello_refusal: None,
            seen: Vec::new(),
            connections: Vec::new(),
            closed_count: 0,
        };
        Self {
            address: place.address,
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                react: Box::new(react),
            }),
        }
    }

    /// Changes what HELLO will say.
    pub fn change_hello(&self, change: impl FnOnce(&mut ServerHello)) {
        change(&mut self.shared.state().hello);
    }

    /// Refuses HELLO from now on.
    pub fn refuse_hello(&self, explanation: &'static str) {
        self.shared.state().hello_refusal = Some(explanation);
    }

    /// All requests that came so far.
    pub fn seen(&self) -> Vec<Incoming> {
        self.shared.state().seen.clone()
    }

    /// How many requests of an operation came so far.
    pub fn count(&self, opcode: Opcode) -> usize {
        self.seen().iter().filter(|it| it.opcode == opcode).count()
    }

    pub fn close_all(&self) {
        self.shared.close_all();
    }

    pub fn connection_count(&self) -> usize {
        self.shared.state().connections.len()
    }

    /// How many connections their clients have closed.
    pub fn closed_count(&self) -> usize {
        self.shared.state().closed_count
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close_all(&self) {
        for connection in &self.state().connections {
            connection.close();
        }
    }
}

impl Connection {
    fn close(&self) {
        // One that is closed already needs no closing.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

fn serve(
    shared: &Arc<Shared>,
    listener: usize,
    mut stream: impl Read + Write + Send + 'static,
    handle: Connection,
) {
    let connection = {
        let mut state = shared.state();
        state.connections.push(handle);
        state.connections.len() - 1
    };
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let mut buffer = Vec::new();
        let mut chunk = [0; 65_536];
        loop {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(read) => buffer.extend_from_slice(&chunk[..read]),
            }
            while let Some((frame, len)) = RequestFrame::decode(&buffer).unwrap() {
                let incoming = Incoming {
                    listener,
                    connection,
                    opcode: frame.opcode().unwrap(),
                    request_id: frame.request_id,
                    keyspace_id: frame.keyspace_id,
                    deadline_us: frame.deadline_us,
                    key_id: frame.key_id.to_vec(),
                    payload: frame.payload.to_vec(),
                };
                buffer.drain(..len);
                let reaction = react(&shared, incoming);
                let sent = match reaction {
                    Reaction::Send(bytes) => stream.write_all(&bytes).is_ok(),
                    Reaction::Hold => true,
                    Reaction::Close => {
                        shared.state().connections[connection].close();
                        false
                    }
                    Reaction::CloseAll => {
                        shared.close_all();
                        false
                    }
                };
                if !sent {
                    return;
                }
            }
        }
        shared.state().closed_count += 1;
    });
}

fn react(shared: &Shared, incoming: Incoming) -> Reaction {
    let mut state = shared.state();
    state.seen.push(incoming.clone());
    if incoming.opcode != Opcode::Hello {
        drop(state);
        return (shared.react)(&incoming);
    }
    if let Some(explanation) = state.hello_refusal {
        return refuse(&incoming, Status::Unsupported, explanation);
    }
    let mut hello = state.hello.clone();
    if incoming.listener > 0 {
        hello.this_shard = (incoming.listener - 1) as u16;
    }
    let mut out = Vec::new();
    let mut writer = ResponseWriter::begin(&mut out, incoming.request_id);
    hello.encode(writer.payload()).unwrap();
    writer.finish(ResponseHead::OK);
    Reaction::Send(out)
}

pub fn keyspace(id: u32, name: &str) -> KeyspaceEntry {
    KeyspaceEntry {
        id,
        name: name.parse().unwrap(),
    }
}

/// The bytes of an OK answer.
pub fn ok_bytes(request_id: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut writer = ResponseWriter::begin(&mut out, request_id);
    writer.payload().extend_from_slice(payload);
    writer.finish(ResponseHead {
        key_version: 3,
        flags: ResponseFlags::STALE,
        key_age_ms: 1_500,
        ..ResponseHead::OK
    });
    out
}

pub fn ok(incoming: &Incoming, payload: &[u8]) -> Reaction {
    Reaction::Send(ok_bytes(incoming.request_id, payload))
}

/// Answers with what came.
pub fn echo(incoming: &Incoming) -> Reaction {
    ok(incoming, &incoming.payload)
}

pub fn refuse(incoming: &Incoming, status: Status, explanation: &str) -> Reaction {
    let mut out = Vec::new();
    ResponseWriter::begin(&mut out, incoming.request_id)
        .finish_with_explanation(ResponseHead::status(status), explanation);
    Reaction::Send(out)
}

pub fn refuse_with_hint(incoming: &Incoming, status: Status, after_us: u32) -> Reaction {
    let mut out = Vec::new();
    let head = ResponseHead {
        after_us,
        ..ResponseHead::status(status)
    };
    ResponseWriter::begin(&mut out, incoming.request_id).finish(head);
    Reaction::Send(out)
}

/// A key id of keyspace 1 that a shard owns.
pub fn key_of_shard(shard: u16, shard_count: u16) -> String {
    let router = Router::new(SEED, shard_count).unwrap();
    (0..)
        .map(|index| format!("key-{index}"))
        .find(|id| router.shard_of(1, id.as_bytes()) == shard)
        .unwrap()
}
