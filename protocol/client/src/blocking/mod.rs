//! The client for threads. Each connection has one thread that connects and then reads; requests
//! are written by the callers.

mod connection;
mod pending;
mod pool;
mod socket;

use std::sync::Arc;
use std::time::{Duration, Instant};

use keyway_protocol::KeyspaceName;

use crate::methods::typed_calls;
use crate::{Address, Answer, Call, Error, Options};

pub use pending::Pending;

use pool::Pool;

/// A client. Clones share its connections; any thread may use any of them.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    deadline: Duration,
}

impl Client {
    /// Connects to `127.0.0.1:7420` or `unix:/path`, with the default options.
    pub fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(Options::new(address.parse::<Address>()?))
    }

    /// Connects, and fails immediately if no server listens. After that, calls reconnect automatically.
    pub fn connect_with(options: Options) -> Result<Self, Error> {
        let deadline = options.deadline;
        let pool = Pool::connect(options)?;
        Ok(Self { pool, deadline })
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self {
            pool: self.pool.clone(),
            deadline,
        }
    }

    /// Sends a call and waits for its answer.
    pub fn call<T>(&self, call: Call<T>) -> Result<Answer<T>, Error> {
        self.submit(call).wait()
    }

    /// Sends a call and returns; [`Pending::wait`] returns the answer. Many calls can be in flight
    /// from one thread. It waits only while there is no connection, or one that is full.
    ///
    /// Writing to a server that has stopped reading can hold a caller for up to a second beyond
    /// its deadline; then the connection is given up.
    pub fn submit<T>(&self, call: Call<T>) -> Pending<T> {
        let deadline = call.spec.deadline.unwrap_or(self.deadline);
        Pending::submit(self.pool.clone(), call, Instant::now() + deadline)
    }

    /// How many shards the server has, from its last HELLO.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.pool.table().shard_count()
    }

    /// Whether the server runs in development mode.
    #[must_use]
    pub fn is_dev(&self) -> bool {
        self.pool.table().is_dev()
    }

    fn learn_keyspace(&self, name: &KeyspaceName, id: u32) {
        self.pool.table().learn_keyspace(name.clone(), id);
    }
}

typed_calls!(Client, [], []);
