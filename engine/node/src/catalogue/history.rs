//! What was changed of a keyspace, when and by whom.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Moment;

/// Changes that are kept of a keyspace. Values are written in one canonical form, so each is short, and all of them
/// fit into one answer of the protocol.
pub const HISTORY_MAX: usize = 100;

/// Who makes go back what was changed for a while.
const EXPIRED: &str = "expired";

/// Who does what the server does by itself.
const SERVER: &str = "server";

/// Who makes a change, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    who: String,
    pub(super) at: Moment,
}

impl By {
    /// A principal: `uid:1000`, `anonymous`.
    pub fn principal(who: String, at: Moment) -> By {
        By { who, at }
    }

    /// The end of the time that a change was made for.
    pub fn expiry(at: Moment) -> By {
        let who = EXPIRED.to_owned();
        By { who, at }
    }

    /// The server.
    pub fn server(at: Moment) -> By {
        let who = SERVER.to_owned();
        By { who, at }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When, on the wall clock.
    unix_ms: u64,
    /// Who.
    who: String,
    /// What: a setting, `allow:PRINCIPAL`, `created`, or a member of the keyspace's listing.
    pub what: String,
    /// Its value before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Its value since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// When it is to go back, if it was made for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_unix_ms: Option<u64>,
}

impl Change {
    pub(super) fn new(by: &By, what: &str) -> Change {
        Change {
            unix_ms: by.at.unix_ms,
            who: by.who.clone(),
            what: what.to_owned(),
            from: None,
            to: None,
            until_unix_ms: None,
        }
    }

    pub(super) fn between(mut self, from: impl ToString, to: impl ToString) -> Change {
        self.from = Some(from.to_string());
        self.to = Some(to.to_string());
        self
    }

    pub(super) fn until(mut self, unix_ms: Option<u64>) -> Change {
        self.until_unix_ms = unix_ms;
        self
    }
}

/// The last [`HISTORY_MAX`] changes of a keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(VecDeque<Change>);

impl History {
    pub(super) fn note(&mut self, change: Change) {
        while self.0.len() >= HISTORY_MAX {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// The changes, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter().rev()
    }
}
