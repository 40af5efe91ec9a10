//! What waits to leave for the other shards, a batch for each peer and turn.
//!
//! Sending never waits. A forward that finds no room is refused at once; a reply, which must not be lost, is kept. Requests
//! that take something away are sent first, and always find room: there are no more than a shard has places for.

use std::collections::VecDeque;

use crate::messages::ToPeer;

/// Messages in one batch.
pub const BATCH_LEN_MAX: usize = 256;

/// Messages that wait for a peer before forwards are refused.
pub const OUTGOING_MAX: usize = 1_024;

/// Messages for each other shard.
#[derive(Default)]
pub struct Forwarder {
    queues: Vec<Queue>,
}

/// Messages for one shard, in the order in which they were posted, those that take something away apart.
#[derive(Default)]
struct Queue {
    /// Bounded by [`super::WAITING_FOR_EMERGENCY`]: each has a job.
    emergencies: VecDeque<ToPeer>,
    others: VecDeque<ToPeer>,
}

impl Queue {
    fn of(&mut self, message: &ToPeer) -> &mut VecDeque<ToPeer> {
        match message.is_emergency() {
            true => &mut self.emergencies,
            false => &mut self.others,
        }
    }
}

impl Forwarder {
    /// Of one of `shards` shards.
    #[must_use]
    pub fn new(shards: u16) -> Self {
        Forwarder {
            queues: (0..shards).map(|_| Queue::default()).collect(),
        }
    }

    /// Queues a forward for `shard`. What takes something away is not refused.
    ///
    /// # Errors
    /// There is no room; it comes back.
    pub fn forward(&mut self, shard: u16, message: ToPeer) -> Result<(), ToPeer> {
        let Some(queue) = self.queues.get_mut(usize::from(shard)) else {
            return Err(message);
        };
        let is_urgent = message.is_emergency();
        let queue = queue.of(&message);
        if !is_urgent && queue.len() >= OUTGOING_MAX {
            return Err(message);
        }
        queue.push_back(message);
        Ok(())
    }

    /// Queues a reply for `shard`. There are at most as many as it has asked for.
    pub fn reply(&mut self, shard: u16, reply: ToPeer) {
        if let Some(queue) = self.queues.get_mut(usize::from(shard)) {
            queue.others.push_back(reply);
        }
    }

    /// Returns the shards for which something waits.
    pub fn waiting(&self) -> impl Iterator<Item = u16> {
        let queues = (0..).zip(&self.queues);
        queues
            .filter(|(_, queue)| !queue.emergencies.is_empty() || !queue.others.is_empty())
            .map(|(shard, _)| shard)
    }

    /// Takes the next messages for `shard`, first those that take something away.
    pub fn take_batch(&mut self, shard: u16) -> Option<Vec<ToPeer>> {
        let queue = self.queues.get_mut(usize::from(shard))?;
        let urgent = queue.emergencies.len().min(BATCH_LEN_MAX);
        let others = queue.others.len().min(BATCH_LEN_MAX - urgent);
        let mut batch = Vec::with_capacity(urgent + others);
        batch.extend(queue.emergencies.drain(..urgent));
        batch.extend(queue.others.drain(..others));
        (!batch.is_empty()).then_some(batch)
    }

    /// Takes back a batch for which there was no room.
    pub fn give_back(&mut self, shard: u16, batch: Vec<ToPeer>) {
        if let Some(queue) = self.queues.get_mut(usize::from(shard)) {
            batch
                .into_iter()
                .rev()
                .for_each(|message| queue.of(&message).push_front(message));
        }
    }
}
