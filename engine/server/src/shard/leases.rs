//! What a shard does with the control thread's words about DEKs and locks, apart from its sockets.

use keyway_core::{Instant, KeyspaceId, LeaseEvent};

use keyway_node::messages::{DekBytes, DekCopies};

/// Where a shard keeps its DEKs.
pub trait DekShelf {
    /// Keeps a DEK until it is dropped; the bytes are wiped.
    ///
    /// Errors: there is no room.
    fn hold(&self, keyspace: u32, dek: Box<DekBytes>) -> Result<(), String>;

    /// Wipes a keyspace's DEKs.
    fn drop_all(&self, keyspace: u32);
}

/// The KMS has answered. What comes too late for a lock is dropped again by the core's next action.
pub fn hear_lease<V>(
    core: &mut keyway_core::Shard<V>,
    shelf: &impl DekShelf,
    now: Instant,
    keyspace: u32,
    event: LeaseEvent,
    deks: DekCopies,
) {
    // A lock may have overtaken it on the way. Then nothing of it is kept, not even until the core says so.
    let is_locked = core
        .gauges(now, KeyspaceId(keyspace))
        .is_some_and(|gauges| gauges.locked);
    for dek in deks.into_iter().filter(|_| !is_locked) {
        if let Err(error) = shelf.hold(keyspace, dek) {
            tracing::error!(keyspace, %error, "no room for the DEK");
        }
    }
    core.handle_lease(now, KeyspaceId(keyspace), event);
}

/// Purges a keyspace; it is then safe to say that nothing of it is used any more.
pub fn hear_lock<V>(
    core: &mut keyway_core::Shard<V>,
    shelf: &impl DekShelf,
    now: Instant,
    keyspace: u32,
) {
    core.handle_lock(now, KeyspaceId(keyspace));
    shelf.drop_all(keyspace);
}
