//! Payload of KEYSPACE_HOT.

use alloc::vec::Vec;

use crate::limits::HOT_KEYS_MAX;
use crate::reader::{Reader, in_range};
use crate::{HotBy, ProtocolError};

/// KEYSPACE_HOT. The answer is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyspaceHot {
    /// What the keys are ordered by.
    pub by: HotBy,
    /// The most keys wanted, at most `HOT_KEYS_MAX`; 0 stands for that many.
    pub limit: u16,
}

impl KeyspaceHot {
    pub(super) fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let by = HotBy::try_from(reader.u8("order of hot keys")?)?;
        reader.reserved::<1>("reserved")?;
        let limit = reader.u16("limit")?;
        reader.finish("KEYSPACE_HOT")?;
        let hot = Self { by, limit };
        hot.check()?;
        Ok(hot)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.extend_from_slice(&[self.by.code(), 0]);
        out.extend_from_slice(&self.limit.to_le_bytes());
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        in_range("limit", u64::from(self.limit), 0, u64::from(HOT_KEYS_MAX))
    }

    /// The most keys that the answer may hold: 1 to `HOT_KEYS_MAX`.
    #[must_use]
    pub fn keys_max(&self) -> u16 {
        match self.limit {
            0 => HOT_KEYS_MAX,
            limit => limit,
        }
    }
}
