//! What holds for any bytes whatever.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use keyway_protocol::limits::{FRAME_LEN_MAX, KEY_ID_LEN_MAX, PAYLOAD_LEN_MAX};
use keyway_protocol::{
    KeyListAnswer, KmsShares, Octets, Opcode, ProtocolError, Request, RequestFrame, ResponseFrame,
    Sealed, ServerHello,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Bytes whose values are mostly small, as lengths and ids are: random ones rarely get far.
fn small_bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![4 => 0_u8..8, 1 => any::<u8>()], 0..len_max)
}

/// A frame with a sound header around any payload, of any operation.
fn framed() -> impl Strategy<Value = Vec<u8>> {
    let opcode = select(Opcode::ALL);
    let key_id = prop_oneof![Just(Vec::new()), Just(b"alice".to_vec()), small_bytes(8)];
    (
        opcode,
        any::<u64>(),
        0_u32..2,
        any::<u32>(),
        key_id,
        small_bytes(80),
    )
        .prop_map(
            |(opcode, request_id, keyspace_id, deadline_us, key_id, payload)| {
                let mut out = Vec::new();
                RequestFrame {
                    code: opcode.code(),
                    request_id,
                    keyspace_id,
                    deadline_us,
                    key_id: Octets(&key_id),
                    payload: Octets(&payload),
                }
                .encode(&mut out)
                .unwrap();
                out
            },
        )
}

/// Whatever is accepted is within its limits and encodes to the very bytes that it came from.
fn check_request(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(Some((frame, len))) = RequestFrame::decode(bytes) else {
        return Ok(());
    };
    prop_assert!(len <= FRAME_LEN_MAX && len <= bytes.len());
    prop_assert!(frame.key_id.len() <= KEY_ID_LEN_MAX);
    prop_assert!(frame.payload.len() <= PAYLOAD_LEN_MAX);
    let mut again = Vec::new();
    frame.encode(&mut again).unwrap();
    prop_assert_eq!(&again, &bytes[..len]);
    if let Ok(request) = Request::decode(&frame) {
        let mut payload = Vec::new();
        request.encode_payload(&mut payload).unwrap();
        prop_assert_eq!(&payload[..], frame.payload.bytes());
        prop_assert_eq!(request.opcode(), frame.opcode().unwrap());
    }
    Ok(())
}

/// Each answer's decoder on any payload; what it accepts encodes to the same.
fn check_answer(payload: &[u8]) -> Result<(), TestCaseError> {
    let mut out = Vec::new();
    if let Ok(hello) = ServerHello::decode(payload) {
        hello.encode(&mut out).unwrap();
        prop_assert_eq!(&out[..], payload);
    }
    out.clear();
    if let Ok(sealed) = Sealed::decode(payload) {
        sealed.encode(&mut out).unwrap();
        prop_assert_eq!(&out[..], payload);
    }
    out.clear();
    if let Ok(page) = KeyListAnswer::decode(payload) {
        KeyListAnswer::encode(&page.cursor, page.rows, &mut out).unwrap();
        prop_assert_eq!(&out[..], payload);
    }
    out.clear();
    if let Ok(shares) = KmsShares::decode(payload) {
        KmsShares::encode(shares, &mut out).unwrap();
        prop_assert_eq!(&out[..], payload);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..Default::default() })]

    #[test]
    fn any_bytes_are_decoded_without_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        check_request(&bytes)?;
        let _ = ResponseFrame::decode(&bytes);
        check_answer(&bytes)?;
    }

    #[test]
    fn small_bytes_are_decoded_without_a_panic(bytes in small_bytes(120)) {
        check_request(&bytes)?;
        check_answer(&bytes)?;
    }

    #[test]
    fn a_sound_header_around_any_payload_is_canonical(bytes in framed()) {
        check_request(&bytes)?;
    }

    #[test]
    fn a_frame_with_any_byte_changed_is_canonical(
        bytes in framed(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut bytes = bytes;
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_request(&bytes)?;
        if let Ok(Some((frame, len))) = ResponseFrame::decode(&bytes) {
            let mut again = Vec::new();
            frame.encode(&mut again).unwrap();
            prop_assert_eq!(&again, &bytes[..len]);
        }
    }

    #[test]
    fn an_answer_with_a_sound_header_is_canonical(
        status in 0_u8..18, flags in 0_u16..5, request_id in any::<u64>(),
        key_version in any::<u32>(), after_us in prop_oneof![Just(0_u32), any::<u32>()],
        key_age_ms in any::<u32>(), payload in small_bytes(60)
    ) {
        let mut bytes = Vec::new();
        bytes.extend((28 + payload.len() as u32).to_le_bytes());
        bytes.extend([1, status]);
        bytes.extend(flags.to_le_bytes());
        bytes.extend(request_id.to_le_bytes());
        for field in [key_version, after_us, key_age_ms, payload.len() as u32] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(&payload);
        match ResponseFrame::decode(&bytes) {
            Ok(decoded) => {
                let (frame, len) = decoded.expect("the frame is whole");
                prop_assert_eq!(len, bytes.len());
                prop_assert!(after_us == 0 || frame.status.has_hint());
                let mut again = Vec::new();
                frame.encode(&mut again).unwrap();
                prop_assert_eq!(again, bytes);
            }
            Err(ProtocolError::Unknown { .. }) => prop_assert!(status > 15),
            Err(ProtocolError::UnknownFlags { .. }) => prop_assert!(flags > 3),
            Err(ProtocolError::NotZero { .. }) => prop_assert!(after_us > 0),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn a_frame_cut_short_asks_for_more(bytes in framed(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(bytes.len());
        prop_assert!(RequestFrame::decode(&bytes[..cut]).unwrap().is_none());
    }
}
