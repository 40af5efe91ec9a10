//! The stream decoders: however a stream is cut into pieces, it yields the same frames and the same
//! end, and a reader never buffers more than the longest frame.
//!
//! The input's first byte says whose stream it is, and whether the stream stands in the input as
//! it is or is built of frames whose lengths the input gives, so that a few bytes make the longest
//! frames. The next four choose the pieces.

use keyway_protocol::limits::{FRAME_LEN_MAX, KEY_ID_LEN_MAX, LENGTH_FIELD_LEN, PAYLOAD_LEN_MAX};
use keyway_protocol::{Octets, ProtocolError, RequestFrame, ResponseFlags, ResponseFrame, Status};

use crate::memory;
use crate::script::Script;

/// The most frames that are built of one input.
const BUILT_MAX: usize = 6;

/// After that many pieces, the pieces are long: a long frame byte by byte takes long and shows
/// nothing more.
const SMALL_PIECES_MAX: u32 = 1_000;

/// A frame taken off a stream: its length, or where the stream is lost.
type Taken = Result<Option<usize>, ProtocolError>;

/// See the module.
///
/// # Panics
/// If the property does not hold.
pub fn check(data: &[u8]) {
    let mut script = Script::new(data);
    let mode = script.u8();
    let pieces_seed = script.u32();
    let is_request = mode & 1 == 0;
    let stream = if mode & 2 == 0 {
        script.rest().to_vec()
    } else {
        built(&mut script, is_request)
    };
    let take = if is_request {
        take_request
    } else {
        take_response
    };
    let (frames, end) = whole(&stream, take);
    memory::within(4 * FRAME_LEN_MAX, "reading a stream piece by piece", || {
        in_pieces(&stream, pieces_seed, take, &frames, &end);
    });
}

fn take_request(bytes: &[u8]) -> Taken {
    Ok(RequestFrame::decode(bytes)?.map(|(_, len)| len))
}

fn take_response(bytes: &[u8]) -> Taken {
    Ok(ResponseFrame::decode(bytes)?.map(|(_, len)| len))
}

/// Frames with lengths of the script's choosing, and whatever the script has left behind them.
fn built(script: &mut Script<'_>, is_request: bool) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..script.below(BUILT_MAX + 1) {
        let (code, id) = (script.u8(), u64::from(script.u32()));
        let key_id = vec![script.u8(); script.below(KEY_ID_LEN_MAX + 1)];
        let payload = vec![script.u8(); script.u32() as usize % (PAYLOAD_LEN_MAX + 1)];
        let encoded = if is_request {
            let frame = RequestFrame {
                code,
                request_id: id,
                keyspace_id: 1,
                deadline_us: 1_000,
                key_id: Octets(&key_id),
                payload: Octets(&payload),
            };
            frame.encode(&mut out)
        } else {
            let frame = ResponseFrame {
                status: Status::try_from(code).unwrap_or(Status::Ok),
                flags: ResponseFlags::NONE,
                request_id: id,
                key_version: 1,
                after_us: 0,
                key_age_ms: 2,
                payload: Octets(&payload),
            };
            frame.encode(&mut out)
        };
        encoded.expect("the lengths are within their limits");
    }
    out.extend_from_slice(script.rest());
    out
}

/// Where each frame ends in the stream read in one piece, and what comes after the last.
fn whole(stream: &[u8], take: fn(&[u8]) -> Taken) -> (Vec<usize>, Taken) {
    let mut ends = Vec::new();
    let mut at = 0;
    loop {
        match take(&stream[at..]) {
            Ok(Some(len)) => {
                assert!(len > LENGTH_FIELD_LEN && len <= FRAME_LEN_MAX);
                at += len;
                ends.push(at);
            }
            end => return (ends, end),
        }
    }
}

/// Reads the stream as a connection does: into a buffer as long as the longest frame, from which
/// whole frames are taken.
fn in_pieces(
    stream: &[u8],
    pieces_seed: u32,
    take: fn(&[u8]) -> Taken,
    frames: &[usize],
    end: &Taken,
) {
    let mut seed = pieces_seed | 1;
    // Mostly small pieces, mostly large ones, or one byte at a time.
    let piece_len_max = [1, 7, 40, 1_500, FRAME_LEN_MAX as u32][pieces_seed as usize % 5];
    let mut inbox = vec![0; FRAME_LEN_MAX];
    let (mut filled, mut read, mut taken) = (0, 0, 0);
    let mut pieces = 0;
    let mut frames = frames.iter();
    loop {
        let room = inbox.len() - filled;
        assert!(
            room > 0,
            "the longest frame fills the buffer and is not taken"
        );
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        let piece_len_max = if pieces < SMALL_PIECES_MAX {
            piece_len_max
        } else {
            9_000
        };
        pieces += 1;
        let piece = (1 + seed % piece_len_max) as usize;
        let piece = piece.min(room).min(stream.len() - read);
        if piece == 0 {
            assert_eq!(*end, Ok(None), "the stream in pieces has another end");
            break;
        }
        inbox[filled..filled + piece].copy_from_slice(&stream[read..read + piece]);
        filled += piece;
        read += piece;
        let mut at = 0;
        loop {
            match take(&inbox[at..filled]) {
                Ok(Some(len)) => {
                    at += len;
                    taken += len;
                    assert_eq!(frames.next(), Some(&taken), "another frame in pieces");
                }
                Ok(None) => break,
                error => {
                    assert_eq!(error, *end, "the stream in pieces is lost otherwise");
                    assert_eq!(frames.next(), None, "the stream in pieces is lost early");
                    return;
                }
            }
        }
        if at > 0 {
            inbox.copy_within(at..filled, 0);
            filled -= at;
        }
    }
    assert_eq!(frames.next(), None, "the stream in pieces has fewer frames");
    assert_eq!(filled, stream.len() - taken);
}
