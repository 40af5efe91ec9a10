//! A shard's ways to the control thread and back.

use std::cell::RefCell;

use keyway_node::messages::{Lane, ToControl, ToShard};
use keyway_node::port::Port;
use keyway_node::shard::{ControlRoom, Shard};

use super::lanes::{LaneEnds, Lanes};

/// A message, and the shard that it is from.
pub struct FromShard {
    /// Which shard.
    pub shard: u16,
    /// What it says.
    pub message: ToControl,
}

/// The ends of one shard. A message for a full lane is returned to the shard, which keeps what has to arrive.
pub struct ControlLink {
    shard: u16,
    lanes: Lanes<FromShard>,
    from_control: RefCell<LaneEnds<ToShard>>,
}

impl ControlLink {
    /// Of this shard, over the lanes to control that all share, and its own lanes from there.
    pub fn new(shard: u16, lanes: Lanes<FromShard>, from_control: LaneEnds<ToShard>) -> Self {
        ControlLink {
            shard,
            lanes,
            from_control: RefCell::new(from_control),
        }
    }

    /// Hands the shard what control has said since the last turn, and tells it how much room there is.
    pub fn deliver<P: Port>(&self, shard: &mut Shard<P>) {
        self.deliver_through(shard, Some);
    }

    /// As [`ControlLink::deliver`], with what `see` lets through.
    pub fn deliver_through<P: Port>(
        &self,
        shard: &mut Shard<P>,
        mut see: impl FnMut(ToShard) -> Option<ToShard>,
    ) {
        let mut ends = self.from_control.borrow_mut();
        while shard.takes_control(Lane::Emergency)
            && let Some(message) = ends.try_recv_emergency()
        {
            if let Some(message) = see(message) {
                shard.handle_control(Lane::Emergency, message);
            }
        }
        while shard.takes_control(Lane::Ordinary)
            && let Some(message) = ends.try_recv_ordinary()
        {
            if let Some(message) = see(message) {
                shard.handle_control(Lane::Ordinary, message);
            }
        }
        shard.handle_control_room(ControlRoom {
            emergency: self.lanes.capacity(Lane::Emergency),
            ordinary: self.lanes.capacity(Lane::Ordinary),
        });
    }

    /// Tells control something. Returns the message if its lane is full.
    pub fn tell(&self, lane: Lane, message: ToControl) -> Option<ToControl> {
        if self.lanes.capacity(lane) == 0 {
            return Some(message);
        }
        let shard = self.shard;
        let sent = self.lanes.try_send(lane, FromShard { shard, message });
        sent.err().map(|unsent| unsent.into_inner().message)
    }
}
