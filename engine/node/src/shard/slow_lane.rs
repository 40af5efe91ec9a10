//! The slow lane: an RSA signature takes as long as fifty Ed25519 signatures, so a shard makes at most one in a turn, and
//! keyspaces take turns.
//!
//! What queues here holds no key, only the request: the key is asked for again when its turn comes, so a queued request
//! never keeps plaintext alive.

use std::collections::{BTreeMap, VecDeque};

use super::governed::Governed;
use super::job::Job;
use keyway_core::slots::{At, Handle};

/// Slow operations that may queue; past it they are answered OVERLOADED.
pub const SLOW_QUEUE_MAX: usize = 4_096;

/// The lane.
#[derive(Default)]
pub(crate) struct SlowLane {
    queues: BTreeMap<At<Governed>, VecDeque<Handle<Job>>>,
    /// Keyspaces with operations in the lane, the next one first.
    order: VecDeque<At<Governed>>,
    len: usize,
}

impl SlowLane {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn has_room(&self) -> bool {
        self.len < SLOW_QUEUE_MAX
    }

    /// Queues an operation with a key of that keyspace.
    pub(crate) fn push(&mut self, of: At<Governed>, job: Handle<Job>) {
        let queue = self.queues.entry(of).or_default();
        if queue.is_empty() {
            self.order.push_back(of);
        }
        queue.push_back(job);
        self.len += 1;
    }

    /// Takes the next operation, whose deadline may have passed meanwhile.
    pub(crate) fn pop(&mut self) -> Option<Handle<Job>> {
        let of = self.order.pop_front()?;
        let queue = self.queues.get_mut(&of)?;
        let job = queue.pop_front();
        self.len -= usize::from(job.is_some());
        match queue.is_empty() {
            true => {
                self.queues.remove(&of);
            }
            false => self.order.push_back(of),
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyway_core::slots::Table;

    fn job(number: u64) -> Handle<Job> {
        Handle::from_bits(number).unwrap()
    }

    #[test]
    fn keyspaces_take_turns() {
        let mut lane = SlowLane::default();
        let mut table = Table::<Governed>::new();
        let (busy, quiet) = (
            table.push(Governed::default()),
            table.push(Governed::default()),
        );
        for number in 1..4 {
            lane.push(busy, job(number));
        }
        lane.push(quiet, job(9));
        let order: Vec<u64> = std::iter::from_fn(|| lane.pop())
            .map(Handle::to_bits)
            .collect();
        assert_eq!((order.as_slice(), lane.len()), (&[1, 9, 2, 3][..], 0));
    }
}
