//! The reading side of a client without its socket, for the crate that fuzzes it (feature
//! `fuzzing`). Not for programs: it can change at any time.

use std::time::{Duration, Instant};

use keyway_protocol::{Algorithm, HotBy, KeyPath, KmsName, Scheme, ServerHello};

use crate::answer::Reply;
use crate::attempts::{Attempts, Next, SendOutcome};
use crate::buffer::ReadBuffer;
use crate::call::Call;
use crate::connection_table::{ConnectionTable, Target};
use crate::exchange::Exchange;
use crate::jitter::Jitter;
use crate::{Custody, Input, KeyOptions, UnlockWith};

/// What waits for an answer: reads it, and says whether it could.
type Reader = Box<dyn Fn(Reply) -> bool>;

/// A client that has sent one call of each kind and now reads what comes back.
///
/// Their request ids are 1 to [`Reading::CALLS`], HELLO's being 1.
pub struct Reading {
    exchange: Exchange<Reader>,
    buffer: ReadBuffer,
}

impl Default for Reading {
    fn default() -> Self {
        Self::new()
    }
}

impl Reading {
    /// How many calls wait for an answer at first.
    pub const CALLS: u64 = 28;

    /// Encodes every kind of call, without sending it.
    #[must_use]
    pub fn new() -> Self {
        let mut reading = Self {
            exchange: Exchange::new(),
            buffer: ReadBuffer::new(),
        };
        reading.send_all();
        reading
    }

    /// As new, with the same read buffer: making one and wiping it takes longer than most inputs.
    pub fn begin_again(&mut self) {
        let unread = self.buffer.unread().len();
        self.buffer.consume(unread, false);
        self.exchange = Exchange::new();
        self.send_all();
    }

    /// Takes as many of `bytes` as there is room for and handles all answers that are whole then,
    /// as a connection does at each read. Gives the count of bytes taken, and for each answer
    /// whether its call could make sense of it.
    ///
    /// # Errors
    /// The bytes are no answers to what was asked: the connection would be closed.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Vec<bool>), String> {
        let room = self.buffer.room();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.buffer.filled(count);
        let mut understood = Vec::new();
        while let Some((reader, reply)) = self.exchange.receive(&mut self.buffer)? {
            understood.push(reader(reply));
        }
        Ok((count, understood))
    }

    /// Bytes that have come and are not yet a whole answer.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.unread().len()
    }

    fn send_all(&mut self) {
        let key: KeyPath = "prod/alice".parse().expect("it is a key's path");
        let keyspace = key.keyspace.clone();
        let scheme = Scheme::Default;
        let sealed = [0; 4 + 12 + 16];
        self.send_then(Call::hello("fuzz"), learn);
        self.send(Call::ping(b"hello"));
        self.send(Call::sign(&key, scheme, Input::Message(b"m")));
        self.send(Call::verify(&key, scheme, Input::Message(b"m"), b"s", 0));
        self.send(Call::mac(&key, b"m"));
        self.send(Call::encrypt(&key, b"aad", b"m"));
        self.send(Call::decrypt(&key, b"aad", &sealed));
        self.send(Call::derive(&key, b"salt", b"info", 32));
        self.send(Call::public_key(&key, 0));
        self.send(Call::get(&key, 0));
        self.send(Call::keyspace_create(&keyspace, &[]));
        self.send(Call::keyspace_set(&keyspace, &[("soft_ttl_ms", "1000")]));
        self.send(Call::keyspace_list_page(0));
        let options = KeyOptions::default();
        self.send(Call::key_generate(&key, Algorithm::Ed25519, options));
        self.send(Call::key_rotate(&key, None));
        self.send(Call::key_revoke(&key));
        self.send(Call::key_revoke_version(&key, 3));
        self.send(Call::key_trim(&key, 3));
        self.send(Call::key_delete(&key));
        self.send(Call::key_list_page(&keyspace, 0, 0, b""));
        self.send(Call::force_refresh(&key));
        self.send(Call::lock(&keyspace));
        self.send(Call::unlock(&keyspace, UnlockWith::Nothing));
        self.send(Call::unlock_status(&keyspace, 7));
        self.send(Call::status_page(0));
        let kms: KmsName = "local".parse().expect("it is a KMS's name");
        self.send(Call::keyspace_rotate(&keyspace));
        self.send(Call::keyspace_rewrap(&keyspace, &kms));
        self.send(Call::keyspace_destroy_deks(&keyspace));
        self.send(Call::kms_lock(&kms));
        self.send(Call::lock_all());
        self.send(Call::kms_init(&kms, Custody::Passphrase(b"passphrase")));
        self.send(Call::kms_unlock(&kms, UnlockWith::Share(b"share")));
        self.send(Call::keyspace_history(&keyspace));
        self.send(Call::keyspace_hot(&keyspace, HotBy::Requests, 20));
    }

    fn send<T: 'static>(&mut self, call: Call<T>) {
        self.send_then(call, |_| ());
    }

    fn send_then<T: 'static>(&mut self, call: Call<T>, then: fn(T)) {
        let spec = call.spec.clone();
        let payload = spec.payload.as_ref();
        let payload = payload.expect("the calls above are within their limits");
        let outgoing = spec.outgoing(1, 1_000, payload);
        let reader: Reader = Box::new(move |reply| {
            let now = Instant::now();
            let mut attempts = Attempts::new(&call.spec, now + Duration::from_secs(1));
            match attempts.handle(now, SendOutcome::Replied(reply), &Jitter::new()) {
                Next::Finish(Ok(reply)) => match call.read(&reply) {
                    Ok(answer) => {
                        then(answer.value);
                        true
                    }
                    Err(error) => error.to_string().is_empty(),
                },
                Next::Finish(Err(error)) => error.to_string().is_empty(),
                Next::Again(_) | Next::RefreshHello => false,
            }
        });
        let sent = self.exchange.send(&outgoing, reader);
        sent.expect("a new connection has room");
    }
}

/// A HELLO that was understood makes a table that knows where to send every call.
fn learn(hello: ServerHello) {
    let shard_count = hello.map.router.shard_count();
    let address = "127.0.0.1:7420".parse().expect("it is an address");
    let mut table = ConnectionTable::new(address, hello.clone(), ());
    assert_eq!(table.shard_count(), shard_count);
    let now = Instant::now();
    for key_id in [&b"alice"[..], b"bob", b"carol"] {
        let keyspace_id = 1;
        let _ = table.route(
            now,
            Target::Key {
                keyspace_id,
                key_id,
            },
        );
    }
    let _ = table.route(now, Target::Shard(u16::MAX));
    let unwanted = table.learn(hello);
    assert!(unwanted.is_empty(), "the same map keeps its connections");
}
