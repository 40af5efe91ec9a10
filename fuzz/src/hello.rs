//! HELLO, both ways: what is accepted of a client or of a server encodes to the same bytes, is
//! within its limits, and routes every key to a shard there is.
//!
//! The input's first byte chooses the side; the rest is the payload.

use keyway_protocol::limits::{
    CLIENT_NAME_LEN_MAX, FRAME_LEN_MAX, KEYSPACE_COUNT_MAX, SHARD_COUNT_MAX,
};
use keyway_protocol::{Octets, Opcode, Request, RequestFrame, ServerHello};

use crate::memory;

/// A HELLO answer is taken apart into a name and a port each, which are small blocks of their own.
const DECODED_BYTES_MAX: usize = 2 * FRAME_LEN_MAX;

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((side, payload)) if side & 1 == 0 => of_client(payload),
        Some((_, payload)) => of_server(payload),
        None => {}
    }
}

fn of_client(payload: &[u8]) {
    let frame = RequestFrame {
        code: Opcode::Hello.code(),
        request_id: 1,
        keyspace_id: 0,
        deadline_us: 0,
        key_id: Octets(b""),
        payload: Octets(payload),
    };
    let decoded = memory::within(0, "a client's HELLO", || Request::decode(&frame));
    let Ok(request) = decoded else { return };
    let Request::Hello(hello) = request else {
        panic!("HELLO was read as {request:?}");
    };
    assert!(1 <= hello.version_min && hello.version_min <= hello.version_max);
    assert!(hello.client_name.len() <= CLIENT_NAME_LEN_MAX);
    let mut again = Vec::new();
    let encoded = request.encode_payload(&mut again);
    encoded.expect("a HELLO that was decoded is within its limits");
    assert_eq!(again, payload, "the client's HELLO encodes to other bytes");
}

fn of_server(payload: &[u8]) {
    let decoded = memory::within(DECODED_BYTES_MAX, "a server's HELLO", || {
        ServerHello::decode(payload)
    });
    let Ok(hello) = decoded else { return };
    let shard_count = hello.map.router.shard_count();
    assert!((1..=SHARD_COUNT_MAX).contains(&shard_count) && hello.this_shard < shard_count);
    assert_eq!(hello.map.ports.len(), usize::from(shard_count));
    assert!(hello.keyspaces.len() <= KEYSPACE_COUNT_MAX);
    for keyspace in &hello.keyspaces {
        let owner = hello.map.router.shard_of(keyspace.id, payload);
        assert!(owner < shard_count, "shard {owner} of {shard_count}");
    }
    let mut again = Vec::new();
    let encoded = hello.encode(&mut again);
    encoded.expect("a HELLO that was decoded is within its limits");
    assert_eq!(again, payload, "the server's HELLO encodes to other bytes");
}
