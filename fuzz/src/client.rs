//! The client: whatever a server sends, it neither panics nor holds more than its buffer, and an
//! answer goes to the request that it names or to nobody.

/// The first byte sets the length of the pieces, the rest is what the server sends.
pub fn check(data: &[u8]) {
    if let Some((piece, stream)) = data.split_first() {
        keyway_client::fuzzing::receive(stream, usize::from(*piece) + 1);
    }
}
