//! The data key that blobs are sealed under.

use crate::arena::{Arena, ArenaBytes, ArenaError};
use crate::wipe::wipe;
use core::fmt;

/// Length of a DEK, in bytes.
pub const DEK_LEN: usize = 32;

/// One generation of a keyspace's data key, in the arena; wiped on drop.
pub struct Dek {
    generation: u32,
    bytes: ArenaBytes,
}

impl Dek {
    /// Moves a DEK into the arena: `bytes` are wiped, also when there is no room.
    pub fn new(
        arena: &Arena,
        generation: u32,
        bytes: &mut [u8; DEK_LEN],
    ) -> Result<Self, ArenaError> {
        let copy = ArenaBytes::copied(arena, bytes);
        wipe(bytes);
        Ok(Self {
            generation,
            bytes: copy?,
        })
    }

    /// Which generation of its keyspace's DEKs this is.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dek(generation {})", self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::ArenaOptions;

    #[test]
    fn the_callers_copy_is_wiped_and_so_is_ours_in_the_end() {
        let arena = Arena::new(ArenaOptions {
            capacity_bytes: 1 << 16,
            lock: false,
        })
        .unwrap();
        let mut bytes = [0x5a; DEK_LEN];
        let dek = Dek::new(&arena, 3, &mut bytes).unwrap();
        assert_eq!(bytes, [0; DEK_LEN]);
        assert_eq!(dek.bytes(), [0x5a; DEK_LEN]);
        assert_eq!(format!("{dek:?}"), "Dek(generation 3)");
        drop(dek);
        assert!(arena.snapshot().iter().all(|b| *b == 0));
    }
}
