//! Data for the live page that only control has: the settings in effect, and the hot keys. It is collected only while the
//! page is being viewed.

use std::collections::BTreeMap;

use keyway_protocol::HotBy;
use serde_json::Value;

use super::Control;
use super::effect::{ControlEffect, ControlFigures};
use crate::catalogue::{Keyspace, Subject};
use crate::figures::{HotSnapshot, SettingSnapshot, SettingsSnapshot, Until};

/// Most keys per keyspace and order on the page.
const HOT_KEYS_MAX: usize = 10;

/// Most keyspaces for which hot keys are requested per second: two requests each, which cost each shard 40 µs of a turn.
/// If there are more keyspaces, they take turns.
const HOT_KEYSPACES_MAX: usize = 8;

/// The orders shown on the page.
const ORDERS: [HotBy; 2] = [HotBy::Requests, HotBy::Waiters];

/// The state of the live page.
pub(super) struct Page {
    key_ids: bool,
    /// Requests in flight.
    asking: usize,
    /// The last keyspace for which hot keys were requested.
    asked: u32,
}

impl Page {
    /// Creates the state. `key_ids` specifies whether the page shows key ids.
    pub(super) fn new(key_ids: bool) -> Page {
        Page {
            key_ids,
            asking: 0,
            asked: 0,
        }
    }
}

impl Control {
    /// Sends the data to the exporter. Called once a second while the page is being viewed.
    pub(super) fn feed_page(&mut self) {
        let written = self.in_force.written().iter();
        let settings = written.map(|(id, keyspace)| settings_in_force(id, keyspace));
        let settings = ControlFigures::Settings(settings.collect());
        self.effects.push_back(ControlEffect::Figures(settings));
        // Slow shards get no further request in the meantime.
        if self.beside.page.asking > 0 {
            return;
        }
        let ids: Vec<u32> = self.in_force.written().iter().map(|(id, _)| id).collect();
        let turn = in_turn(&ids, self.beside.page.asked);
        self.beside.page.asking = turn.len() * ORDERS.len();
        for keyspace in turn {
            self.beside.page.asked = keyspace;
            for by in ORDERS {
                self.request_hot(None, keyspace, by, HOT_KEYS_MAX);
            }
        }
    }

    pub(super) fn push_hot(&mut self, keyspace: u32, by: HotBy, mut document: Value) {
        self.beside.page.asking = self.beside.page.asking.saturating_sub(1);
        if !self.beside.page.key_ids {
            take_key_ids(&mut document);
        }
        let hot = HotSnapshot {
            keyspace,
            by,
            document,
        };
        let figures = ControlFigures::Hot(hot);
        self.effects.push_back(ControlEffect::Figures(figures));
    }
}

/// Returns the ids after `asked`, followed by those from the first. `ids` is sorted.
fn in_turn(ids: &[u32], asked: u32) -> Vec<u32> {
    let (before, behind) = ids.split_at(ids.partition_point(|id| *id <= asked));
    let all = behind.iter().chain(before);
    all.take(HOT_KEYSPACES_MAX).copied().collect()
}

/// Returns the settings in effect. The page does not show grants.
fn settings_in_force(id: u32, keyspace: &Keyspace) -> SettingsSnapshot {
    let mut ends: BTreeMap<&Subject, Until> = keyspace
        .overrides()
        .map(|(subject, temporary, then)| {
            let unix_ms = temporary.until_unix_ms;
            (subject, Until { unix_ms, then })
        })
        .collect();
    let settings = keyspace.settings();
    let settings = settings.iter().map(|(name, value)| SettingSnapshot {
        name: name.as_str(),
        value,
        until: ends.remove(&Subject::Setting(name)),
    });
    SettingsSnapshot {
        keyspace: id,
        kms: keyspace.kms.clone(),
        generation: keyspace.generation(),
        settings: settings.collect(),
    }
}

fn take_key_ids(document: &mut Value) {
    let keys = document["keys"].as_array_mut();
    for key in keys.into_iter().flatten() {
        if let Some(key) = key.as_object_mut() {
            key.remove("key");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_keyspaces_take_turns() {
        let ids: Vec<u32> = (1..=20).collect();
        let mut asked = 0;
        let mut turns = Vec::new();
        for _ in 0..5 {
            let turn = in_turn(&ids, asked);
            assert_eq!(turn.len(), HOT_KEYSPACES_MAX);
            asked = turn[turn.len() - 1];
            turns.extend(turn);
        }
        let twice: Vec<u32> = (1..=20).chain(1..=20).collect();
        assert_eq!(turns, twice);
        assert_eq!(in_turn(&[3, 7], 3), [7, 3]);
        assert_eq!(in_turn(&[], 3), Vec::<u32>::new());
    }

    #[test]
    fn counts_remain_without_key_ids() {
        let mut document = serde_json::json!({
            "by": "requests",
            "keys": [{ "key": "alice", "shard": 1 }, { "key": "bob", "shard": 0 }],
        });
        take_key_ids(&mut document);
        let expected =
            serde_json::json!({ "by": "requests", "keys": [{ "shard": 1 }, { "shard": 0 }] });
        assert_eq!(document, expected);
    }
}
