//! Keyspaces that copies of the catalogue share. Each change is made to a copy, so copying ten thousand keyspaces must
//! not cost ten thousand steps: they are shared in blocks, and a change replaces one block.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Keyspace;

/// Ids per block: about the square root of the most keyspaces that a node can have.
const BLOCK_IDS: u32 = 128;

type Block = BTreeMap<u32, Arc<Keyspace>>;

/// Keyspaces by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    /// By id / [`BLOCK_IDS`]; none is empty.
    blocks: BTreeMap<u32, Arc<Block>>,
}

impl Shared {
    pub(super) fn len(&self) -> usize {
        self.blocks.values().map(|block| block.len()).sum()
    }

    pub(super) fn get(&self, id: u32) -> Option<&Arc<Keyspace>> {
        self.blocks.get(&(id / BLOCK_IDS))?.get(&id)
    }

    /// Iterates by rising id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Arc<Keyspace>)> {
        let keyspaces = self.blocks.values().flat_map(|block| block.iter());
        keyspaces.map(|(id, keyspace)| (*id, keyspace))
    }

    /// Returns a copy of this keyspace that other catalogues do not share, for changing it.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Keyspace> {
        let block = self.blocks.get_mut(&(id / BLOCK_IDS))?;
        if !block.contains_key(&id) {
            return None;
        }
        Arc::make_mut(block).get_mut(&id).map(Arc::make_mut)
    }

    pub(super) fn insert(&mut self, id: u32, keyspace: Keyspace) {
        self.put(id, Arc::new(keyspace));
    }

    /// Restores a keyspace that was there.
    pub(super) fn put(&mut self, id: u32, keyspace: Arc<Keyspace>) {
        let block = self.blocks.entry(id / BLOCK_IDS).or_default();
        Arc::make_mut(block).insert(id, keyspace);
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Arc<Keyspace>> {
        let block = self.blocks.get_mut(&(id / BLOCK_IDS))?;
        let removed = Arc::make_mut(block).remove(&id);
        if block.is_empty() {
            self.blocks.remove(&(id / BLOCK_IDS));
        }
        removed
    }
}

impl Serialize for Shared {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter().map(|(id, keyspace)| (id, &**keyspace)))
    }
}

#[cfg(test)]
mod tests {
    use keyway_core::Instant;

    use super::super::{Catalogue, ChangeAuthor};
    use super::*;
    use crate::time::Moment;

    #[test]
    fn change_replaces_one_block_and_does_not_affect_other_copies() {
        let mut catalogue = Catalogue::default();
        let by = ChangeAuthor::server(Moment {
            unix_ms: 1,
            instant: Instant::ZERO,
        });
        for number in 0..3 * BLOCK_IDS {
            let name = format!("k{number}");
            catalogue.make(&name, "", "local", b"wrapped", &by).unwrap();
        }
        let before = catalogue.clone();
        catalogue.set_locked(BLOCK_IDS + 1, true, &by).unwrap();
        let shared = |at: u32| {
            let blocks = [&before, &catalogue].map(|it| &it.keyspaces.blocks[&at]);
            Arc::ptr_eq(blocks[0], blocks[1])
        };
        assert_eq!([0, 1, 2].map(shared), [true, false, true]);
        assert!(!before.keyspace(BLOCK_IDS + 1).unwrap().locked);
        let ids: Vec<u32> = catalogue.iter().map(|(id, _)| id).collect();
        assert_eq!(ids, (1..=3 * BLOCK_IDS).collect::<Vec<_>>());
        assert_eq!(catalogue.keyspaces.len(), ids.len());
        let mut read = Catalogue::parse(&catalogue.text()).unwrap().keyspaces;
        assert!(read.iter().eq(catalogue.keyspaces.iter()));
        for id in ids {
            assert!(read.remove(id).is_some() && read.get_mut(id).is_none());
        }
        assert!(read.blocks.is_empty() && read.remove(1).is_none());
    }
}
