//! Messages to one shard. What finds its lane full waits beside it, in order, and keeps no other shard waiting.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use keyway_node::messages::{Lane, ToShard};
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::spawn_local;

use super::lanes::Lanes;

/// The way to one shard. Control has one change of a keyspace, and one answer of a command, in flight at a time, which
/// bounds what waits.
pub(super) struct Outbox {
    lanes: Lanes<ToShard>,
    /// ChangeAuthor lane. `Some`: a task sends them.
    waiting: [Rc<RefCell<Option<VecDeque<ToShard>>>>; 2],
}

impl Outbox {
    pub(super) fn new(lanes: Lanes<ToShard>) -> Outbox {
        Outbox {
            lanes,
            waiting: Default::default(),
        }
    }

    /// Sends a message after those that were sent on this lane before it. One to a shard that has stopped is dropped.
    pub(super) fn send(&self, lane: Lane, message: ToShard) {
        let waiting = &self.waiting[lane as usize];
        let mut queue = waiting.borrow_mut();
        if let Some(queue) = &mut *queue {
            return queue.push_back(message);
        }
        let Err(TrySendError::Full(message)) = self.lanes.try_send(lane, message) else {
            return;
        };
        *queue = Some(VecDeque::from([message]));
        drop(queue);
        spawn_local(drain(self.lanes.clone(), lane, Rc::clone(waiting)));
    }
}

async fn drain(lanes: Lanes<ToShard>, lane: Lane, waiting: Rc<RefCell<Option<VecDeque<ToShard>>>>) {
    loop {
        let next = waiting.borrow_mut().as_mut().and_then(VecDeque::pop_front);
        match next {
            Some(message) => lanes.send(lane, message).await,
            None => {
                *waiting.borrow_mut() = None;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::super::lanes::lanes;
    use super::*;

    fn answer(token: u64) -> ToShard {
        ToShard::Answer {
            token,
            status: keyway_protocol::Status::Ok,
            payload: Vec::new().into(),
        }
    }

    #[test]
    fn what_finds_its_lane_full_comes_later_in_order() {
        let (shard, mut ends) = lanes(1, 1);
        let outbox = Outbox::new(shard);
        block_on(tokio::task::LocalSet::new().run_until(async {
            for token in 0..5 {
                outbox.send(Lane::Ordinary, answer(token));
            }
            outbox.send(Lane::Emergency, answer(9));
            let mut tokens = Vec::new();
            for _ in 0..6 {
                if let Some(ToShard::Answer { token, .. }) = ends.recv().await {
                    tokens.push(token);
                }
            }
            assert_eq!(tokens, [9, 0, 1, 2, 3, 4]);
        }));
    }
}
