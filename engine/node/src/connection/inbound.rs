//! What a connection has received and not handed on yet.
//!
//! ```text
//!  taken            looked_to            filled
//!    │ to be taken, in order │ not looked at │ room
//! ```
//!
//! Whole frames are looked through for emergencies, commands that take something away, which are taken out of the middle:
//! they wait for nothing that came before them. So a connection is read ahead, into a bounded buffer, also while nothing
//! else of it may be taken.

use std::cell::Cell;
use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::limits::FRAME_LEN_MAX;
use keyway_protocol::{Opcode, ProtocolError, Request, RequestFrame};
use zeroize::Zeroize;

use super::arrivals::Arrivals;
use crate::catalogue::may_take_away;

/// Bytes that one read takes at most.
const READ_LEN_MAX: usize = 64 << 10;

/// Offset of the operation's code in a frame.
const CODE_AT: usize = 5;

/// Size at first; it grows to a whole frame when one needs it.
const LEN_MIN: usize = 16 << 10;

/// What is read ahead of a connection whose requests may not be taken yet.
pub const READ_AHEAD_MAX: usize = 1 << 20;

/// What all inboxes of a shard have beyond [`FRAME_LEN_MAX`], together.
pub const READ_AHEAD_BYTES_MAX: usize = 32 << 20;

const _: () = assert!(LEN_MIN < FRAME_LEN_MAX);
const _: () = assert!(FRAME_LEN_MAX < READ_AHEAD_MAX);

/// Received bytes of one connection. Requests can carry secrets (imports, plaintexts), so all that has been taken is wiped
/// before the turn ends.
pub(crate) struct Inbound {
    bytes: Vec<u8>,
    /// What is before it has been wiped.
    wiped: usize,
    /// `wiped <= taken <= looked_to <= filled <= bytes.len()`; the middle two at the beginning of a frame.
    taken: usize,
    looked_to: usize,
    filled: usize,
    arrivals: Arrivals,
    /// No whole frame is left to take, or to look at, until more bytes come.
    is_drained: bool,
    is_looked_through: bool,
    /// What all inboxes of the shard have beyond [`FRAME_LEN_MAX`].
    read_ahead_bytes: Rc<Cell<usize>>,
}

impl Inbound {
    /// An empty inbox of a shard whose inboxes share `read_ahead_bytes`.
    pub fn new(read_ahead_bytes: Rc<Cell<usize>>) -> Inbound {
        Inbound {
            bytes: vec![0; LEN_MIN],
            wiped: 0,
            taken: 0,
            looked_to: 0,
            filled: 0,
            arrivals: Arrivals::default(),
            is_drained: true,
            is_looked_through: true,
            read_ahead_bytes,
        }
    }

    /// Returns room for the next bytes; empty while no more is read ahead.
    pub fn space(&mut self) -> &mut [u8] {
        let end = self.bytes.len().min(self.filled + READ_LEN_MAX);
        &mut self.bytes[self.filled..end]
    }

    /// Returns the code of the first operation that has not been looked at, if it is there.
    pub fn next_code(&self) -> Option<u8> {
        let code = self.bytes.get(self.looked_to + CODE_AT).copied();
        code.filter(|_| self.looked_to + CODE_AT < self.filled)
    }

    /// Takes in the first `count` bytes of [`Inbound::space`].
    pub fn received(&mut self, now: Instant, count: usize) {
        self.filled = self.bytes.len().min(self.filled + count);
        self.arrivals.note(self.taken, self.filled, now);
        self.is_drained = false;
        self.is_looked_through = false;
    }

    /// Whether a whole frame may be there to take.
    pub fn may_have_frame(&self) -> bool {
        !self.is_drained
    }

    /// Whether there may be whole frames that have not been looked at.
    pub fn may_have_emergency(&self) -> bool {
        !self.is_looked_through
    }

    /// Whether what is left is the beginning of a frame.
    pub fn is_partial(&self) -> bool {
        self.is_drained && self.taken < self.filled
    }

    /// The bytes that have not been taken.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.taken..self.filled]
    }

    /// Hands the next frame, if it is all there, to `take`, with when it arrived. Returns whether there was one.
    ///
    /// Errors: the stream is lost.
    pub fn take_next(
        &mut self,
        take: impl FnOnce(&RequestFrame<'_>, Instant),
    ) -> Result<bool, ProtocolError> {
        let Some((frame, len)) = RequestFrame::decode(self.rest())? else {
            self.is_drained = true;
            return Ok(false);
        };
        take(&frame, self.arrivals.of(self.taken + len));
        self.taken += len;
        self.arrivals.take(self.taken);
        self.looked_to = self.looked_to.max(self.taken);
        Ok(true)
    }

    /// Hands emergencies among the frames that have not been looked at to `take`, as long as it takes them. The others stay
    /// in their order. Returns how many were taken.
    pub fn take_emergencies(
        &mut self,
        mut take: impl FnMut(&RequestFrame<'_>, Instant) -> bool,
    ) -> usize {
        let (mut from, mut to, mut count) = (self.looked_to, self.looked_to, 0);
        self.is_looked_through = true;
        // What is malformed is found when its turn has come; nothing behind it is looked at.
        while let Ok(Some((frame, len))) = RequestFrame::decode(&self.bytes[from..self.filled]) {
            if !is_emergency(&frame) {
                if from != to {
                    self.bytes.copy_within(from..from + len, to);
                }
                to += len;
            } else if take(&frame, self.arrivals.of(to + len)) {
                count += 1;
                self.arrivals.cut(to, len);
            } else {
                self.is_looked_through = false;
                break;
            }
            from += len;
        }
        if from != to {
            self.bytes.copy_within(from..self.filled, to);
            let filled = self.filled - (from - to);
            self.bytes[filled..self.filled].zeroize();
            self.filled = filled;
        }
        self.looked_to = to;
        count
    }

    /// Wipes what was taken, once for all frames of a turn. Makes room for a whole frame; if the buffer holds frames that
    /// may not be taken, for more of them.
    pub fn settle(&mut self) {
        self.bytes[self.wiped..self.taken].zeroize();
        self.wiped = self.taken;
        let (len, left) = (self.bytes.len(), self.filled - self.taken);
        // Not after each frame of a long queue: that would move all the others each time.
        let is_worthwhile = self.taken >= left || (self.filled == len && self.taken >= LEN_MIN);
        if self.taken > 0 && (self.is_drained || is_worthwhile) {
            self.bytes.copy_within(self.taken..self.filled, 0);
            self.bytes[left.max(self.taken)..self.filled].zeroize();
            self.looked_to -= self.taken;
            self.arrivals.cut(0, self.taken);
            (self.wiped, self.taken, self.filled) = (0, 0, left);
        }
        if self.filled == len && len < READ_AHEAD_MAX {
            let longer = if len < FRAME_LEN_MAX {
                FRAME_LEN_MAX
            } else {
                READ_AHEAD_MAX.min(len * 2)
            };
            self.resize(longer);
        } else if len > FRAME_LEN_MAX && self.filled <= LEN_MIN {
            self.resize(FRAME_LEN_MAX);
        }
    }

    /// Replaces the buffer, unless the shard's inboxes have too much already.
    fn resize(&mut self, len: usize) {
        let total = self.read_ahead_bytes.get() - self.ahead();
        let total = total + len.saturating_sub(FRAME_LEN_MAX);
        if len > self.bytes.len() && total > READ_AHEAD_BYTES_MAX.max(self.read_ahead_bytes.get()) {
            return;
        }
        self.read_ahead_bytes.set(total);
        // A vector that reallocates would leave a copy of its bytes.
        let mut bytes = vec![0; len];
        bytes[..self.filled].copy_from_slice(&self.bytes[..self.filled]);
        self.bytes[..self.filled].zeroize();
        self.bytes = bytes;
    }

    fn ahead(&self) -> usize {
        self.bytes.len().saturating_sub(FRAME_LEN_MAX)
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        let total = self.read_ahead_bytes.get();
        self.read_ahead_bytes
            .set(total.saturating_sub(self.ahead()));
        self.bytes.zeroize();
    }
}

/// Returns whether operations of this code may take something away.
pub(super) fn may_be_emergency(code: u8) -> bool {
    matches!(
        Opcode::of(code),
        Some(
            Opcode::Lock
                | Opcode::KmsLock
                | Opcode::LockAll
                | Opcode::KeyRevoke
                | Opcode::KeyspaceSet
        )
    )
}

/// Returns whether a request takes something away, and is taken before others of its connection.
fn is_emergency(frame: &RequestFrame<'_>) -> bool {
    match Opcode::of(frame.code) {
        Some(Opcode::Lock | Opcode::KmsLock | Opcode::LockAll | Opcode::KeyRevoke) => true,
        // What is malformed is refused in its turn.
        Some(Opcode::KeyspaceSet) => match Request::decode(frame) {
            Ok(Request::KeyspaceSet(lines)) => lines.iter().any(|(name, _)| may_take_away(name)),
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use keyway_protocol::Octets;

    use super::*;

    fn frame(opcode: Opcode, request_id: u64, payload: &[u8]) -> Vec<u8> {
        let frame = RequestFrame {
            code: opcode.code(),
            request_id,
            keyspace_id: 1,
            deadline_us: 0,
            key_id: Octets(b""),
            payload: Octets(payload),
        };
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        bytes
    }

    fn receive(inbox: &mut Inbound, bytes: &[u8]) {
        for chunk in bytes.chunks(READ_LEN_MAX) {
            inbox.space()[..chunk.len()].copy_from_slice(chunk);
            inbox.received(Instant::ZERO, chunk.len());
        }
    }

    fn emergencies(inbox: &mut Inbound, count_max: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        inbox.take_emergencies(|frame, _| {
            let takes = ids.len() < count_max;
            ids.extend(takes.then_some(frame.request_id));
            takes
        });
        ids
    }

    fn others(inbox: &mut Inbound) -> Vec<u64> {
        let mut ids = Vec::new();
        while inbox
            .take_next(|frame, _| ids.push(frame.request_id))
            .unwrap()
        {}
        ids
    }

    #[test]
    fn emergencies_come_out_of_the_middle_and_the_rest_stays_in_order() {
        let mut inbox = Inbound::new(Rc::default());
        let mut bytes = Vec::new();
        for (opcode, payload) in [
            (Opcode::Sign, &b"1"[..]),
            (Opcode::Lock, b""),
            (Opcode::KeyspaceSet, b"max_in_flight=1\n"),
            (Opcode::KeyspaceSet, b"max_in_flight=1\nallow:uid:1=none\n"),
            (Opcode::KeyspaceSet, b"hard_ttl_ms=1000\nfor_ms=60000\n"),
            (Opcode::KeyspaceSet, b"max_in_flight=1\ndek_lease_ms=1000\n"),
            (Opcode::KeyspaceSet, b"soft_ttl_ms=1000"),
            (Opcode::KeyRevoke, b""),
            (Opcode::Unlock, b"allow:"),
            (Opcode::LockAll, b""),
            (Opcode::Ping, b"8"),
            (Opcode::KmsLock, b"local"),
        ] {
            let request_id = bytes.len() as u64;
            bytes.extend_from_slice(&frame(opcode, request_id, payload));
        }
        // However the bytes are cut, and however many are taken at a time.
        for cut in [1, 7, 33, 40, bytes.len()] {
            for count_max in [1, 2, 9] {
                let (mut first, mut second) = (Vec::new(), Vec::new());
                for chunk in bytes.chunks(cut) {
                    receive(&mut inbox, chunk);
                    while inbox.may_have_emergency() {
                        first.extend(emergencies(&mut inbox, count_max));
                    }
                    if inbox.filled.is_multiple_of(2) {
                        second.extend(others(&mut inbox));
                    }
                    inbox.settle();
                }
                second.extend(others(&mut inbox));
                inbox.settle();
                assert_eq!((first.len(), second.len()), (7, 5), "{cut} {count_max}");
                assert!(first.is_sorted() && second.is_sorted());
                assert_eq!((inbox.filled, inbox.is_partial()), (0, false));
                assert!(inbox.bytes.iter().all(|byte| *byte == 0), "wiped");
            }
        }
    }

    #[test]
    fn what_is_read_ahead_is_bounded_and_given_back() {
        let shared = Rc::<Cell<usize>>::default();
        let full = |inbox: &mut Inbound| {
            loop {
                let room = inbox.space().len();
                if room == 0 {
                    return inbox.bytes.len();
                }
                receive(inbox, &vec![1; room]);
                inbox.settle();
            }
        };
        let mut inboxes = Vec::new();
        for _ in 0..64 {
            let mut inbox = Inbound::new(Rc::clone(&shared));
            assert!((FRAME_LEN_MAX..=READ_AHEAD_MAX).contains(&full(&mut inbox)));
            inboxes.push(inbox);
        }
        assert_eq!(inboxes[0].bytes.len(), READ_AHEAD_MAX);
        assert_eq!(inboxes[63].bytes.len(), FRAME_LEN_MAX);
        assert!(shared.get() <= READ_AHEAD_BYTES_MAX);
        let freed = &mut inboxes[0];
        freed.taken = freed.filled;
        freed.looked_to = freed.filled;
        freed.settle();
        assert_eq!(freed.bytes.len(), FRAME_LEN_MAX);
        drop(inboxes);
        assert_eq!(shared.get(), 0);
    }
}
