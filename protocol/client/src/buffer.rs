//! Buffers that leave no secrets behind.

use keyway_protocol::limits::{HEADER_LEN, PAYLOAD_LEN_MAX};
use zeroize::Zeroize;

/// Room for the longest answer and as much again, so that one read can bring many short ones.
const READ_LEN_MAX: usize = 2 * (HEADER_LEN + PAYLOAD_LEN_MAX);

/// Bytes that have come and have not been understood yet. Its memory never moves, so that no
/// forgotten copy of an answer stays behind.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; READ_LEN_MAX].into(),
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Room to read into. Never empty while decoded frames are consumed: a partial frame is at
    /// most half of the buffer.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            let kept = self.end - self.start;
            self.bytes[kept.max(self.start)..self.end].zeroize();
            (self.start, self.end) = (0, kept);
        }
        &mut self.bytes[self.end..]
    }

    /// `count` bytes have been read into the room.
    pub(crate) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(
            self.end <= self.bytes.len(),
            "more read than there was room"
        );
    }

    /// The first `count` bytes have been understood.
    pub(crate) fn consume(&mut self, count: usize, wipe: bool) {
        assert!(count <= self.end - self.start, "consumed what never came");
        if wipe {
            self.bytes[self.start..self.start + count].zeroize();
        }
        self.start += count;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Frames to be sent. It grows by copying to a new place and wiping the old one.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    bytes: Vec<u8>,
    is_secret: bool,
}

impl WriteBuffer {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Room for `additional` more bytes, which may be secret: append no more than that.
    pub(crate) fn reserve(&mut self, additional: usize, is_secret: bool) -> &mut Vec<u8> {
        let needed = self.bytes.len() + additional;
        if needed > self.bytes.capacity() {
            let mut grown = Vec::with_capacity(needed.max(2 * self.bytes.capacity()));
            grown.extend_from_slice(&self.bytes);
            self.wipe();
            self.bytes = grown;
        }
        self.is_secret |= is_secret;
        &mut self.bytes
    }

    pub(crate) fn clear(&mut self) {
        self.wipe();
        self.bytes.clear();
        self.is_secret = false;
    }

    fn wipe(&mut self) {
        if self.is_secret {
            self.bytes.zeroize();
        }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_moves_to_the_front_and_its_old_place_is_wiped() {
        let mut buffer = ReadBuffer::new();
        buffer.room()[..6].copy_from_slice(b"abcdef");
        buffer.filled(6);
        buffer.consume(2, true);
        assert_eq!(buffer.unread(), b"cdef");
        buffer.room();
        assert_eq!(buffer.unread(), b"cdef");
        assert_eq!(buffer.bytes[..6], *b"cdef\0\0");
    }

    #[test]
    fn a_partial_answer_always_leaves_room_for_its_rest() {
        let mut buffer = ReadBuffer::new();
        let partial = HEADER_LEN + PAYLOAD_LEN_MAX - 1;
        buffer.room();
        buffer.filled(READ_LEN_MAX);
        buffer.consume(READ_LEN_MAX - partial, false);
        assert!(buffer.room().len() > HEADER_LEN + PAYLOAD_LEN_MAX);
    }

    #[test]
    fn a_write_buffer_keeps_its_bytes_when_it_grows() {
        let mut buffer = WriteBuffer::default();
        for _ in 0..100 {
            buffer.reserve(7, true).extend_from_slice(b"7 bytes");
        }
        assert_eq!(buffer.bytes(), b"7 bytes".repeat(100));
        buffer.clear();
        assert!(buffer.is_empty() && !buffer.is_secret);
    }
}
