//! Creation of keyspaces for tests, on a disk of any speed.

use std::time::{Duration, Instant};

use keyway_client::blocking::Client;
use keyway_client::{Answer, Error, KeyspaceName, Status};

use super::WITHIN;

/// Commands that are repeated if the disk takes longer to write than the server waits. Any other answer is returned.
pub trait SetUp {
    /// KEYSPACE_CREATE.
    fn create_keyspace(
        &self,
        name: &KeyspaceName,
        settings: &[(&str, &str)],
    ) -> Result<Answer<u32>, Error>;

    /// KEYSPACE_SET.
    fn set_keyspace(
        &self,
        name: &KeyspaceName,
        settings: &[(&str, &str)],
    ) -> Result<Answer<()>, Error>;

    /// Temporary KEYSPACE_SET.
    fn set_keyspace_for(
        &self,
        name: &KeyspaceName,
        settings: &[(&str, &str)],
        lasts: Duration,
    ) -> Result<Answer<()>, Error>;
}

impl SetUp for Client {
    fn create_keyspace(
        &self,
        name: &KeyspaceName,
        settings: &[(&str, &str)],
    ) -> Result<Answer<u32>, Error> {
        past_the_disk(|| self.keyspace_create(name, settings))
    }

    fn set_keyspace(
        &self,
        name: &KeyspaceName,
        settings: &[(&str, &str)],
    ) -> Result<Answer<()>, Error> {
        past_the_disk(|| self.keyspace_set(name, settings))
    }

    fn set_keyspace_for(
        &self,
        name: &KeyspaceName,
        settings: &[(&str, &str)],
        lasts: Duration,
    ) -> Result<Answer<()>, Error> {
        past_the_disk(|| self.keyspace_set_for(name, settings, lasts))
    }
}

fn past_the_disk<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let began = Instant::now();
    loop {
        match call() {
            Err(error) if is_slow_disk(&error) && began.elapsed() < WITHIN => {}
            answer => return answer,
        }
    }
}

/// Returns `true` if nothing has changed, or repeating the command is correct.
fn is_slow_disk(error: &Error) -> bool {
    matches!(
        error.status(),
        Some(Status::Internal | Status::NotPersisted)
    ) && error
        .to_string()
        .contains("could not be written: no answer for")
}
