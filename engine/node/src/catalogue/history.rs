//! The history of a keyspace: what was changed, when, and by whom.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::time::Moment;

/// Most changes kept per keyspace. Values are stored in canonical form, so each is short, and all of them fit into one
/// response.
pub const HISTORY_MAX: usize = 100;

/// The author when a temporary override expires.
const EXPIRED: &str = "expired";

/// The author when the server acts automatically.
const SERVER: &str = "server";

/// The author and time of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeAuthor {
    who: String,
    pub(super) at: Moment,
}

impl ChangeAuthor {
    /// Creates the author for a principal: `uid:1000`, `anonymous`.
    pub fn principal(who: String, at: Moment) -> ChangeAuthor {
        ChangeAuthor { who, at }
    }

    /// Creates the author for the expiry of a temporary override.
    pub fn expiry(at: Moment) -> ChangeAuthor {
        let who = EXPIRED.to_owned();
        ChangeAuthor { who, at }
    }

    /// Creates the author for an action of the server.
    pub fn server(at: Moment) -> ChangeAuthor {
        let who = SERVER.to_owned();
        ChangeAuthor { who, at }
    }
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Wall-clock time of the change.
    unix_ms: u64,
    /// The author: a principal, `expired` or `server`.
    who: String,
    /// The subject: a setting, `allow:PRINCIPAL`, `created`, or a member of KEYSPACE_LIST.
    pub what: String,
    /// The value before the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The value after the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// When a temporary override expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until_unix_ms: Option<u64>,
}

impl Change {
    pub(super) fn new(by: &ChangeAuthor, what: &str) -> Change {
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

    /// Returns the changes, newest first.
    pub fn iter(&self) -> impl Iterator<Item = &Change> {
        self.0.iter().rev()
    }
}
