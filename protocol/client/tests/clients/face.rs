//! What the suite needs of a client, so that one scenario drives both flavours.

use std::sync::Arc;
use std::time::Duration;

use keyway_client::{Answer, Call, Error, Options};

/// A deadline that no scenario on a busy machine comes near.
pub const AMPLE: Duration = Duration::from_secs(300);

pub type Answered<T> = Result<Answer<T>, Error>;

pub trait Face: Clone + Send + Sync + 'static {
    fn connect(options: Options) -> Result<Self, Error>;

    fn call<T: Send + 'static>(&self, call: Call<T>) -> Answered<T>;

    /// Sends all of them before it waits for the first.
    fn call_all<T: Send + 'static>(&self, calls: Vec<Call<T>>) -> Vec<Answered<T>>;

    fn key_list(&self, keyspace: &str) -> Result<Vec<keyway_client::ListedKey>, Error>;

    fn keyspace_list(&self) -> Result<Vec<keyway_client::KeyspaceInfo>, Error>;

    fn shard_count(&self) -> u16;

    fn open(address: &str) -> Self {
        let options = Options::new(address.parse().unwrap()).deadline(AMPLE);
        Self::connect(options.connect_timeout(AMPLE)).unwrap()
    }
}

#[derive(Clone)]
pub struct Blocking(keyway_client::blocking::Client);

impl Face for Blocking {
    fn connect(options: Options) -> Result<Self, Error> {
        keyway_client::blocking::Client::connect_with(options).map(Self)
    }

    fn call<T: Send + 'static>(&self, call: Call<T>) -> Answered<T> {
        self.0.call(call)
    }

    fn call_all<T: Send + 'static>(&self, calls: Vec<Call<T>>) -> Vec<Answered<T>> {
        let pending: Vec<_> = calls.into_iter().map(|it| self.0.submit(it)).collect();
        pending.into_iter().map(|it| it.wait()).collect()
    }

    fn key_list(&self, keyspace: &str) -> Result<Vec<keyway_client::ListedKey>, Error> {
        self.0.key_list(&keyspace.parse().unwrap())
    }

    fn keyspace_list(&self) -> Result<Vec<keyway_client::KeyspaceInfo>, Error> {
        self.0.keyspace_list()
    }

    fn shard_count(&self) -> u16 {
        self.0.shard_count()
    }
}

/// The client drops before the runtime that its tasks run on.
#[derive(Clone)]
pub struct Tokio(keyway_client::tokio::Client, Arc<tokio::runtime::Runtime>);

impl Face for Tokio {
    fn connect(options: Options) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let client = runtime.block_on(keyway_client::tokio::Client::connect_with(options))?;
        Ok(Self(client, Arc::new(runtime)))
    }

    fn call<T: Send + 'static>(&self, call: Call<T>) -> Answered<T> {
        self.1.block_on(self.0.call(call))
    }

    fn call_all<T: Send + 'static>(&self, calls: Vec<Call<T>>) -> Vec<Answered<T>> {
        let spawn = |call| {
            let client = self.0.clone();
            self.1.spawn(async move { client.call(call).await })
        };
        let tasks: Vec<_> = calls.into_iter().map(spawn).collect();
        tasks
            .into_iter()
            .map(|task| self.1.block_on(task).unwrap())
            .collect()
    }

    fn key_list(&self, keyspace: &str) -> Result<Vec<keyway_client::ListedKey>, Error> {
        let keyspace = keyspace.parse().unwrap();
        self.1.block_on(self.0.key_list(&keyspace))
    }

    fn keyspace_list(&self) -> Result<Vec<keyway_client::KeyspaceInfo>, Error> {
        self.1.block_on(self.0.keyspace_list())
    }

    fn shard_count(&self) -> u16 {
        self.0.shard_count()
    }
}
