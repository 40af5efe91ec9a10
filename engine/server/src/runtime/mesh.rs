//! The mesh: one bounded queue from each shard to each other, one batch per peer and turn.
//!
//! Sending never waits: a batch that does not fit comes back. A batched message costs well under a microsecond; a parked
//! round trip costs 50.

use glommio::channels::shared_channel::{
    ConnectedReceiver, ConnectedSender, SharedReceiver, SharedSender, new_bounded,
};
use glommio::{GlommioError, ResourceType};

/// Batches in one queue.
const QUEUE_BATCHES_MAX: usize = 64;

/// One shard's place in a mesh that is not connected yet; it moves to the shard's thread.
pub struct MeshEndpoint<M: Send + 'static> {
    senders: Vec<Option<SharedSender<Vec<M>>>>,
    receivers: Vec<Option<SharedReceiver<Vec<M>>>>,
}

/// The endpoints of a mesh of `shards`, by shard.
pub fn endpoints<M: Send + 'static>(shards: u16) -> Vec<MeshEndpoint<M>> {
    let mut endpoints: Vec<MeshEndpoint<M>> = (0..shards)
        .map(|_| MeshEndpoint {
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
            endpoints[from].senders.push(sender);
            endpoints[to].receivers.push(receiver);
        }
    }
    endpoints
}

impl<M: Send + 'static> MeshEndpoint<M> {
    /// Connects to every other shard; waits until they have all come. The receivers are for one
    /// task each: a receive loop that never waits for capacity elsewhere.
    pub async fn connect(self) -> (Mesh<M>, Vec<(u16, BatchReceiver<M>)>) {
        // An end waits for the other one: all must be connecting at the same time.
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
                inboxes.push((from, BatchReceiver(receiver.await)));
            }
        }
        (Mesh(connected), inboxes)
    }
}

/// Batches from one other shard.
pub struct BatchReceiver<M: Send + 'static>(ConnectedReceiver<Vec<M>>);

impl<M: Send + 'static> BatchReceiver<M> {
    /// The next batch; `None` when that shard has ended.
    pub async fn batch(&self) -> Option<Vec<M>> {
        self.0.recv().await
    }
}

/// One shard's sending end of the mesh: a way to each other shard, by shard.
pub struct Mesh<M: Send + 'static>(Vec<Option<ConnectedSender<Vec<M>>>>);

/// The outcome of sending a batch.
pub enum Sent<M> {
    /// It was sent.
    Whole,
    /// The queue is full; the batch is returned.
    Full(Vec<M>),
    /// The peer has ended.
    Ended,
}

impl<M: Send + 'static> Mesh<M> {
    /// Hands over a batch without waiting.
    pub fn try_send(&self, to: u16, batch: Vec<M>) -> Sent<M> {
        let Some(Some(sender)) = self.0.get(usize::from(to)) else {
            return Sent::Ended;
        };
        match sender.try_send(batch) {
            Ok(()) => Sent::Whole,
            Err(GlommioError::WouldBlock(ResourceType::Channel(batch))) => Sent::Full(batch),
            Err(_) => Sent::Ended,
        }
    }
}
