//! Payloads of requests and answers: what is accepted encodes to the very bytes that it came from,
//! and nothing is allocated to read it.
//!
//! The input's first byte chooses the message; the rest is the payload.

use keyway_protocol::{
    KeyListAnswer, KmsShares, Octets, Opcode, Request, RequestFrame, Scope, Sealed,
    decode_generation, decode_keyspace_id, decode_ticket, encode_generation, encode_keyspace_id,
    encode_ticket,
};

use crate::memory;

/// The first bytes that stand for answers; those below stand for requests, by the opcode's code, so
/// that a new opcode changes no input's meaning. A byte that is no code also stands for some opcode.
const ANSWERS: u8 = 0xf0;

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((&kind, payload)) if kind >= ANSWERS => answer(kind - ANSWERS, payload),
        Some((&kind, payload)) => {
            let some = Opcode::ALL[usize::from(kind) % Opcode::ALL.len()];
            request(Opcode::try_from(kind).unwrap_or(some), payload);
        }
        None => {}
    }
}

fn request(opcode: Opcode, payload: &[u8]) {
    let (keyspace_id, key_id) = match opcode.scope() {
        Scope::Server => (0, &b""[..]),
        Scope::Keyspace => (1, &b""[..]),
        Scope::Key => (1, &b"alice"[..]),
    };
    let frame = RequestFrame {
        code: opcode.code(),
        request_id: 1,
        keyspace_id,
        deadline_us: 0,
        key_id: Octets(key_id),
        payload: Octets(payload),
    };
    let decoded = memory::within(0, "Request::decode", || Request::decode(&frame));
    let request = match decoded {
        Ok(request) => request,
        Err(error) => {
            // The status is returned to the client, so each error must have one.
            assert!(!error.status().name().is_empty() && !error.to_string().is_empty());
            return;
        }
    };
    assert_eq!(request.opcode(), opcode);
    if let Request::KeyspaceSet(settings) = request {
        let lines: String = settings
            .iter()
            .map(|(name, value)| format!("{name}={value}\n"))
            .collect();
        assert_eq!(lines, settings.as_str(), "the settings read otherwise");
    }
    let mut again = Vec::new();
    let encoded = request.encode_payload(&mut again);
    encoded.expect("a request that was decoded is within its limits");
    assert_eq!(again, payload, "{opcode:?} encodes to other bytes");
}

fn answer(kind: u8, payload: &[u8]) {
    let mut again = Vec::new();
    match kind % 6 {
        0 => {
            let Ok(sealed) = memory::within(0, "Sealed::decode", || Sealed::decode(payload)) else {
                return;
            };
            let encoded = sealed.encode(&mut again);
            encoded.expect("an answer that was decoded is within its limits");
        }
        1 => {
            let decoded = memory::within(0, "KeyListAnswer::decode", || {
                KeyListAnswer::decode(payload)
            });
            let Ok(page) = decoded else { return };
            let encoded = KeyListAnswer::encode(&page.cursor, page.rows, &mut again);
            encoded.expect("a page that was decoded is within its limits");
        }
        2 => {
            let Ok(ticket) = decode_ticket(payload) else {
                return;
            };
            encode_ticket(ticket, &mut again);
        }
        3 => {
            let Ok(id) = decode_keyspace_id(payload) else {
                return;
            };
            assert!(id > 0, "keyspaces begin at 1");
            encode_keyspace_id(id, &mut again);
        }
        4 => {
            let decoded = memory::within(0, "KmsShares::decode", || KmsShares::decode(payload));
            let Ok(shares) = decoded else { return };
            let encoded = KmsShares::encode(shares, &mut again);
            encoded.expect("shares that were decoded are within their limits");
        }
        _ => {
            let Ok(generation) = decode_generation(payload) else {
                return;
            };
            assert!(generation > 0, "generations begin at 1");
            encode_generation(generation, &mut again);
        }
    }
    assert_eq!(again, payload, "answer {kind} encodes to other bytes");
}
