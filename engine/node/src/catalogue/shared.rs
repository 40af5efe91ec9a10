//! Keyspaces that copies of the catalogue share, as the file has them.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serializer};

use super::Keyspace;

pub(super) fn serialize<S: Serializer>(
    keyspaces: &BTreeMap<u32, Arc<Keyspace>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(keyspaces.iter().map(|(id, keyspace)| (id, &**keyspace)))
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<u32, Arc<Keyspace>>, D::Error> {
    let keyspaces = BTreeMap::<u32, Keyspace>::deserialize(from)?;
    let shared = keyspaces
        .into_iter()
        .map(|(id, keyspace)| (id, Arc::new(keyspace)));
    Ok(shared.collect())
}
