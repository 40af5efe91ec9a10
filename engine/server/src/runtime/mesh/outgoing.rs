//! What waits to leave for the other shards: the part of the mesh that is ours, over any channel.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::Message;

/// Messages in one batch.
pub const BATCH_LEN_MAX: usize = 256;

/// Messages that wait at the sender for a full queue before those that need not arrive are
/// refused.
pub const OUTGOING_MAX: usize = 1_024;

/// A bounded channel to one other shard. glommio's is one; a checker's may be another.
pub trait Lane<M> {
    /// Hands over a batch without waiting.
    fn try_send(&self, batch: Vec<M>) -> Handed<M>;
}

/// What became of a batch.
pub enum Handed<M> {
    /// It is on its way.
    Sent,
    /// There is no room; here it is again.
    Full(Vec<M>),
    /// The peer has ended.
    Ended,
}

/// Messages for each other shard, in the order in which they were posted.
pub struct Outgoing<M, L> {
    lanes: Vec<Option<L>>,
    queues: RefCell<Vec<VecDeque<M>>>,
}

impl<M: Message, L: Lane<M>> Outgoing<M, L> {
    /// Over the lanes to all shards, by shard; there is none to oneself.
    pub fn new(lanes: Vec<Option<L>>) -> Self {
        let queues = lanes.iter().map(|_| VecDeque::new()).collect();
        Outgoing {
            lanes,
            queues: RefCell::new(queues),
        }
    }

    /// Queues a message for `shard`; it leaves with the next [`Outgoing::flush`].
    ///
    /// Errors: there is no room and the message need not arrive; the caller has it back.
    pub fn post(&self, shard: u16, message: M) -> Result<(), M> {
        let queue = &mut self.queues.borrow_mut()[usize::from(shard)];
        if queue.len() >= OUTGOING_MAX && !message.must_arrive() {
            return Err(message);
        }
        queue.push_back(message);
        Ok(())
    }

    /// Sends what is queued, a batch per peer, as far as there is room.
    pub fn flush(&self) {
        for (lane, queue) in self.lanes.iter().zip(self.queues.borrow_mut().iter_mut()) {
            let Some(lane) = lane else { continue };
            while !queue.is_empty() {
                let len = queue.len().min(BATCH_LEN_MAX);
                let batch: Vec<M> = queue.drain(..len).collect();
                match lane.try_send(batch) {
                    Handed::Sent => {}
                    Handed::Full(batch) => {
                        batch
                            .into_iter()
                            .rev()
                            .for_each(|message| queue.push_front(message));
                        break;
                    }
                    // The process is shutting down, and so are the connections whose answers
                    // these are.
                    Handed::Ended => queue.clear(),
                }
            }
        }
    }
}
