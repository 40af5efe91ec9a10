//! A way in for the fuzzer: what a connection does with the bytes that a server sends, without the
//! server. Not part of the interface.

use crate::buffer::ReadBuffer;
use crate::exchange::{Exchange, Outgoing};
use keyway_protocol::Opcode;

/// Requests that wait for an answer.
const WAITING: u64 = 8;

/// Feeds a connection with requests 1 to 8 under way what a server sends, in pieces of so many
/// bytes. Panics if an answer goes to another request than it names.
pub fn receive(stream: &[u8], piece: usize) {
    let mut exchange = Exchange::new();
    for id in 1..=WAITING {
        let ping = Outgoing {
            opcode: Opcode::Ping,
            keyspace_id: 0,
            deadline_us: 0,
            key_id: b"",
            payload: b"",
        };
        assert!(exchange.send(&ping, id).is_ok(), "there is room for eight");
    }
    let mut buffer = ReadBuffer::new();
    let mut answered = 0;
    for piece in stream.chunks(piece) {
        let room = buffer.room();
        assert!(
            room.len() >= piece.len(),
            "a frame that never ends was waited for"
        );
        room[..piece.len()].copy_from_slice(piece);
        buffer.filled(piece.len());
        loop {
            let named = keyway_protocol::ResponseFrame::decode(buffer.unread());
            let named = named.ok().flatten().map(|(frame, _)| frame.request_id);
            match exchange.receive(&mut buffer) {
                Ok(Some((id, _))) => {
                    assert_eq!(Some(id), named, "an answer went astray");
                    answered += 1;
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(answered <= WAITING, "more answers than requests");
}
