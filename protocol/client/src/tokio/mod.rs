//! The client for tokio. Each connection has two tasks, one that connects and then reads, and one
//! that writes. The runtime needs time and I/O enabled.

mod connection;
mod pool;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::tokio::time::{sleep_until, timeout_at};
use keyway_protocol::{KeyspaceName, ServerHello};

use crate::answer::Reply;
use crate::attempts::{Attempts, Next, SendOutcome};
use crate::call::CallSpec;
use crate::methods::typed_calls;
use crate::{Address, Answer, Call, Error, Options};

use pool::Pool;

/// A client. Clones share its connections; any task may use any of them.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
    deadline: Duration,
}

impl Client {
    /// Connects to `127.0.0.1:7420` or `unix:/path`, with the default options.
    pub async fn connect(address: &str) -> Result<Self, Error> {
        Self::connect_with(Options::new(address.parse::<Address>()?)).await
    }

    /// Connects, and fails immediately if no server listens. After that, calls reconnect automatically.
    pub async fn connect_with(options: Options) -> Result<Self, Error> {
        let deadline = options.deadline;
        let pool = Pool::connect(options).await?;
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

    /// Sends a call and waits for its answer, sending again where that can help, until the
    /// deadline. Many calls can be in flight at the same time: join them, or spawn them. Dropping the
    /// future abandons the answer, not the work.
    pub async fn call<T>(&self, call: Call<T>) -> Result<Answer<T>, Error> {
        let deadline = call.spec.deadline.unwrap_or(self.deadline);
        let reply = self.finish(&call.spec, Instant::now() + deadline).await?;
        call.read(&reply)
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

    async fn finish(&self, call: &CallSpec, deadline: Instant) -> Result<Reply, Error> {
        let mut attempts = Attempts::new(call, deadline);
        loop {
            match self.attempt(call, &mut attempts).await? {
                Next::Finish(result) => return result,
                Next::Again(at) => sleep_until(at.min(deadline).into()).await,
                Next::RefreshHello => self.hello_again(call.keyspace.as_ref(), deadline).await?,
            }
        }
    }

    /// Sends a call once and says what to do next.
    async fn attempt(&self, call: &CallSpec, attempts: &mut Attempts) -> Result<Next, Error> {
        let answer = match self.pool.send(call, attempts).await {
            Ok(answer) => answer,
            Err(next) => return Ok(next),
        };
        let Ok(delivery) = timeout_at(attempts.deadline().into(), answer).await else {
            return Err(attempts.timed_out(true, None));
        };
        // A sender is dropped unused only if its connection's tasks were, with their runtime.
        let delivery = delivery
            .unwrap_or_else(|_| SendOutcome::Lost("the connection's runtime ended".to_owned()));
        Ok(attempts.handle(Instant::now(), delivery, self.pool.jitter()))
    }

    /// Reloads the keyspaces: those that HELLO names, and if there are more, the following ones until `wanted` is found.
    async fn hello_again(
        &self,
        wanted: Option<&KeyspaceName>,
        deadline: Instant,
    ) -> Result<(), Error> {
        let hello: &Call<ServerHello> = self.pool.hello();
        let reply = self.finish_plain(&hello.spec, deadline).await?;
        let hello = hello.read(&reply)?.value;
        let mut after = hello.keyspaces.last().map_or(0, |last| last.id);
        let mut more = hello.more;
        self.pool.learn(hello);
        while more && wanted.is_some_and(|name| self.pool.table().keyspace_id(name).is_none()) {
            let call = Call::keyspace_list_page(after);
            let reply = self.finish_plain(&call.spec, deadline).await?;
            let page = call.read(&reply)?.value;
            self.pool.table().learn_listed(&page.keyspaces);
            let last = page.keyspaces.last().map_or(after, |last| last.id);
            more = page.more && last > after;
            after = last;
        }
        Ok(())
    }

    /// Finishes a call that names no keyspace, so that it never sends HELLO again.
    async fn finish_plain(&self, call: &CallSpec, deadline: Instant) -> Result<Reply, Error> {
        let mut attempts = Attempts::new(call, deadline);
        loop {
            match self.attempt(call, &mut attempts).await? {
                Next::Finish(result) => return result,
                Next::Again(at) => sleep_until(at.min(deadline).into()).await,
                Next::RefreshHello => {}
            }
        }
    }
}

typed_calls!(Client, [async], [.await]);
