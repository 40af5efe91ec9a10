//! What the live page shows and only control knows: the settings in force, and the hot keys. It is made while somebody
//! looks at the page, and not otherwise.

use std::collections::BTreeMap;

use keyway_protocol::HotBy;
use serde_json::Value;

use super::Control;
use super::effect::{ControlEffect, ControlFigures};
use crate::catalogue::Keyspace;
use crate::figures::{HotSnapshot, SettingSnapshot, SettingsSnapshot, Until};

/// Keys that the page lists of a keyspace, in each order.
const HOT_KEYS_MAX: usize = 10;

/// Keyspaces of which the shards are asked for hot keys in one second: two questions each, which take each shard 40 µs
/// of a turn. Where there are more, they take turns.
const HOT_KEYSPACES_MAX: usize = 8;

/// The orders that the page shows.
const ORDERS: [HotBy; 2] = [HotBy::Requests, HotBy::Waiters];

/// What the page may show, and how far it is.
pub(super) struct Page {
    key_ids: bool,
    /// Questions that are not answered.
    asking: usize,
    /// The last keyspace whose hot keys were asked for.
    asked: u32,
}

impl Page {
    /// `key_ids`: whether it names keys.
    pub(super) fn new(key_ids: bool) -> Page {
        Page {
            key_ids,
            asking: 0,
            asked: 0,
        }
    }
}

impl Control {
    /// Tells the exporter what the page shows. To be called once a second while anybody looks.
    pub(super) fn feed_page(&mut self) {
        let written = self.in_force.written().iter();
        let settings = written.filter_map(|(id, keyspace)| settings_in_force(id, keyspace));
        let settings = ControlFigures::Settings(settings.collect());
        self.effects.push_back(ControlEffect::Figures(settings));
        // Shards that are slow to answer are not asked again meanwhile.
        if self.beside.page.asking > 0 {
            return;
        }
        let ids: Vec<u32> = self.in_force.written().iter().map(|(id, _)| id).collect();
        let turn = in_turn(&ids, self.beside.page.asked);
        self.beside.page.asking = turn.len() * ORDERS.len();
        for keyspace in turn {
            self.beside.page.asked = keyspace;
            for by in ORDERS {
                self.ask_for_hot(None, keyspace, by, HOT_KEYS_MAX);
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

/// Those behind the last one that was asked for, and from the first on again; `ids` in order.
fn in_turn(ids: &[u32], asked: u32) -> Vec<u32> {
    let (before, behind) = ids.split_at(ids.partition_point(|id| *id <= asked));
    let all = behind.iter().chain(before);
    all.take(HOT_KEYSPACES_MAX).copied().collect()
}

/// Settings only: who may do what is not the page's to show.
fn settings_in_force(id: u32, keyspace: &Keyspace) -> Option<SettingsSnapshot> {
    let mut ends: BTreeMap<&str, Until> = keyspace
        .overrides()
        .map(|(name, temporary, then)| {
            let unix_ms = temporary.until_unix_ms;
            (name, Until { unix_ms, then })
        })
        .collect();
    // A keyspace whose settings cannot be read was refused at the start.
    let settings = keyspace.settings().ok()?;
    let settings = settings.iter().map(|(name, value)| SettingSnapshot {
        name,
        value,
        until: ends.remove(name),
    });
    Some(SettingsSnapshot {
        keyspace: id,
        kms: keyspace.kms.clone(),
        generation: keyspace.generation(),
        settings: settings.collect(),
    })
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
    fn keyspaces_take_turns_where_there_are_many() {
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
    fn what_is_left_without_key_ids_is_the_figures() {
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
