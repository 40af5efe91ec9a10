//! The way to the server: one client, and its errors told as failures.

use keyway_client::blocking::Client;
use keyway_client::{Error, KeyspaceName, Options, Status};

use crate::args::Cli;
use crate::failure::Failure;
use crate::printable;

/// A server that has been reached.
pub struct Server {
    client: Client,
    addr: String,
}

impl Server {
    /// Connects to where the command line says.
    pub fn reach(cli: &Cli) -> Result<Self, Failure> {
        let addr = cli.addr.to_string();
        let options = Options::new(cli.addr.clone())
            .deadline(cli.timeout)
            .connect_timeout(cli.timeout)
            .client_name(concat!("keyway/", env!("CARGO_PKG_VERSION")));
        match Client::connect_with(options) {
            Ok(client) => Ok(Self { client, addr }),
            // Whatever the reason, no server answered.
            Err(error) => Err(Failure::unreachable(&addr, &error)),
        }
    }

    /// The client, for calls whose errors go through [`failure`](Self::failure).
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// One call. `doing` and `keyspace` are for the message if it fails.
    pub fn call<T>(
        &self,
        doing: &str,
        keyspace: Option<&str>,
        call: impl FnOnce(&Client) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        call(&self.client).map_err(|error| self.failure(doing, keyspace, &error))
    }

    /// An error of the client as a failure.
    pub fn failure(&self, doing: &str, keyspace: Option<&str>, error: &Error) -> Failure {
        let failure = Failure::call(&self.addr, doing, keyspace, error);
        match (error, keyspace) {
            (Error::Refused(refusal), Some(keyspace)) if refusal.status == Status::NeedsUnlock => {
                match self.unlock_remedy(keyspace, refusal.ticket.unwrap_or(0)) {
                    Some(remedy) => failure.with_remedy(format!("{remedy}, then try again")),
                    None => failure,
                }
            }
            _ => failure,
        }
    }

    /// What the server says opens a keyspace, if this user may ask. The needs of its KMS are in no refusal.
    fn unlock_remedy(&self, keyspace: &str, ticket: u64) -> Option<String> {
        let keyspace: KeyspaceName = keyspace.parse().ok()?;
        let status = self.client.unlock_status(&keyspace, ticket).ok()?.value;
        Some(printable::line(&status.remedy?))
    }
}
