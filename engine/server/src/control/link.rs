//! A shard's way to the control thread.

use std::cell::RefCell;
use std::collections::VecDeque;

use keyway_node::messages::{Lane, ToControl};

use super::lanes::Lanes;

/// A message, and the shard that it is from.
pub struct FromShard {
    /// Which shard.
    pub shard: u16,
    /// What it says.
    pub message: ToControl,
}

/// The end of one shard. What has to arrive waits here while a lane is full: of that there is at most one answer to each
/// message of control.
pub struct ControlLink {
    shard: u16,
    lanes: Lanes<FromShard>,
    waiting: RefCell<VecDeque<ToControl>>,
}

impl ControlLink {
    /// Of this shard, over the lanes that all share.
    pub fn new(shard: u16, lanes: Lanes<FromShard>) -> ControlLink {
        ControlLink {
            shard,
            lanes,
            waiting: RefCell::default(),
        }
    }

    /// Messages that a lane has room for now.
    pub fn capacity(&self, lane: Lane) -> usize {
        self.lanes.capacity(lane)
    }

    /// Sends if there is room. Returns `false` if there is none, or control has stopped.
    pub fn offer(&self, lane: Lane, message: ToControl) -> bool {
        let shard = self.shard;
        let sent = self.lanes.try_send(lane, FromShard { shard, message });
        sent.is_ok()
    }

    /// Sends what has to arrive: now, or with the next [`ControlLink::flush`]. It overtakes what is ordinary, so that no
    /// lock waits for the acknowledgement of another.
    pub fn send(&self, message: ToControl) {
        self.waiting.borrow_mut().push_back(message);
        self.flush();
    }

    /// Sends what waits, as far as there is room. To be called once a turn.
    pub fn flush(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while !waiting.is_empty() && self.capacity(Lane::Emergency) > 0 {
            if let Some(message) = waiting.pop_front() {
                self.offer(Lane::Emergency, message);
            }
        }
    }
}
