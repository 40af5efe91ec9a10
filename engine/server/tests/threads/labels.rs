//! A shard's port without keys.

use std::cell::Cell;
use std::rc::Rc;

use keyway_core::{Instant, Loaded};
use keyway_node::messages::DekBytes;
use keyway_node::port::{
    Blob, BlobHead, Cost, Known, Making, Name, NoRoom, OpError, OpenError, Operation, Port, Seal,
    Sealed, WriteError,
};
use keyway_node::shard::Use;

/// Dummy keys, DEKs that are counted, and blobs that consist of the number of their DEK.
pub struct Labels {
    pub now: Rc<Cell<Instant>>,
    pub deks: Rc<Cell<usize>>,
}

/// A DEK in memory.
pub struct Held {
    generation: u32,
    deks: Rc<Cell<usize>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.deks.set(self.deks.get() - 1);
    }
}

impl Port for Labels {
    type Key = ();
    type Dek = Held;

    fn now(&self) -> Instant {
        self.now.get()
    }

    fn unix_ms(&self) -> u64 {
        1
    }

    fn cost(&self, (): &(), _: &Operation<'_>) -> Cost {
        Cost::Fast
    }

    fn perform(&self, _: Use<'_, ()>, _: &Operation<'_>, _: &mut Vec<u8>) -> Result<u32, OpError> {
        Ok(1)
    }

    fn take_dek(&self, dek: Box<DekBytes>) -> Result<Held, NoRoom> {
        self.deks.set(self.deks.get() + 1);
        Ok(Held {
            generation: dek.generation,
            deks: Rc::clone(&self.deks),
        })
    }

    fn open(&self, _: &Held, _: Name<'_>, _: &Blob, _: Instant) -> Result<Loaded<()>, OpenError> {
        Err(OpenError::Corrupt("nothing is loaded here".to_owned()))
    }

    fn seal(
        &self,
        under: &Held,
        _: Name<'_>,
        _: Seal<'_, Held>,
    ) -> Result<Option<Sealed>, WriteError> {
        let bytes = under.generation.to_le_bytes().to_vec();
        Ok(Some(Sealed { version: 1, bytes }))
    }

    fn head_of(&self, _: &[u8]) -> Result<BlobHead, String> {
        Err("nothing is read here".to_owned())
    }

    fn can_make(&self, _: Option<u8>) -> Result<Making, WriteError> {
        Ok(Making::Quick)
    }

    fn known(&self, _: Name<'_>) -> Option<Known> {
        None
    }

    fn revoke(&self, _: Name<'_>, _: u64, _: bool) -> Result<(), WriteError> {
        Err(WriteError::NotFound)
    }

    fn revoke_version(&self, _: Name<'_>, _: u32, _: u64, _: bool) -> Result<(), WriteError> {
        Ok(())
    }
}
