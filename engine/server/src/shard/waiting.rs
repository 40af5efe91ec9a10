//! Requests that wait for somebody else's answer, by token: each gets exactly one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use super::{WAITING_FOR_EMERGENCY, WAITING_MAX};
use crate::runtime::mesh::Message;
use crate::runtime::mesh::outgoing::{Lane, Outgoing};
use keyway_node::messages;

/// What waits at one shard.
pub struct WaitingRoom<T> {
    waiting: RefCell<HashMap<u64, T>>,
    next_token: Cell<u64>,
}

impl<T> Default for WaitingRoom<T> {
    fn default() -> Self {
        WaitingRoom {
            waiting: RefCell::default(),
            next_token: Cell::new(1),
        }
    }
}

impl<T> WaitingRoom<T> {
    /// A name that no request of this shard has had.
    pub fn token(&self) -> u64 {
        let token = self.next_token.get();
        self.next_token.set(token + 1);
        token
    }

    /// Whether one more request may wait.
    pub fn has_room(&self) -> bool {
        self.has_room_beside(0)
    }

    /// Whether one more request may wait while so many places stay free for others.
    pub fn has_room_beside(&self, reserved: usize) -> bool {
        self.len() + reserved < WAITING_MAX
    }

    /// The same for a command to the control thread; those of the emergency lane have places beyond the rest.
    pub fn has_room_on(&self, lane: messages::Lane, reserved: usize) -> bool {
        match lane {
            messages::Lane::Emergency => {
                self.len() + reserved < WAITING_MAX + WAITING_FOR_EMERGENCY
            }
            messages::Lane::Ordinary => self.has_room_beside(reserved),
        }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets a request wait for what comes for `token`.
    pub fn wait(&self, token: u64, waiting: T) {
        self.waiting.borrow_mut().insert(token, waiting);
    }

    /// The request that an answer is for; `None` if it has had one, or nobody waits for it any
    /// more.
    pub fn take(&self, token: u64) -> Option<T> {
        self.waiting.borrow_mut().remove(&token)
    }

    /// Posts a request for another shard and lets it wait for the answer, under the token that is returned.
    ///
    /// Errors: there is no room, here or on the way; `waiting` comes back, to be refused.
    pub fn forward<M: Message, L: Lane<M>>(
        &self,
        mesh: &Outgoing<M, L>,
        shard: u16,
        message: impl FnOnce(u64) -> M,
        waiting: T,
    ) -> Result<u64, T> {
        if !self.has_room() {
            return Err(waiting);
        }
        let token = self.token();
        if mesh.post(shard, message(token)).is_err() {
            return Err(waiting);
        }
        self.wait(token, waiting);
        Ok(token)
    }
}
