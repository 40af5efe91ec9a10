//! What a client has sent and what it was answered: each request once, and nothing else.

use std::collections::BTreeMap;

use keyway_core::slots::Handle;
use keyway_node::connection::Connection;
use keyway_node::policy::Principal;
use keyway_protocol::limits::FRAME_LEN_MAX;
use keyway_protocol::{RequestFrame, ResponseFrame};

use super::port::SIGNED;

/// One connection, seen from the other end.
pub(super) struct Client {
    pub(super) at: Handle<Connection>,
    pub(super) who: Principal,
    /// Bytes that are to be sent, and those of a frame that is not complete.
    pub(super) outgoing: Vec<u8>,
    partial: Vec<u8>,
    /// Answers that are not complete.
    incoming: Vec<u8>,
    /// Requests that were sent and not answered, by id.
    unanswered: BTreeMap<u64, usize>,
    /// The stream is lost: what comes after its last whole frame is no frame.
    is_lost: bool,
    /// The server has said so.
    has_end: bool,
    /// It has sent what a result looks like, which PING returns.
    has_sent_result: bool,
    pub(super) is_closed: bool,
    pub(super) last_id: u64,
}

impl Client {
    pub(super) fn new(at: Handle<Connection>, who: Principal) -> Self {
        Self {
            at,
            who,
            outgoing: Vec::new(),
            partial: Vec::new(),
            incoming: Vec::new(),
            unanswered: BTreeMap::new(),
            is_lost: false,
            has_end: false,
            has_sent_result: false,
            is_closed: false,
            last_id: 0,
        }
    }

    /// The shard was given these bytes.
    pub(super) fn note_sent(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        if self.is_lost {
            return;
        }
        let mut at = 0;
        loop {
            match RequestFrame::decode(&self.partial[at..]) {
                Ok(Some((frame, len))) => {
                    *self.unanswered.entry(frame.request_id).or_default() += 1;
                    self.has_sent_result |= has_result(&frame.payload);
                    at += len;
                }
                Ok(None) => break,
                Err(_) => {
                    self.is_lost = true;
                    break;
                }
            }
        }
        self.partial.drain(..at);
    }

    /// The shard has sent these bytes. `may_use`: the principal has had a right to keys at some time.
    pub(super) fn note_received(&mut self, bytes: &[u8], may_use: bool) {
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.extend_from_slice(bytes);
        let mut at = 0;
        while let Some((frame, len)) =
            ResponseFrame::decode(&incoming[at..]).expect("the server's bytes are frames")
        {
            assert!(len <= FRAME_LEN_MAX);
            let count = self.unanswered.get_mut(&frame.request_id);
            match count.filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => assert!(
                    self.takes_end(frame.request_id),
                    "an answer to request {}, which waits for none",
                    frame.request_id
                ),
            }
            assert!(
                may_use || self.has_sent_result || !has_result(&frame.payload),
                "{} has no right, and has the result of a key",
                self.who
            );
            at += len;
        }
        incoming.drain(..at);
        self.incoming = incoming;
    }

    /// Whether an answer with this id says that the stream is lost: it has the id of the bytes that are no frame, as far as
    /// they had come, and comes once.
    fn takes_end(&mut self, id: u64) -> bool {
        let is_id = id == 0 || RequestFrame::request_id_at(&self.partial) == Some(id);
        let is_end = self.is_lost && !self.has_end && is_id;
        self.has_end |= is_end;
        is_end
    }

    /// How many requests have no answer.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.values().sum()
    }

    /// The ids of requests without an answer.
    pub(super) fn unanswered_ids(&self) -> Vec<u64> {
        let waiting = self.unanswered.iter().filter(|(_, count)| **count > 0);
        waiting.map(|(id, _)| *id).collect()
    }
}

fn has_result(payload: &[u8]) -> bool {
    payload.windows(SIGNED.len()).any(|part| part == SIGNED)
}
