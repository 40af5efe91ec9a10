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
    decode_from_1("keyspace_id", payload)
}

/// Appends a keyspace id.
pub fn encode_keyspace_id(id: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_le_bytes());
}

/// Reads the generation of the new DEK in an answer to KEYSPACE_ROTATE.
pub fn decode_generation(payload: &[u8]) -> Result<u32, ProtocolError> {
    decode_from_1("generation", payload)
}

/// Appends a generation.
pub fn encode_generation(generation: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&generation.to_le_bytes());
}

/// Reads the number of DEKs in an answer to KEYSPACE_DESTROY_DEKS.
pub fn decode_deks_destroyed(payload: &[u8]) -> Result<u32, ProtocolError> {
    let mut reader = Reader::new(payload);
    let number = reader.u32("deks_destroyed")?;
    reader.finish("deks_destroyed")?;
    Ok(number)
}

/// Appends a number of DEKs.
pub fn encode_deks_destroyed(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn decode_from_1(field: &'static str, payload: &[u8]) -> Result<u32, ProtocolError> {
    let mut reader = Reader::new(payload);
    let number = reader.u32(field)?;
    reader.finish(field)?;
    in_range(field, u64::from(number), 1, u64::from(u32::MAX))?;
    Ok(number)
}
