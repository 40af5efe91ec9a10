//! What the live page shows and only this thread knows: the settings in force, and the hot keys. It is made while
//! somebody looks at the page, and not otherwise.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use keyway_protocol::HotBy;
use serde_json::Value;

use super::Control;
use super::catalogue::Keyspace;
use super::kms::Kms;
use crate::metrics::exporter;
use crate::metrics::page::Viewers;
use crate::metrics::snapshot::{HotSnapshot, SettingSnapshot, SettingsSnapshot, Snapshot, Until};

/// Keys that the page lists of a keyspace, in each order.
const HOT_KEYS_MAX: usize = 10;

/// Keyspaces of which the shards are asked for hot keys in one second: two questions each, which take each shard 40 µs
/// of a turn. Where there are more, they take turns.
const HOT_KEYSPACES_MAX: usize = 8;

/// The orders that the page shows.
const ORDERS: [HotBy; 2] = [HotBy::Requests, HotBy::Waiters];

/// Who looks at the page, and what it may show.
#[derive(Debug, Default)]
pub struct Feed {
    viewers: Arc<Viewers>,
    key_ids: bool,
    asking: Cell<bool>,
    /// The last keyspace whose hot keys were asked for.
    asked: Cell<u32>,
}

impl Feed {
    /// For the page that has these viewers; `key_ids`: whether it names keys.
    pub fn new(viewers: Arc<Viewers>, key_ids: bool) -> Feed {
        Feed {
            viewers,
            key_ids,
            ..Feed::default()
        }
    }
}

impl<K: Kms + 'static> Control<K> {
    /// Tells the exporter what the page shows, if anybody looks. To be called once a second.
    pub(super) fn feed_page(self: &Rc<Self>) {
        if !self.page.viewers.end_second() {
            return;
        }
        let settings = {
            let catalogue = self.written();
            let in_force = |(id, keyspace)| settings_in_force(id, keyspace);
            catalogue.iter().filter_map(in_force).collect()
        };
        exporter::offer(&self.exporter, Snapshot::Settings(settings));
        // Shards that are slow to answer are not asked again meanwhile.
        if self.page.asking.replace(true) {
            return;
        }
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move {
            control.push_hot().await;
            control.page.asking.set(false);
        });
    }

    async fn push_hot(&self) {
        for keyspace in self.next_keyspaces() {
            self.page.asked.set(keyspace);
            for by in ORDERS {
                let mut document = self.hot_document(keyspace, by, HOT_KEYS_MAX).await;
                if !self.page.key_ids {
                    take_key_ids(&mut document);
                }
                let hot = HotSnapshot {
                    keyspace,
                    by,
                    document,
                };
                exporter::offer(&self.exporter, Snapshot::Hot(hot));
            }
        }
    }

    fn next_keyspaces(&self) -> Vec<u32> {
        let ids: Vec<u32> = self.written().iter().map(|(id, _)| id).collect();
        in_turn(&ids, self.page.asked.get())
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
        .limited()
        .map(|(name, limited, then)| {
            let unix_ms = limited.until_unix_ms;
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
