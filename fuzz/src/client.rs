//! The client's side: whatever bytes a server sends, the client neither panics nor holds more than
//! two of the longest frames undecoded, and what it makes of them is bounded too.
//!
//! The input's first byte says whether the stream stands in the input as it is or is built of
//! answers to the calls that wait; the second chooses the pieces in which it comes.

use std::cell::RefCell;

use keyway_client::fuzzing::Reading;
use keyway_protocol::limits::{FRAME_LEN_MAX, HEADER_LEN, PAYLOAD_LEN_MAX};
use keyway_protocol::{Octets, ResponseFlags, ResponseFrame, Status};

use crate::memory;
use crate::script::Script;

/// What a client may allocate beside its read buffer, which is two frames long, whatever comes. An
/// answer's copy takes one frame; the rest is what a payload decodes to, JSON above all: a map's
/// shortest member takes 7 bytes in it and about 100 in memory.
const HELD_BYTES_MAX: usize = 24 * FRAME_LEN_MAX;

/// The most bytes that wait for the rest of their frame.
const PENDING_BYTES_MAX: usize = HEADER_LEN + PAYLOAD_LEN_MAX - 1;

thread_local! {
    static READING: RefCell<Reading> = RefCell::new(Reading::new());
}

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let mode = script.u8();
    let piece_len = [usize::MAX, 1, 7, 100, 1_500][usize::from(script.u8()) % 5];
    let stream = if mode & 1 == 0 {
        script.rest().to_vec()
    } else {
        built(&mut script)
    };
    READING.with_borrow_mut(|reading| {
        memory::within(HELD_BYTES_MAX, "a client", || {
            reading.begin_again();
            read(reading, &stream, piece_len);
        });
    });
}

/// Answers with ids, statuses and payloads of the script's choosing.
fn built(script: &mut Script<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut answers = 0;
    while !script.is_empty() && answers <= Reading::CALLS {
        answers += 1;
        // One more than there are: an answer that no call waits for.
        let request_id = u64::from(script.u8()) % (Reading::CALLS + 2);
        let status = Status::try_from(script.u8() % 32).unwrap_or(Status::Ok);
        let after_us = u32::from(script.u8()) << 16;
        let repeats = 1 + script.below(512);
        let len = script.below(2_048);
        let part = script.bytes(len);
        let repeats = if repeats > 256 { repeats - 256 } else { 1 };
        let mut payload = part.repeat(repeats);
        payload.truncate(PAYLOAD_LEN_MAX);
        let frame = ResponseFrame {
            status,
            flags: ResponseFlags::NONE,
            request_id,
            key_version: 1,
            after_us: if status.has_hint() { after_us } else { 0 },
            key_age_ms: 1,
            payload: Octets(&payload),
        };
        let encoded = frame.encode(&mut out);
        encoded.expect("the payload is within its limit");
    }
    out
}

fn read(reading: &mut Reading, stream: &[u8], piece_len: usize) {
    let mut rest = stream;
    let mut answers = 0;
    while !rest.is_empty() {
        let piece = &rest[..piece_len.min(rest.len())];
        let Ok((count, understood)) = reading.read(piece) else {
            return;
        };
        assert!(count > 0, "a client has no room and waits for more");
        assert!(reading.pending_bytes() <= PENDING_BYTES_MAX);
        answers += understood.len() as u64;
        assert!(answers <= Reading::CALLS, "more answers than calls");
        rest = &rest[count..];
    }
}
