//! Answers written straight into a connection's output buffer.

use alloc::format;
use alloc::vec::Vec;

use crate::limits::{EXPLANATION_LEN_MAX, HEADER_LEN, PAYLOAD_LEN_MAX};
use crate::{Octets, ResponseFlags, ResponseFrame, Status};

/// What an answer's header says besides the request id and the lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// How the request ended.
    pub status: Status,
    /// Marks on the answer.
    pub flags: ResponseFlags,
    /// The version of the key that was used or made; 0 if none.
    pub key_version: u32,
    /// When to ask again, in µs; left out unless the status has a hint.
    pub after_us: u32,
    /// The age of the key that was used, in ms.
    pub key_age_ms: u32,
}

impl ResponseHead {
    /// OK, without a key.
    pub const OK: Self = Self::status(Status::Ok);

    /// A head with this status and nothing else.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self {
            status,
            flags: ResponseFlags::NONE,
            key_version: 0,
            after_us: 0,
            key_age_ms: 0,
        }
    }
}

/// One answer being written at the end of a buffer that may hold others.
///
/// The header is written last, with the lengths that came about. A writer that is dropped without
/// [`finish`](Self::finish), by an early return or a panic, leaves the buffer as it was.
#[derive(Debug)]
pub struct ResponseWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    request_id: u64,
}

impl<'a> ResponseWriter<'a> {
    /// Begins the answer to `request_id` at the end of `out`.
    #[must_use]
    pub fn begin(out: &'a mut Vec<u8>, request_id: u64) -> Self {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        Self {
            out,
            start,
            request_id,
        }
    }

    /// The buffer, to append the payload to. What it holds already stays.
    #[inline]
    pub fn payload(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// How long the payload is so far, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.out.len() - self.start - HEADER_LEN
    }

    /// Takes back the payload, to write another in its place.
    pub fn clear(&mut self) {
        self.out.truncate(self.start + HEADER_LEN);
    }

    /// Writes the header. A payload beyond the limit is replaced by an INTERNAL answer, since
    /// every request gets exactly one answer that its client can read.
    pub fn finish(mut self, head: ResponseHead) {
        let mut head = head;
        if self.payload_len() > PAYLOAD_LEN_MAX {
            let explanation = format!(
                "the answer has {} bytes, at most {PAYLOAD_LEN_MAX} can be sent; ask for less",
                self.payload_len()
            );
            self.clear();
            self.out.extend_from_slice(explanation.as_bytes());
            head = ResponseHead::status(Status::Internal);
        }
        let payload = self.start + HEADER_LEN;
        let header = ResponseFrame {
            status: head.status,
            flags: head.flags,
            request_id: self.request_id,
            key_version: head.key_version,
            after_us: if head.status.has_hint() {
                head.after_us
            } else {
                0
            },
            key_age_ms: head.key_age_ms,
            payload: Octets(&self.out[payload..]),
        }
        .header();
        self.out[self.start..payload].copy_from_slice(&header);
        // Dropping takes back what lies beyond `start`: move it past this answer.
        self.start = self.out.len();
    }

    /// Finishes with an explanation instead of the payload. It is truncated at its limit.
    pub fn finish_with_explanation(mut self, head: ResponseHead, explanation: &str) {
        self.clear();
        let mut cut = explanation.len().min(EXPLANATION_LEN_MAX);
        while !explanation.is_char_boundary(cut) {
            cut -= 1;
        }
        self.out.extend_from_slice(&explanation.as_bytes()[..cut]);
        self.finish(head);
    }

    /// Finishes with NEEDS_UNLOCK and the ticket of the unlock that is needed.
    pub fn finish_needs_unlock(mut self, ticket: u64) {
        self.clear();
        self.out.extend_from_slice(&ticket.to_le_bytes());
        self.finish(ResponseHead::status(Status::NeedsUnlock));
    }
}

impl Drop for ResponseWriter<'_> {
    fn drop(&mut self) {
        self.out.truncate(self.start);
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use super::*;

    fn only(out: &[u8]) -> ResponseFrame<'_> {
        let (frame, len) = ResponseFrame::decode(out).unwrap().unwrap();
        assert_eq!(len, out.len());
        frame
    }

    #[test]
    fn an_answer_is_written_behind_what_the_buffer_holds() {
        let mut out = vec![0xaa; 3];
        let mut writer = ResponseWriter::begin(&mut out, 7);
        writer.payload().extend_from_slice(b"signature");
        writer.finish(ResponseHead {
            key_version: 2,
            flags: ResponseFlags::STALE,
            ..ResponseHead::OK
        });
        assert_eq!(out[..3], [0xaa; 3]);
        let frame = only(&out[3..]);
        assert_eq!((frame.request_id, frame.key_version), (7, 2));
        assert_eq!(frame.payload.bytes(), b"signature");
    }

    #[test]
    fn an_answer_that_is_not_finished_leaves_no_trace() {
        let mut out = vec![0xaa; 3];
        let mut writer = ResponseWriter::begin(&mut out, 7);
        writer.payload().extend_from_slice(b"half a sig");
        drop(writer);
        assert_eq!(out, [0xaa; 3]);
    }

    #[test]
    fn an_answer_beyond_the_limit_becomes_an_internal_error() {
        let mut out = Vec::new();
        let mut writer = ResponseWriter::begin(&mut out, 7);
        writer.payload().resize(HEADER_LEN + PAYLOAD_LEN_MAX + 1, 0);
        writer.finish(ResponseHead::OK);
        assert_eq!(only(&out).status, Status::Internal);
    }

    #[test]
    fn explanations_are_cut_at_a_character() {
        let mut out = Vec::new();
        let long: String = core::iter::repeat_n('\u{20ac}', 1_000).collect();
        ResponseWriter::begin(&mut out, 7)
            .finish_with_explanation(ResponseHead::status(Status::Invalid), &long);
        let frame = only(&out);
        assert_eq!(frame.payload.len(), 1_023);
        assert!(core::str::from_utf8(&frame.payload).is_ok());
    }

    #[test]
    fn only_statuses_with_a_hint_carry_one() {
        for &status in Status::ALL {
            let mut out = Vec::new();
            let head = ResponseHead {
                after_us: 5,
                ..ResponseHead::status(status)
            };
            ResponseWriter::begin(&mut out, 7).finish(head);
            assert_eq!(only(&out).after_us != 0, status.has_hint());
        }
    }
}
