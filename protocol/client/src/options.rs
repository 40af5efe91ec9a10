//! How to connect.

use std::time::Duration;

use crate::Address;

/// How long a call may take, unless told otherwise.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(5);

/// How long connecting and HELLO may take, unless told otherwise.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);

/// How a client connects, and what holds for its calls unless they say otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) address: Address,
    pub(crate) deadline: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) client_name: String,
}

impl Options {
    /// The defaults, for a server at `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            deadline: DEADLINE_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            client_name: concat!("keyway-client/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// How long a call may take in all, retries included; 5 s if not set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long connecting and HELLO may take together; 2 s if not set.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// What the server's log calls this client: at most 64 printable ASCII characters.
    #[must_use]
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = name.into();
        self
    }
}
