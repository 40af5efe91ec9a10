//! What control has said so far, and what it may say next.

use std::collections::BTreeMap;

use keyway_core::LeaseEvent;
use keyway_node::catalogue::Catalogue;
use keyway_node::keyspace_change::{Guard, KeyspaceChange};
use keyway_node::messages::ToShard;
use keyway_protocol::limits::PAYLOAD_LEN_MAX;

/// What has received and asked.
#[derive(Default)]
pub(super) struct Ledger {
    /// The newest change of each keyspace at each shard.
    told: BTreeMap<(u16, u32), KeyspaceChange>,
    /// Commands without an answer: the shard that each came from.
    waiting: BTreeMap<u64, u16>,
}

impl Ledger {
    pub(super) fn asks(&mut self, shard: u16, token: u64) {
        self.waiting.insert(token, shard);
    }

    /// Commands without an answer.
    pub(super) fn waiting(&self) -> Vec<u64> {
        self.waiting.keys().copied().collect()
    }

    /// A shard begins with this.
    pub(super) fn begins(&mut self, shard: u16, change: &KeyspaceChange) {
        self.told.insert((shard, change.id), change.clone());
    }

    /// The newest change that a shard has received of a keyspace.
    pub(super) fn told(&self, shard: u16, keyspace: u32) -> Option<&KeyspaceChange> {
        self.told.get(&(shard, keyspace))
    }

    /// Checks a message to a shard, by what is written.
    pub(super) fn hears(&mut self, shard: u16, message: &ToShard, durable: &Catalogue) {
        match message {
            ToShard::Keyspace(change) => {
                self.check_change(shard, change, durable);
                self.told.insert((shard, change.id), (**change).clone());
            }
            ToShard::Lease {
                keyspace,
                epoch,
                event: LeaseEvent::Granted { .. },
                ..
            } => {
                let told = self.told(shard, *keyspace);
                assert!(
                    told.is_none_or(|told| !told.guard.locked || *epoch < told.epoch),
                    "keyspace {keyspace} is locked at shard {shard}, and its DEKs are handed out"
                );
            }
            ToShard::Answer { token, payload, .. } => {
                let of = self.waiting.remove(token);
                assert_eq!(
                    of,
                    Some(shard),
                    "an answer to command {token}, which waits for none there"
                );
                assert!(payload.len() <= PAYLOAD_LEN_MAX, "the answer fits no frame");
            }
            _ => {}
        }
    }

    fn check_change(&self, shard: u16, change: &KeyspaceChange, durable: &Catalogue) {
        let id = change.id;
        let written = durable
            .keyspace(id)
            .expect("a keyspace is written before shards receive it");
        let guard = Guard::of(written);
        assert!(
            !guard.is_tighter_than(&change.guard),
            "keyspace {id}: shards receive {:?}, which is looser than {guard:?}, which is written",
            change.guard
        );
        assert!(
            change.seal_floor <= written.generation(),
            "keyspace {id}: shards are to seal under a DEK that is not written"
        );
        let Some(before) = self.told(shard, id) else {
            return;
        };
        assert!(
            change.revision > before.revision || change == before,
            "keyspace {id}: shard {shard} receives revision {:?} after {:?}",
            change.revision,
            before.revision
        );
        assert!(
            change.epoch >= before.epoch
                && change.opening >= before.opening
                && change.seal_floor >= before.seal_floor
                // A retired DEK comes back, and `oldest` with it.
                && change.oldest <= change.seal_floor,
            "keyspace {id}: shard {shard} receives {change:?} after {before:?}"
        );
    }
}
