//! Frames: whatever is accepted is within its limits, and encodes to the very bytes it came from.

use keyway_protocol::limits::{FRAME_LEN_MAX, KEY_ID_LEN_MAX, PAYLOAD_LEN_MAX};
use keyway_protocol::{Request, RequestFrame, ResponseFrame};

/// `data` begins with a request, or an answer, or neither.
pub fn check(data: &[u8]) {
    if let Ok(Some((frame, len))) = RequestFrame::decode(data) {
        assert!(len <= FRAME_LEN_MAX && len <= data.len());
        assert!(frame.key_id.len() <= KEY_ID_LEN_MAX);
        assert!(frame.payload.len() <= PAYLOAD_LEN_MAX);
        let mut again = Vec::new();
        frame.encode(&mut again).expect("what was decoded encodes");
        assert_eq!(again, data[..len], "a request that is not canonical");
        if let Ok(request) = Request::decode(&frame) {
            let mut payload = Vec::new();
            let encoded = request.encode_payload(&mut payload);
            encoded.expect("what was decoded encodes");
            assert_eq!(
                payload,
                frame.payload.bytes(),
                "a payload that is not canonical"
            );
        }
    }
    if let Ok(Some((frame, len))) = ResponseFrame::decode(data) {
        assert!(len <= FRAME_LEN_MAX && len <= data.len());
        let mut again = Vec::new();
        frame.encode(&mut again).expect("what was decoded encodes");
        assert_eq!(again, data[..len], "an answer that is not canonical");
    }
}
