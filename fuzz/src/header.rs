//! The fixed headers: what a frame decoder accepts encodes to the very bytes that it came from.
//!
//! The input is a frame. It is tried as it stands, and once more with version and lengths put
//! right, since random lengths rarely agree.

use keyway_protocol::limits::{
    FRAME_LEN_MAX, HEADER_LEN, KEY_ID_LEN_MAX, LENGTH_FIELD_LEN, PAYLOAD_LEN_MAX,
};
use keyway_protocol::{RequestFrame, ResponseFrame, ResponseHead, ResponseWriter, VERSION};

use crate::memory;

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    request(data);
    response(data);
    if data.len() >= HEADER_LEN && data.len() <= FRAME_LEN_MAX {
        let mut mended = data.to_vec();
        mended[..4].copy_from_slice(&((data.len() - LENGTH_FIELD_LEN) as u32).to_le_bytes());
        mended[4] = VERSION;
        let behind = data.len() - HEADER_LEN;
        mended[28..32].copy_from_slice(&(behind as u32).to_le_bytes());
        response(&mended);
        let key_id_len = usize::from(u16::from_le_bytes([data[24], data[25]])) % (behind + 1);
        mended[24..26].copy_from_slice(&(key_id_len as u16).to_le_bytes());
        mended[28..32].copy_from_slice(&((behind - key_id_len) as u32).to_le_bytes());
        request(&mended);
    }
}

fn request(bytes: &[u8]) {
    let decoded = memory::within(0, "RequestFrame::decode", || RequestFrame::decode(bytes));
    match decoded {
        Ok(Some((frame, len))) => {
            assert!(len <= FRAME_LEN_MAX && len <= bytes.len());
            assert!(frame.key_id.len() <= KEY_ID_LEN_MAX);
            assert!(frame.payload.len() <= PAYLOAD_LEN_MAX);
            assert_eq!(RequestFrame::request_id_at(bytes), Some(frame.request_id));
            let mut again = Vec::new();
            let encoded = frame.encode(&mut again);
            encoded.expect("a frame that was decoded is within its limits");
            assert_eq!(again, bytes[..len], "the request encodes to other bytes");
        }
        Ok(None) => assert!(bytes.len() < FRAME_LEN_MAX, "a longest frame is not enough"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn response(bytes: &[u8]) {
    let decoded = memory::within(0, "ResponseFrame::decode", || ResponseFrame::decode(bytes));
    match decoded {
        Ok(Some((frame, len))) => {
            assert!(len <= HEADER_LEN + PAYLOAD_LEN_MAX && len <= bytes.len());
            assert!(frame.status.has_hint() || frame.after_us == 0);
            let mut again = Vec::new();
            let encoded = frame.encode(&mut again);
            encoded.expect("a frame that was decoded is within its limits");
            assert_eq!(again, bytes[..len], "the answer encodes to other bytes");
            in_place(&frame, &bytes[..len]);
        }
        Ok(None) => assert!(bytes.len() < FRAME_LEN_MAX, "a longest frame is not enough"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The server's writer makes the same answer, behind what its buffer held before.
fn in_place(frame: &ResponseFrame<'_>, bytes: &[u8]) {
    let mut out = b"before".to_vec();
    let mut writer = ResponseWriter::begin(&mut out, frame.request_id);
    writer.payload().extend_from_slice(&frame.payload);
    let head = ResponseHead {
        status: frame.status,
        flags: frame.flags,
        key_version: frame.key_version,
        after_us: frame.after_us,
        key_age_ms: frame.key_age_ms,
    };
    writer.finish(head);
    assert_eq!(&out[..6], b"before");
    assert_eq!(&out[6..], bytes, "the writer makes other bytes");
}
