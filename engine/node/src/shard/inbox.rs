//! Queued inputs, by class, and the rota that keeps one class from starving another.

use std::collections::VecDeque;

use keyway_core::slots::Handle;

use super::effect::{Done, TaskId};
use crate::connection::Connection;
use crate::messages::{Lane, ToControl, ToPeer, ToShard};

/// Inputs that wait for a turn. Bounded by who sends them: control's lanes, the shard's own tasks, the peers' queues.
#[derive(Default)]
pub(crate) struct Inbox {
    pub(crate) emergencies: VecDeque<ToShard>,
    pub(crate) orders: VecDeque<ToShard>,
    pub(crate) done: VecDeque<(TaskId, Done)>,
    /// Requests of peers that take something away.
    urgent_of_peers: VecDeque<(u16, ToPeer)>,
    peers: VecDeque<(u16, std::vec::IntoIter<ToPeer>)>,
    /// What control had no room for.
    pub(crate) untold: VecDeque<(Lane, ToControl)>,
    /// Connections whose sockets are closed.
    pub(crate) closed: VecDeque<Handle<Connection>>,
}

impl Inbox {
    /// Queues what another shard has sent. A batch begins with what takes something away.
    pub(crate) fn push_batch(&mut self, from: u16, mut batch: Vec<ToPeer>) {
        let urgent = batch.iter().take_while(|message| message.is_emergency());
        let urgent = urgent.count();
        self.urgent_of_peers
            .extend(batch.drain(..urgent).map(|message| (from, message)));
        self.peers.push_back((from, batch.into_iter()));
    }

    /// Takes the next message of another shard, first those that take something away.
    pub(crate) fn next_of_peers(&mut self) -> Option<(u16, ToPeer)> {
        if let Some(urgent) = self.urgent_of_peers.pop_front() {
            return Some(urgent);
        }
        loop {
            let (from, batch) = self.peers.front_mut()?;
            if let Some(message) = batch.next() {
                return Some((*from, message));
            }
            self.peers.pop_front();
        }
    }

    pub(crate) fn has_peers(&self) -> bool {
        !self.urgent_of_peers.is_empty() || self.peers.iter().any(|(_, batch)| batch.len() > 0)
    }
}

/// Classes of work that share what is left of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Requests whose deadline has passed.
    Overdue,
    /// What connections that are closed were waiting for.
    Closed,
    /// What control had no room for.
    Untold,
    /// What control says, beside emergencies.
    Orders,
    /// Errands that are done.
    Done,
    /// Requests whose wait for a key is over.
    Settled,
    /// Messages of other shards.
    Peers,
    /// Frames of connections.
    Connections,
    /// The slow lane: one operation a turn.
    Slow,
}

const CLASSES: [Class; 9] = [
    Class::Overdue,
    Class::Closed,
    Class::Untold,
    Class::Orders,
    Class::Done,
    Class::Settled,
    Class::Peers,
    Class::Connections,
    Class::Slow,
];

/// Time that a class gets whenever it is its turn, µs.
const QUANTUM_US: i64 = 32;

/// Deficit round robin (Shreedhar and Varghese 1995): a class that has overdrawn its time is passed over until it has made
/// up for it.
#[derive(Default)]
pub(crate) struct Rota {
    next: usize,
    credits_us: [i64; CLASSES.len()],
}

impl Rota {
    /// How many classes there are: after as many idle ones in a row there is nothing to do.
    pub(crate) const LEN: usize = CLASSES.len();

    /// Begins the next class's turn. Returns how long it may work, µs; 0 or less: it is passed over.
    pub(crate) fn begin(&mut self) -> (Class, i64) {
        let at = self.next;
        self.next = (at + 1) % CLASSES.len();
        self.credits_us[at] += QUANTUM_US;
        (CLASSES[at], self.credits_us[at])
    }

    /// Ends a class's share, in which it worked for `worked_us`. A class without work saves no credit.
    pub(crate) fn end(&mut self, class: Class, worked_us: u64, is_empty: bool) {
        let credit_us = &mut self.credits_us[class as usize];
        let worked_us = i64::try_from(worked_us).unwrap_or(i64::MAX);
        // A lost processor is not the class's fault.
        *credit_us = (*credit_us - worked_us).max(-10_000);
        if is_empty {
            *credit_us = (*credit_us).min(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_overdraws_is_passed_over_until_it_has_made_up_for_it() {
        let mut rota = Rota::default();
        let mut worked_us = [0_u64; CLASSES.len()];
        for _ in 0..6_000 {
            let (class, credit_us) = rota.begin();
            let unit_us = if class == Class::Orders { 500 } else { 10 };
            let mut spent_us = 0;
            while credit_us > spent_us {
                spent_us += unit_us;
            }
            worked_us[class as usize] += spent_us as u64;
            rota.end(class, spent_us as u64, false);
        }
        let (least, most) = (worked_us.iter().min(), worked_us.iter().max());
        assert!(most.unwrap() - least.unwrap() <= 1_000, "{worked_us:?}");
    }
}
