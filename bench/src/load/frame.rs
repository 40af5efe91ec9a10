//! Encoded requests, which the generator sends many times.

use keyway_protocol::{Octets, Request, RequestFrame};

use crate::error::{Context, Result};

/// Returns a request's frame. Its request id is still 0: see [`set_request_id`].
pub fn encode(keyspace_id: u32, key_id: &str, request: &Request) -> Result<Vec<u8>> {
    let name = request.opcode().name();
    let mut payload = Vec::new();
    request
        .encode_payload(&mut payload)
        .context(|| name.into())?;
    let frame = RequestFrame {
        code: request.opcode().code(),
        request_id: 0,
        keyspace_id,
        deadline_us: 0,
        key_id: Octets(key_id.as_bytes()),
        payload: Octets(&payload),
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).context(|| name.into())?;
    Ok(bytes)
}

/// Writes the request id into an encoded frame.
pub fn set_request_id(frame: &mut [u8], request_id: u64) {
    frame[8..16].copy_from_slice(&request_id.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_id_lands_in_its_field() {
        let mut frame = encode(3, "alice", &Request::Mac(Octets(b"m"))).unwrap();
        set_request_id(&mut frame, 0x0102_0304_0506_0708);
        let (decoded, len) = RequestFrame::decode(&frame).unwrap().unwrap();
        assert_eq!(len, frame.len());
        assert_eq!(decoded.request_id, 0x0102_0304_0506_0708);
        assert_eq!((decoded.keyspace_id, &*decoded.key_id), (3, &b"alice"[..]));
    }
}
