//! Answers that are a single number.

use alloc::vec::Vec;

use crate::ProtocolError;
use crate::reader::{Reader, in_range};

/// Reads the ticket in an answer to UNLOCK, or in a NEEDS_UNLOCK answer to anything.
pub fn decode_ticket(payload: &[u8]) -> Result<u64, ProtocolError> {
    let mut reader = Reader::new(payload);
    let ticket = reader.u64("ticket")?;
    reader.finish("ticket")?;
    Ok(ticket)
}

/// Appends a ticket.
pub fn encode_ticket(ticket: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&ticket.to_le_bytes());
}

/// Reads the keyspace id in an answer to KEYSPACE_CREATE.
pub fn decode_keyspace_id(payload: &[u8]) -> Result<u32, ProtocolError> {
    let mut reader = Reader::new(payload);
    let id = reader.u32("keyspace_id")?;
    reader.finish("keyspace_id")?;
    in_range("keyspace_id", u64::from(id), 1, u64::from(u32::MAX))?;
    Ok(id)
}

/// Appends a keyspace id.
pub fn encode_keyspace_id(id: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_le_bytes());
}
