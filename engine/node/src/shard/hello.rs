//! The answer to HELLO: version, shard map and the keyspaces that the peer may use.

use keyway_protocol::limits::{KEYSPACE_COUNT_MAX, PAYLOAD_LEN_MAX};
use keyway_protocol::{KeyspaceEntry, KeyspaceName, ServerHello, ShardMap, VERSION};

use super::Shard;
use super::port::Port;
use crate::policy::Principal;

impl<P: Port> Shard<P> {
    /// Returns what this shard answers to HELLO from `who`.
    pub(super) fn server_hello(&self, who: Principal) -> Result<ServerHello, String> {
        let site = &self.site;
        let map = ShardMap::new(site.router.seed(), site.ports.clone())
            .map_err(|error| error.to_string())?;
        let visible = self.governed.visible(who);
        let more = visible.len() > KEYSPACE_COUNT_MAX;
        let entries = visible
            .into_iter()
            .take(KEYSPACE_COUNT_MAX)
            .filter_map(|id| {
                let governed = &self.governed[self.governed.find(id)?];
                let name = KeyspaceName::new(&governed.name).ok()?;
                Some(KeyspaceEntry { id, name })
            });
        Ok(ServerHello {
            version: VERSION,
            dev: self.governed.owner.dev,
            more,
            this_shard: site.index,
            payload_len_max: PAYLOAD_LEN_MAX as u32,
            map,
            keyspaces: entries.collect(),
        })
    }
}
