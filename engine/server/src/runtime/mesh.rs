//! The mesh: one bounded queue from each shard to each other, one batch per peer and turn.
//!
//! Sending never waits. What does not fit is refused by the caller (a forward is answered
//! OVERLOADED) or kept for the next turn (an answer, which must not be lost). A batched message
//! costs well under a microsecond; a parked round trip costs 50.

pub mod outgoing;

use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};
use glommio::{GlommioError, ResourceType};

use outgoing::{Handed, Lane, Outgoing};

/// Batches in one queue.
const QUEUE_BATCHES_MAX: usize = 64;

/// What travels between shards.
pub trait Message: Send + 'static {
    /// Whether it must arrive: such a message is kept when the queue is full, the others are
    /// refused at once.
    fn must_arrive(&self) -> bool;
}

/// One shard's place in a mesh that is not connected yet; it moves to the shard's thread.
pub struct Seat<M: Message> {
    senders: Vec<Option<SharedSender<Vec<M>>>>,
    receivers: Vec<Option<SharedReceiver<Vec<M>>>>,
}

/// The seats of a mesh of `shards`, by shard.
pub fn seats<M: Message>(shards: u16) -> Vec<Seat<M>> {
    let mut seats: Vec<Seat<M>> = (0..shards)
        .map(|_| Seat {
            senders: Vec::new(),
            receivers: Vec::new(),
        })
        .collect();
    for from in 0..usize::from(shards) {
        for to in 0..usize::from(shards) {
            let (sender, receiver) = if from == to {
                (None, None)
            } else {
                let (sender, receiver) = new_bounded(QUEUE_BATCHES_MAX);
                (Some(sender), Some(receiver))
            };
            seats[from].senders.push(sender);
            seats[to].receivers.push(receiver);
        }
    }
    seats
}

impl<M: Message> Seat<M> {
    /// Connects to every other shard; waits until they have all come. The receivers are for one
    /// task each: a receive loop that never waits for room elsewhere.
    pub async fn connect(self) -> (Mesh<M>, Vec<(u16, Inbox<M>)>) {
        // An end waits for the other one: all have to be under way at the same time.
        let connect = |sender: SharedSender<_>| glommio::spawn_local(sender.connect());
        let senders: Vec<_> = self
            .senders
            .into_iter()
            .map(|sender| sender.map(connect))
            .collect();
        let connect = |receiver: SharedReceiver<_>| glommio::spawn_local(receiver.connect());
        let receivers: Vec<_> = self
            .receivers
            .into_iter()
            .map(|receiver| receiver.map(connect))
            .collect();
        let mut connected = Vec::with_capacity(senders.len());
        for sender in senders {
            connected.push(match sender {
                Some(sender) => Some(sender.await),
                None => None,
            });
        }
        let mut inboxes = Vec::new();
        for (from, receiver) in (0..).zip(receivers) {
            if let Some(receiver) = receiver {
                inboxes.push((from, Inbox(receiver.await)));
            }
        }
        (Mesh::new(connected), inboxes)
    }
}

/// Batches from one other shard.
pub struct Inbox<M: Message>(ConnectedReceiver<Vec<M>>);

impl<M: Message> Inbox<M> {
    /// The next batch; `None` when that shard has ended.
    pub async fn batch(&self) -> Option<Vec<M>> {
        self.0.recv().await
    }
}

/// One shard's sending end of the mesh.
pub type Mesh<M> = Outgoing<M, ConnectedSender<Vec<M>>>;

impl<M: Message> Lane<M> for ConnectedSender<Vec<M>> {
    fn try_send(&self, batch: Vec<M>) -> Handed<M> {
        match ConnectedSender::try_send(self, batch) {
            Ok(()) => Handed::Sent,
            Err(GlommioError::WouldBlock(ResourceType::Channel(batch))) => Handed::Full(batch),
            Err(_) => Handed::Ended,
        }
    }
}
