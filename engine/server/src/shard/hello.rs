//! The greeting: version, shard map and the keyspaces that the peer may use.

use keyway_protocol::limits::{KEYSPACE_COUNT_MAX, PAYLOAD_LEN_MAX};
use keyway_protocol::{KeyspaceEntry, KeyspaceName, ServerHello, ShardMap, VERSION};

use super::Shard;
use crate::authorise::Principal;

impl Shard {
    /// What this shard answers to HELLO from `principal`.
    pub fn server_hello(&self, principal: Principal) -> Result<ServerHello, String> {
        let map = ShardMap::new(self.router.seed(), self.ports.clone())
            .map_err(|error| error.to_string())?;
        let keyspaces = self.keyspaces.borrow();
        let visible = keyspaces.visible(&self.owner, principal);
        let more = visible.len() > KEYSPACE_COUNT_MAX;
        let entries = visible
            .into_iter()
            .take(KEYSPACE_COUNT_MAX)
            .filter_map(|id| {
                let name = KeyspaceName::new(&keyspaces.of(id)?.name).ok()?;
                Some(KeyspaceEntry { id, name })
            });
        Ok(ServerHello {
            version: VERSION,
            dev: self.owner.dev,
            more,
            this_shard: self.index,
            payload_len_max: PAYLOAD_LEN_MAX as u32,
            map,
            keyspaces: entries.collect(),
        })
    }
}
