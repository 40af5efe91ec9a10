//! What a diagnosis starts from.

use std::collections::BTreeMap;

use keyway_client::{HotKey, HotKeys, KeyspaceChange, KeyspaceInfo};

use crate::text;
use crate::vitals::{Change, Keyspace, ServerStatus};

/// What is known of a server.
#[derive(Debug)]
pub struct Evidence {
    /// Status documents, the earliest first: two at least.
    pub samples: Vec<ServerStatus>,
    /// What else was asked, by the keyspace's name.
    pub listed: BTreeMap<String, KeyspaceDetails>,
}

/// Details of a keyspace beside its metrics. What could not be queried is missing.
#[derive(Debug, Default)]
pub struct KeyspaceDetails {
    /// Its settings.
    pub info: Option<KeyspaceInfo>,
    /// Its keys that were asked for most.
    pub hot: Option<HotKeys>,
    /// Its keys that were waited for most.
    pub waited_for: Option<HotKeys>,
    /// What was changed, newest first.
    pub changes: Vec<KeyspaceChange>,
}

impl Evidence {
    /// From the first document to the last.
    pub fn change(&self) -> Change<'_> {
        Change {
            before: &self.samples[0],
            now: &self.samples[self.samples.len() - 1],
        }
    }

    /// Returns the details of a keyspace.
    pub fn of(&self, keyspace: &str) -> &KeyspaceDetails {
        static NOTHING: KeyspaceDetails = KeyspaceDetails {
            info: None,
            hot: None,
            waited_for: None,
            changes: Vec::new(),
        };
        self.listed.get(keyspace).unwrap_or(&NOTHING)
    }

    /// The names of the keyspaces, those first that had the most requests or failures.
    pub fn busiest(&self) -> Vec<String> {
        let mut ranked: Vec<(u64, &str)> = self
            .change()
            .keyspaces()
            .map(|(before, now)| {
                let of = |it: &Keyspace| {
                    text::sum([
                        it.answered_in_all(),
                        it.rehydrate_fail_total,
                        it.singleflight_wait_timeout_total,
                    ])
                };
                (of(now).saturating_sub(of(&before)), now.name.as_str())
            })
            .collect();
        ranked.sort_by_key(|(rise, _)| std::cmp::Reverse(*rise));
        ranked
            .into_iter()
            .map(|(_, name)| name.to_owned())
            .collect()
    }

    /// How long ago a moment of the server's clock is, in words.
    pub fn ago(&self, unix_ms: u64) -> String {
        let now = self.change().now.unix_ms;
        match now.saturating_sub(unix_ms) / 1_000 {
            0..60 => "less than a minute ago".into(),
            // Seconds are of no use here, and minutes not after an hour.
            total @ 60..3_600 => format!("{} ago", text::count(total / 60, "minute")),
            total @ 3_600..86_400 => format!("{} ago", text::count(total / 3_600, "hour")),
            total => format!("{} ago", text::count(total / 86_400, "day")),
        }
    }

    /// How a setting of a keyspace came to be what it is, if the history still has it:
    /// `max_in_flight was set to 0 by uid:1000 12 minutes ago (before: 64)`.
    pub fn last_change(&self, keyspace: &str, what: &str) -> Option<String> {
        let changes = &self.of(keyspace).changes;
        let change = changes.iter().find(|change| change.what == what)?;
        let to = change.to.as_deref().unwrap_or("none");
        let ago = self.ago(change.unix_ms);
        let before = match &change.from {
            Some(from) => format!(" (before: {from})"),
            None => String::new(),
        };
        if what == "locked" {
            let done = if to == "true" { "locked" } else { "unlocked" };
            return Some(format!("it was {done} by {} {ago}", change.who));
        }
        Some(match change.who.as_str() {
            "expired" => format!("{what} reverted to {to} automatically {ago}{before}"),
            who => format!("{what} was set to {to} by {who} {ago}{before}"),
        })
    }
}

impl KeyspaceDetails {
    /// A setting that is a number.
    pub fn number(&self, setting: &str) -> Option<u64> {
        self.text(setting)?.parse().ok()
    }

    /// A setting.
    pub fn text(&self, setting: &str) -> Option<&str> {
        let settings = &self.info.as_ref()?.settings;
        settings.get(setting).map(String::as_str)
    }

    /// The key that was waited for most, if any was for sure.
    pub fn most_waited_for(&self) -> Option<(&HotKey, u64)> {
        let hot = self.waited_for.as_ref()?;
        let sure = |key: &&HotKey| key.waiters.count > key.waiters.excess_max;
        let key = hot.keys.iter().find(sure)?;
        Some((key, hot.totals.waiters))
    }
}
