//! Copies of requests that cannot be carried out yet, and the memory that they may take together.

use std::cell::Cell;
use std::rc::Rc;

use keyway_protocol::RequestFrame;
use zeroize::Zeroize;

use super::Shard;
use crate::accounts::HELD_BYTES_RESERVED;

/// Bytes of requests that a shard keeps for later, all together.
pub const HELD_BYTES_MAX: usize = 64 << 20;

/// A claim on the shard's memory for held requests; given back when dropped.
pub struct Claim {
    bytes: usize,
    total: Rc<Cell<usize>>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.total.set(self.total.get() - self.bytes);
    }
}

/// A whole request frame kept for later; wiped when dropped.
pub struct HeldFrame {
    bytes: Vec<u8>,
    _claim: Claim,
}

impl HeldFrame {
    /// The request, decoded again.
    pub fn frame(&self) -> Option<RequestFrame<'_>> {
        // It was encoded here, so it decodes.
        RequestFrame::decode(&self.bytes)
            .ok()
            .flatten()
            .map(|(frame, _)| frame)
    }
}

impl Drop for HeldFrame {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Shard {
    /// Keeps a copy of a request; `None` when the shard holds too much already.
    pub(super) fn hold(&self, frame: &RequestFrame<'_>) -> Option<HeldFrame> {
        let (bytes, claim) = self.encode_held(frame, HELD_BYTES_RESERVED)?;
        Some(HeldFrame {
            bytes,
            _claim: claim,
        })
    }

    /// A request's bytes and the claim for them, for a request that another shard carries out. `reserved` bytes stay free
    /// for others.
    pub(super) fn encode_held(
        &self,
        frame: &RequestFrame<'_>,
        reserved: usize,
    ) -> Option<(Vec<u8>, Claim)> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).ok()?;
        let total = self.held_bytes.get() + bytes.len();
        if total + reserved > HELD_BYTES_MAX {
            return None;
        }
        self.held_bytes.set(total);
        let claim = Claim {
            bytes: bytes.len(),
            total: Rc::clone(&self.held_bytes),
        };
        Some((bytes, claim))
    }
}
