//! What waits to leave for the other shards, a batch for each peer and turn.
//!
//! Sending never waits. A forward that finds no room is refused at once; a reply, which must not be lost, is kept.

use std::collections::VecDeque;

use crate::messages::ToPeer;

/// Messages in one batch.
pub const BATCH_LEN_MAX: usize = 256;

/// Messages that wait for a peer before forwards are refused.
pub const OUTGOING_MAX: usize = 1_024;

/// Messages for each other shard, in the order in which they were posted.
#[derive(Default)]
pub struct Forwarder {
    queues: Vec<VecDeque<ToPeer>>,
}

impl Forwarder {
    /// Of one of `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Forwarder {
            queues: (0..shards).map(|_| VecDeque::new()).collect(),
        }
    }

    /// Queues a forward for `shard`.
    ///
    /// # Errors
    /// There is no room; it comes back.
    pub fn forward(&mut self, shard: u16, message: ToPeer) -> Result<(), ToPeer> {
        match self.queues.get_mut(usize::from(shard)) {
            Some(queue) if queue.len() < OUTGOING_MAX => {
                queue.push_back(message);
                Ok(())
            }
            _ => Err(message),
        }
    }

    /// Queues a reply for `shard`. There are at most as many as it has asked for.
    pub fn reply(&mut self, shard: u16, reply: ToPeer) {
        if let Some(queue) = self.queues.get_mut(usize::from(shard)) {
            queue.push_back(reply);
        }
    }

    /// Returns the shards for which something waits.
    pub fn waiting(&self) -> impl Iterator<Item = u16> {
        let queues = (0..).zip(&self.queues);
        queues
            .filter(|(_, queue)| !queue.is_empty())
            .map(|(shard, _)| shard)
    }

    /// Takes the next messages for `shard`.
    pub fn take_batch(&mut self, shard: u16) -> Option<Vec<ToPeer>> {
        let queue = self.queues.get_mut(usize::from(shard))?;
        let len = queue.len().min(BATCH_LEN_MAX);
        (len > 0).then(|| queue.drain(..len).collect())
    }

    /// Takes back a batch for which there was no room.
    pub fn give_back(&mut self, shard: u16, batch: Vec<ToPeer>) {
        if let Some(queue) = self.queues.get_mut(usize::from(shard)) {
            batch
                .into_iter()
                .rev()
                .for_each(|message| queue.push_front(message));
        }
    }
}
