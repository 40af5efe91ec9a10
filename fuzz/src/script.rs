//! Reading fuzzed bytes as a script: small numbers off the front, zeros past the end.

/// The rest of a script.
#[derive(Clone, Copy)]
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// From 0 to `bound - 1`; 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::from(self.u16()) % bound.max(1)
    }

    /// Up to `len` bytes as they stand.
    pub(crate) fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}

/// One change to `bytes`, as the script says: some byte set or flipped, some bytes copied, put in,
/// taken out, or the end cut off or added to. `other` is where some copies come from.
pub(crate) fn edit(script: &mut Script<'_>, bytes: &mut Vec<u8>, other: &[u8]) {
    let kind = script.u8();
    // Half of the kinds change the front, where the headers are.
    let at = if kind & 0x80 == 0 {
        script.below(bytes.len() + 1)
    } else {
        usize::from(script.u8() & 0x7f).min(bytes.len())
    };
    match kind % 8 {
        0 => {
            let mask = script.u8();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
        }
        1 => {
            let value = script.u8();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        2 => bytes.truncate(at),
        3 => {
            let len = script.below(64);
            let added = script.bytes(len);
            bytes.extend_from_slice(added);
        }
        4 => {
            let len = script.below(32);
            let added = script.bytes(len);
            bytes.splice(at..at, added.iter().copied());
        }
        5 => {
            let end = (at + script.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
        // The same stretch of the other bytes.
        6 => {
            let end = (at + script.below(1_024)).min(bytes.len()).min(other.len());
            if at < end {
                bytes[at..end].copy_from_slice(&other[at..end]);
            }
        }
        // Another stretch of its own.
        _ => {
            let from = script.below(bytes.len() + 1);
            let len = script.below(512).min(bytes.len() - at.max(from));
            bytes.copy_within(from..from + len, at);
        }
    }
}
