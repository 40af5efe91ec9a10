//! Ways between threads with an emergency lane of their own, so that a command that takes something away never waits
//! behind the others.

use keyway_node::messages::Lane;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

/// The end that sends.
pub struct Lanes<T> {
    emergency: mpsc::Sender<T>,
    ordinary: mpsc::Sender<T>,
}

impl<T> Clone for Lanes<T> {
    fn clone(&self) -> Self {
        Lanes {
            emergency: self.emergency.clone(),
            ordinary: self.ordinary.clone(),
        }
    }
}

/// The end that receives.
pub struct LaneEnds<T> {
    emergency: mpsc::Receiver<T>,
    ordinary: mpsc::Receiver<T>,
}

/// A pair of lanes that hold so many messages each.
pub fn lanes<T>(emergency_max: usize, ordinary_max: usize) -> (Lanes<T>, LaneEnds<T>) {
    let (emergency, emergency_end) = mpsc::channel(emergency_max);
    let (ordinary, ordinary_end) = mpsc::channel(ordinary_max);
    let lanes = Lanes {
        emergency,
        ordinary,
    };
    let ends = LaneEnds {
        emergency: emergency_end,
        ordinary: ordinary_end,
    };
    (lanes, ends)
}

impl<T> Lanes<T> {
    fn of(&self, lane: Lane) -> &mpsc::Sender<T> {
        match lane {
            Lane::Emergency => &self.emergency,
            Lane::Ordinary => &self.ordinary,
        }
    }

    /// Messages that a lane has room for now.
    pub fn capacity(&self, lane: Lane) -> usize {
        self.of(lane).capacity()
    }

    /// Sends if there is room.
    ///
    /// Errors: there is none, or the other end is gone; the message comes back.
    pub fn try_send(&self, lane: Lane, message: T) -> Result<(), TrySendError<T>> {
        self.of(lane).try_send(message)
    }

    /// Waits for capacity and sends. A closed lane belongs to a thread that has stopped; nothing is sent to it.
    pub async fn send(&self, lane: Lane, message: T) {
        let _ = self.of(lane).send(message).await;
    }
}

impl<T> LaneEnds<T> {
    /// The next message, those of the emergency lane first.
    pub fn try_recv(&mut self) -> Option<T> {
        self.try_recv_emergency()
            .or_else(|| self.ordinary.try_recv().ok())
    }

    /// The next message of the ordinary lane.
    pub fn try_recv_ordinary(&mut self) -> Option<T> {
        self.ordinary.try_recv().ok()
    }

    /// The next message of the emergency lane.
    pub fn try_recv_emergency(&mut self) -> Option<T> {
        self.emergency.try_recv().ok()
    }

    /// Waits for the next message, those of the emergency lane first. Returns `None` once all senders are gone.
    pub async fn recv(&mut self) -> Option<T> {
        tokio::select! {
            biased;
            Some(message) = self.emergency.recv() => Some(message),
            Some(message) = self.ordinary.recv() => Some(message),
            else => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emergency_overtakes_a_full_ordinary_lane() {
        let (lanes, mut ends) = lanes(1, 2);
        assert!(lanes.try_send(Lane::Ordinary, 1).is_ok());
        assert!(lanes.try_send(Lane::Ordinary, 2).is_ok());
        assert!(lanes.try_send(Lane::Ordinary, 3).is_err());
        assert!(lanes.try_send(Lane::Emergency, 9).is_ok());
        let received: Vec<i32> = std::iter::from_fn(|| ends.try_recv()).collect();
        assert_eq!(received, [9, 1, 2]);
    }
}
