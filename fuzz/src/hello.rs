//! HELLO and the answers' payloads, from both sides: accepted only in their one encoding.

use keyway_protocol::{KeyListAnswer, Octets, Opcode, Request, RequestFrame, Sealed, ServerHello};

/// `data` is the payload of a HELLO, and of the answers that have a form of their own.
pub fn check(data: &[u8]) {
    let frame = RequestFrame {
        code: Opcode::Hello.code(),
        request_id: 1,
        keyspace_id: 0,
        deadline_us: 0,
        key_id: Octets(b""),
        payload: Octets(data),
    };
    let mut again = Vec::new();
    if let Ok(request) = Request::decode(&frame) {
        let encoded = request.encode_payload(&mut again);
        encoded.expect("what was decoded encodes");
        assert_eq!(again, data, "a HELLO that is not canonical");
    }
    again.clear();
    if let Ok(hello) = ServerHello::decode(data) {
        hello.encode(&mut again).expect("what was decoded encodes");
        assert_eq!(again, data, "an answer to HELLO that is not canonical");
    }
    again.clear();
    if let Ok(sealed) = Sealed::decode(data) {
        sealed.encode(&mut again).expect("what was decoded encodes");
        assert_eq!(again, data, "a ciphertext that is not canonical");
    }
    again.clear();
    if let Ok(page) = KeyListAnswer::decode(data) {
        let encoded = KeyListAnswer::encode(&page.cursor, page.rows, &mut again);
        encoded.expect("what was decoded encodes");
        assert_eq!(again, data, "a list of keys that is not canonical");
    }
}
