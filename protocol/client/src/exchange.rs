//! One connection without its socket: request ids, and who waits for which answer.

use std::collections::HashMap;

use keyway_protocol::limits::{FRAME_LEN_MAX, HEADER_LEN};
use keyway_protocol::{Octets, Opcode, ProtocolError, RequestFrame, ResponseFrame};

use crate::answer::Reply;
use crate::buffer::{ReadBuffer, WriteBuffer};

/// The most requests that wait for an answer on one connection. Requests that were given up count
/// until they are answered.
pub const IN_FLIGHT_MAX: usize = 4_096;

/// The most bytes that wait to be written on one connection.
const WRITE_LEN_MAX: usize = 4 << 20;

const _: () = assert!(WRITE_LEN_MAX > FRAME_LEN_MAX);

/// Requests in flight on one connection. `W` receives each result: a thread's or a task's end of
/// the wire.
#[derive(Debug)]
pub(crate) struct Exchange<W> {
    next_id: u64,
    waiting: HashMap<u64, (Opcode, W)>,
    out: WriteBuffer,
}

/// A request ready to be framed.
#[derive(Clone, Copy)]
pub(crate) struct Outgoing<'a> {
    pub(crate) opcode: Opcode,
    pub(crate) keyspace_id: u32,
    pub(crate) deadline_us: u32,
    pub(crate) key_id: &'a [u8],
    /// Within the limit: it comes from an encoder that checks it.
    pub(crate) payload: &'a [u8],
}

impl<'a> Outgoing<'a> {
    /// HELLO, with its payload.
    pub(crate) fn hello(payload: &'a [u8]) -> Self {
        Self {
            opcode: Opcode::Hello,
            keyspace_id: 0,
            deadline_us: 0,
            key_id: b"",
            payload,
        }
    }
}

/// There is no room for another request on this connection now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl<W> Exchange<W> {
    pub(crate) fn new() -> Self {
        Self {
            // 0 stands for "no request" in answers to frames that cannot be read.
            next_id: 1,
            waiting: HashMap::new(),
            out: WriteBuffer::default(),
        }
    }

    /// Frames a request behind those that wait to be written.
    pub(crate) fn send(&mut self, request: &Outgoing<'_>, waiter: W) -> Result<(), Full> {
        let frame_len = HEADER_LEN + request.key_id.len() + request.payload.len();
        if self.waiting.len() >= IN_FLIGHT_MAX || self.out.len() + frame_len > WRITE_LEN_MAX {
            return Err(Full);
        }
        let frame = RequestFrame {
            code: request.opcode.code(),
            request_id: self.next_id,
            keyspace_id: request.keyspace_id,
            deadline_us: request.deadline_us,
            key_id: Octets(request.key_id),
            payload: Octets(request.payload),
        };
        let is_secret = request.opcode.request_is_secret();
        frame
            .encode(self.out.reserve(frame_len, is_secret))
            .expect("key id and payload are within their limits");
        self.waiting.insert(self.next_id, (request.opcode, waiter));
        self.next_id += 1;
        Ok(())
    }

    /// Exchanges the frames that wait to be written for an empty buffer. Gives whether there are
    /// any.
    pub(crate) fn take_out(&mut self, empty: &mut WriteBuffer) -> bool {
        std::mem::swap(&mut self.out, empty);
        !empty.is_empty()
    }

    /// The next answer among the bytes that have come, and who waits for it. `None` means that
    /// more bytes are needed; an error, that the connection is of no more use.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut ReadBuffer,
    ) -> Result<Option<(W, Reply)>, String> {
        let decoded = ResponseFrame::decode(buffer.unread());
        let decoded = decoded.map_err(|error| not_keyway(buffer.unread(), &error))?;
        let Some((frame, len)) = decoded else {
            return Ok(None);
        };
        let Some((opcode, waiter)) = self.waiting.remove(&frame.request_id) else {
            let words = String::from_utf8_lossy(&frame.payload);
            return Err(match frame.request_id {
                0 => format!("the server gave up the connection: {words}"),
                id => format!("an answer to request {id}, which was never sent"),
            });
        };
        let reply = Reply::from_frame(&frame);
        buffer.consume(len, opcode.answer_is_secret());
        Ok(Some((waiter, reply)))
    }

    /// The connection is gone: all who wait.
    pub(crate) fn abandon(&mut self) -> Vec<W> {
        self.out.clear();
        self.waiting
            .drain()
            .map(|(_, (_, waiter))| waiter)
            .collect()
    }
}

/// What it means that an answer is no frame. The other end may speak another protocol: people mix up ports.
fn not_keyway(bytes: &[u8], error: &ProtocolError) -> String {
    if bytes.starts_with(b"HTTP/") {
        return "an HTTP server answers there, such as the one for metrics; name the port that keywayd listens on for \
                clients"
            .to_owned();
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use keyway_protocol::{ResponseHead, ResponseWriter};

    use super::*;

    const PING: Outgoing<'static> = Outgoing {
        opcode: Opcode::Ping,
        keyspace_id: 0,
        deadline_us: 0,
        key_id: b"",
        payload: b"hello",
    };

    fn feed(buffer: &mut ReadBuffer, request_id: u64, payload: &[u8]) {
        let mut out = Vec::new();
        let mut writer = ResponseWriter::begin(&mut out, request_id);
        writer.payload().extend_from_slice(payload);
        writer.finish(ResponseHead::OK);
        buffer.room()[..out.len()].copy_from_slice(&out);
        buffer.filled(out.len());
    }

    #[test]
    fn answers_find_their_waiters_in_any_order() {
        let mut exchange = Exchange::new();
        for waiter in ["one", "two", "three"] {
            exchange.send(&PING, waiter).unwrap();
        }
        let mut buffer = ReadBuffer::new();
        for (id, expected) in [(3, "three"), (1, "one"), (2, "two")] {
            feed(&mut buffer, id, expected.as_bytes());
            let (waiter, reply) = exchange.receive(&mut buffer).unwrap().unwrap();
            assert_eq!(waiter, expected);
            assert_eq!(&*reply.payload, expected.as_bytes());
        }
        assert!(exchange.receive(&mut buffer).unwrap().is_none());
        assert!(exchange.abandon().is_empty());
    }

    #[test]
    fn an_answer_that_nobody_asked_for_ends_the_connection() {
        let mut exchange = Exchange::<()>::new();
        let mut buffer = ReadBuffer::new();
        feed(&mut buffer, 9, b"");
        assert!(
            exchange
                .receive(&mut buffer)
                .unwrap_err()
                .contains("request 9")
        );
    }

    /// `frame_len has 1347703880 bytes` was all that was said.
    #[test]
    fn a_server_of_another_protocol_is_named() {
        for (bytes, words) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "an HTTP server"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "bytes, at most"),
        ] {
            let mut exchange = Exchange::<()>::new();
            let mut buffer = ReadBuffer::new();
            let room = buffer.room();
            room[..bytes.len()].copy_from_slice(bytes);
            buffer.filled(bytes.len());
            let said = exchange.receive(&mut buffer).err().unwrap();
            assert!(said.contains(words), "{said}");
        }
    }

    #[test]
    fn requests_beyond_the_limit_are_refused_until_others_are_answered() {
        let mut exchange = Exchange::new();
        for waiter in 0..IN_FLIGHT_MAX {
            exchange.send(&PING, waiter).unwrap();
        }
        assert_eq!(exchange.send(&PING, IN_FLIGHT_MAX), Err(Full));
        let mut buffer = ReadBuffer::new();
        feed(&mut buffer, 7, b"");
        exchange.receive(&mut buffer).unwrap();
        exchange.send(&PING, IN_FLIGHT_MAX).unwrap();
    }

    #[test]
    fn what_waits_to_be_written_is_bounded_and_taken_in_one_piece() {
        let mut exchange = Exchange::new();
        let payload = [0; 65_536];
        let big = Outgoing {
            payload: &payload,
            ..PING
        };
        while exchange.send(&big, ()).is_ok() {}
        let mut taken = WriteBuffer::default();
        assert!(exchange.take_out(&mut taken));
        assert!(taken.len() <= WRITE_LEN_MAX);
        taken.clear();
        assert!(!exchange.take_out(&mut taken));
        exchange.send(&big, ()).unwrap();
    }
}
