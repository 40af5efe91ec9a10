//! Streams: however the bytes come in pieces, the frames are the same, and no more than one frame's
//! limit is ever waited for.

use keyway_protocol::RequestFrame;
use keyway_protocol::limits::FRAME_LEN_MAX;

/// The first byte sets the length of the pieces, the rest is the stream.
pub fn check(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else {
        return;
    };
    let whole = decode(stream, stream.len().max(1));
    let pieces = decode(stream, usize::from(*piece) + 1);
    assert_eq!(whole, pieces, "the frames depend on how the bytes came");
}

/// The frames of a stream, and the error that ended it.
fn decode(stream: &[u8], piece: usize) -> (Vec<Vec<u8>>, Option<String>) {
    let (mut frames, mut buffer) = (Vec::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match RequestFrame::decode(&buffer) {
                Ok(Some((_, len))) => frames.push(buffer.drain(..len).collect()),
                Ok(None) => break,
                Err(error) => return (frames, Some(error.to_string())),
            }
        }
        assert!(
            buffer.len() < FRAME_LEN_MAX,
            "{} bytes are no frame, and more are asked for",
            buffer.len()
        );
    }
    (frames, None)
}
