//! Frames: the two fixed headers and what follows them.

use alloc::vec::Vec;

use crate::limits::{FRAME_LEN_MAX, HEADER_LEN, KEY_ID_LEN_MAX, LENGTH_FIELD_LEN, PAYLOAD_LEN_MAX};
use crate::reader::{at_most, zero};
use crate::wire_enum::wire_bits;
use crate::{Octets, Opcode, ProtocolError, Status, VERSION};

const _: () = assert!(FRAME_LEN_MAX <= u32::MAX as usize);

/// A request as it stands in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFrame<'a> {
    /// The operation's code. It may be unknown: see [`RequestFrame::opcode`].
    pub code: u8,
    /// The client's number for this request; the answer carries it.
    pub request_id: u64,
    /// The keyspace, or 0 if the operation names none.
    pub keyspace_id: u32,
    /// How long the client will wait, in µs from the arrival of the request; 0 is no deadline.
    pub deadline_us: u32,
    /// The key, or empty. Its characters are checked by [`crate::Request::decode`].
    pub key_id: Octets<'a>,
    /// The operation's own fields.
    pub payload: Octets<'a>,
}

impl<'a> RequestFrame<'a> {
    /// Takes the first request from `buffer` and says how many bytes it took.
    ///
    /// `None` means that more bytes are needed. After an error the rest of the stream cannot be
    /// trusted: answer (with [`request_id_at`](Self::request_id_at) if it can be read) and close.
    #[inline]
    pub fn decode(buffer: &'a [u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some((header, frame_len)) =
            split_header(buffer, HEADER_LEN + KEY_ID_LEN_MAX + PAYLOAD_LEN_MAX)?
        else {
            return Ok(None);
        };
        let flags = u16_at(header, 6);
        if flags != 0 {
            return Err(ProtocolError::UnknownFlags {
                field: "flags",
                bits: u64::from(flags),
            });
        }
        zero("reserved", u64::from(u16_at(header, 26)))?;
        let key_id_len = usize::from(u16_at(header, 24));
        at_most("key_id_len", key_id_len, KEY_ID_LEN_MAX)?;
        let payload_len = payload_len_of(header)?;
        same_length(frame_len, HEADER_LEN + key_id_len + payload_len)?;
        if buffer.len() < frame_len {
            return Ok(None);
        }
        let (key_id, payload) = buffer[HEADER_LEN..frame_len].split_at(key_id_len);
        let frame = Self {
            code: header[5],
            request_id: u64_at(header, 8),
            keyspace_id: u32_at(header, 16),
            deadline_us: u32_at(header, 20),
            key_id: Octets(key_id),
            payload: Octets(payload),
        };
        Ok(Some((frame, frame_len)))
    }

    /// The request id of the frame that `buffer` begins with, well-formed or not, if that many
    /// bytes are there: for the answer to a frame that [`decode`](Self::decode) refuses.
    #[must_use]
    pub fn request_id_at(buffer: &[u8]) -> Option<u64> {
        buffer.get(8..16).map(|_| u64_at(buffer, 8))
    }

    /// The operation, if this version knows it.
    #[inline]
    pub fn opcode(&self) -> Result<Opcode, ProtocolError> {
        Opcode::try_from(self.code)
    }

    /// Appends the frame to `out`; on an error nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        at_most("key_id_len", self.key_id.len(), KEY_ID_LEN_MAX)?;
        at_most("payload_len", self.payload.len(), PAYLOAD_LEN_MAX)?;
        let frame_len = HEADER_LEN + self.key_id.len() + self.payload.len();
        let mut header = [0; HEADER_LEN];
        header[0..4].copy_from_slice(&((frame_len - LENGTH_FIELD_LEN) as u32).to_le_bytes());
        header[4] = VERSION;
        header[5] = self.code;
        header[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        header[16..20].copy_from_slice(&self.keyspace_id.to_le_bytes());
        header[20..24].copy_from_slice(&self.deadline_us.to_le_bytes());
        header[24..26].copy_from_slice(&(self.key_id.len() as u16).to_le_bytes());
        header[28..32].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.reserve(frame_len);
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.key_id);
        out.extend_from_slice(&self.payload);
        Ok(())
    }
}

wire_bits! {
    /// Marks on an answer.
    pub struct ResponseFlags(u16), "flags" {
        /// The key was past its soft TTL.
        STALE = 1, "stale";
        /// Another shard than the one asked gave the answer.
        FORWARDED = 2, "forwarded";
    }
}

/// An answer as it stands in the caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFrame<'a> {
    /// How the request ended.
    pub status: Status,
    /// Marks on the answer.
    pub flags: ResponseFlags,
    /// The number that the client gave the request.
    pub request_id: u64,
    /// The version of the key that was used or made; 0 if none.
    pub key_version: u32,
    /// When to ask again, in µs from now; 0 unless the status has a hint.
    pub after_us: u32,
    /// How long ago the key was loaded, in ms; `u32::MAX` for longer. 0 if no key was used.
    pub key_age_ms: u32,
    /// The answer's own fields, or the explanation of an answer that is not OK.
    pub payload: Octets<'a>,
}

impl<'a> ResponseFrame<'a> {
    /// Takes the first answer from `buffer` and says how many bytes it took.
    ///
    /// `None` means that more bytes are needed. After an error the rest of the stream cannot be
    /// trusted: close the connection.
    #[inline]
    pub fn decode(buffer: &'a [u8]) -> Result<Option<(Self, usize)>, ProtocolError> {
        let Some((header, frame_len)) = split_header(buffer, HEADER_LEN + PAYLOAD_LEN_MAX)? else {
            return Ok(None);
        };
        let status = Status::try_from(header[5])?;
        let flags = ResponseFlags::from_bits(u16_at(header, 6))?;
        let after_us = u32_at(header, 20);
        if !status.has_hint() {
            zero("after_us", u64::from(after_us))?;
        }
        let payload_len = payload_len_of(header)?;
        same_length(frame_len, HEADER_LEN + payload_len)?;
        if buffer.len() < frame_len {
            return Ok(None);
        }
        let frame = Self {
            status,
            flags,
            request_id: u64_at(header, 8),
            key_version: u32_at(header, 16),
            after_us,
            key_age_ms: u32_at(header, 24),
            payload: Octets(&buffer[HEADER_LEN..frame_len]),
        };
        Ok(Some((frame, frame_len)))
    }

    /// Appends the frame to `out`; on an error nothing is appended. A server that makes the
    /// payload in place uses [`crate::ResponseWriter`] instead.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        at_most("payload_len", self.payload.len(), PAYLOAD_LEN_MAX)?;
        if !self.status.has_hint() {
            zero("after_us", u64::from(self.after_us))?;
        }
        out.reserve(HEADER_LEN + self.payload.len());
        out.extend_from_slice(&self.header());
        out.extend_from_slice(&self.payload);
        Ok(())
    }

    /// The header, with the lengths of this payload. The payload is within its limit.
    pub(crate) fn header(&self) -> [u8; HEADER_LEN] {
        let frame_len = HEADER_LEN + self.payload.len();
        let mut header = [0; HEADER_LEN];
        header[0..4].copy_from_slice(&((frame_len - LENGTH_FIELD_LEN) as u32).to_le_bytes());
        header[4] = VERSION;
        header[5] = self.status.code();
        header[6..8].copy_from_slice(&self.flags.bits().to_le_bytes());
        header[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        header[16..20].copy_from_slice(&self.key_version.to_le_bytes());
        header[20..24].copy_from_slice(&self.after_us.to_le_bytes());
        header[24..28].copy_from_slice(&self.key_age_ms.to_le_bytes());
        header[28..32].copy_from_slice(&(self.payload.len() as u32).to_le_bytes());
        header
    }
}

/// Checks the fields that both headers share. Returns the header and the length of the complete frame in bytes, or `None`
/// if the header is incomplete. The length is checked as soon as it is there, so that a receiver does not wait for the
/// bytes of a frame that it will refuse.
fn split_header(
    buffer: &[u8],
    frame_len_max: usize,
) -> Result<Option<(&[u8; HEADER_LEN], usize)>, ProtocolError> {
    if buffer.len() < LENGTH_FIELD_LEN {
        return Ok(None);
    }
    let declared = u32_at(buffer, 0);
    let min = HEADER_LEN - LENGTH_FIELD_LEN;
    let max = frame_len_max - LENGTH_FIELD_LEN;
    if u64::from(declared) > max as u64 {
        return Err(ProtocolError::TooLong {
            field: "frame_len",
            len: u64::from(declared),
            max: max as u64,
        });
    }
    if (declared as usize) < min {
        return Err(ProtocolError::TooShort {
            field: "frame_len",
            len: u64::from(declared),
            min: min as u64,
        });
    }
    let Some(header) = buffer.first_chunk::<HEADER_LEN>() else {
        return Ok(None);
    };
    if header[4] != VERSION {
        return Err(ProtocolError::Unknown {
            field: "version",
            value: u64::from(header[4]),
        });
    }
    Ok(Some((header, declared as usize + LENGTH_FIELD_LEN)))
}

fn payload_len_of(header: &[u8; HEADER_LEN]) -> Result<usize, ProtocolError> {
    let len = u32_at(header, 28);
    if u64::from(len) > PAYLOAD_LEN_MAX as u64 {
        return Err(ProtocolError::TooLong {
            field: "payload_len",
            len: u64::from(len),
            max: PAYLOAD_LEN_MAX as u64,
        });
    }
    Ok(len as usize)
}

fn same_length(frame_len: usize, parts_len: usize) -> Result<(), ProtocolError> {
    if frame_len != parts_len {
        return Err(ProtocolError::LengthMismatch {
            field: "frame_len",
            declared: (frame_len - LENGTH_FIELD_LEN) as u64,
            actual: (parts_len - LENGTH_FIELD_LEN) as u64,
        });
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}
