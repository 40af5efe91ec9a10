//! A shard's port over labels instead of keys: it signs with a fixed text, and a lock is a flag that it checks itself.

use std::cell::Cell;
use std::rc::Rc;

use keyway_core::{Instant, Loaded};
use keyway_node::messages::DekBytes;
use keyway_node::port::{
    Blob, BlobHead, Cost, KeyState, Known, Making, Name, NoRoom, OpError, OpenError, Operation,
    Port, Seal, Sealed, WriteError,
};
use keyway_node::shard::Use;
use keyway_protocol::Status;

/// What every result of a key begins with, and no other answer contains.
pub(super) const SIGNED: &[u8] = b"\xffsigned by a key\xff";

/// Keyspaces from 1 on.
pub(super) const KEYSPACES: usize = 2;

/// What the port and the script share.
#[derive(Default)]
pub(super) struct World {
    pub(super) now_us: Cell<u64>,
    /// How long an operation takes, µs.
    pub(super) operation_us: Cell<u64>,
    pub(super) cost: Cell<u8>,
    /// What opening and sealing end with.
    pub(super) mood: Cell<u8>,
    /// Control has locked the keyspace: nothing of it may be used.
    pub(super) is_locked: [Cell<bool>; KEYSPACES],
    pub(super) operations: Cell<u64>,
}

impl World {
    pub(super) fn now(&self) -> Instant {
        Instant::from_micros(self.now_us.get())
    }

    pub(super) fn pass(&self, us: u64) {
        self.now_us.set(self.now_us.get() + us);
    }

    fn is_locked(&self, keyspace: u32) -> bool {
        let at = (keyspace as usize).wrapping_sub(1);
        self.is_locked.get(at).is_none_or(Cell::get)
    }
}

/// The port.
pub(super) struct Labels(pub(super) Rc<World>);

impl Port for Labels {
    type Key = u32;
    type Dek = u32;

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn unix_ms(&self) -> u64 {
        self.0.now_us.get() / 1_000
    }

    fn cost(&self, version: &u32, _: &Operation<'_>) -> Cost {
        match self.0.cost.get() % 4 {
            0 | 1 => Cost::Fast,
            2 => Cost::Slow,
            _ => Cost::Unreserved { version: *version },
        }
    }

    fn perform(
        &self,
        with: Use<'_, u32>,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        self.0.operations.set(self.0.operations.get() + 1);
        assert!(self.now() < with.expires_at(), "a key is used past its end");
        let keyspace = operation.frame.keyspace_id;
        assert!(
            !self.0.is_locked(keyspace),
            "a key of keyspace {keyspace} is used, and it is locked"
        );
        out.extend_from_slice(SIGNED);
        self.0.pass(self.0.operation_us.get());
        match operation.frame.payload.first() {
            Some(0xee) => Err(OpError {
                status: Status::BadRequest,
                explanation: "the key cannot do this".to_owned(),
            }),
            _ => Ok(*with.key()),
        }
    }

    fn take_dek(&self, dek: Box<DekBytes>) -> Result<u32, NoRoom> {
        match self.0.mood.get() & 1 {
            0 => Ok(dek.generation),
            _ => Err(NoRoom("the arena is full".to_owned())),
        }
    }

    fn open(
        &self,
        _: &u32,
        _: Name<'_>,
        blob: &Blob,
        _: Instant,
    ) -> Result<Loaded<u32>, OpenError> {
        match self.0.mood.get() % 5 {
            1 => Err(OpenError::NoRoom("the arena is full".to_owned())),
            2 => Err(OpenError::Corrupt("the tag is wrong".to_owned())),
            _ => Ok(Loaded {
                version: blob.version,
                dek_generation: 1,
                key_bytes: 64,
                not_after: None,
                value: blob.version,
            }),
        }
    }

    fn seal(
        &self,
        under: &u32,
        _: Name<'_>,
        _: Seal<'_, u32>,
    ) -> Result<Option<Sealed>, WriteError> {
        match self.0.mood.get() % 7 {
            3 => Ok(None),
            4 => Err(WriteError::Bad("no such material".to_owned())),
            5 => Err(WriteError::Overloaded("the arena is full".to_owned())),
            _ => Ok(Some(Sealed {
                version: 1,
                bytes: under.to_le_bytes().to_vec(),
            })),
        }
    }

    fn head_of(&self, blob: &[u8]) -> Result<BlobHead, String> {
        match blob.first() {
            None => Err("no blob".to_owned()),
            Some(algorithm) => Ok(BlobHead {
                dek_generation: 1 + u32::from(self.0.mood.get() % 2),
                algorithm: *algorithm,
                versions: None,
            }),
        }
    }

    fn can_make(&self, algorithm: Option<u8>) -> Result<Making, WriteError> {
        match algorithm.map(|code| code % 4) {
            None | Some(0 | 1) => Ok(Making::Quick),
            Some(2) => Ok(Making::Slow),
            Some(_) => Err(WriteError::Bad("not here".to_owned())),
        }
    }

    fn known(&self, name: Name<'_>) -> Option<Known> {
        let state = match name.key_id.first()? {
            b'n' => return None,
            b'r' => KeyState::Revoked,
            b'd' => KeyState::Deleted,
            b'x' => KeyState::Damaged,
            _ => KeyState::Live,
        };
        Some(Known {
            version: 1,
            revision: 1,
            state,
        })
    }

    fn revoke(&self, _: Name<'_>, _: u64, _: bool) -> Result<(), WriteError> {
        match self.0.mood.get() % 6 {
            5 => Err(WriteError::Store("the disk is full".to_owned())),
            _ => Ok(()),
        }
    }

    fn revoke_version(&self, _: Name<'_>, _: u32, _: u64, _: bool) -> Result<(), WriteError> {
        Ok(())
    }
}
