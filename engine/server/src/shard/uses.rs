//! Encryptions whose key has no block of encryptions left: they wait until the next is written down.
//!
//! That is once in 16,777,216 encryptions of a key, and at its first since the start.

use std::rc::Rc;

use super::Shard;
use super::request::Asked;
use super::slow::SlowOperation;
use crate::rehydrator::WriteError;
use crate::runtime::tasks;
use keyway_core::Refusal;
use keyway_protocol::RequestFrame;

/// An encryption that waits, and the version that is to encrypt.
pub(super) struct Unreserved {
    operation: SlowOperation,
    keyspace: u32,
    key_id: Vec<u8>,
    version: u32,
}

/// Encryptions that may wait at once.
const WAITING_MAX: usize = 4_096;

impl Shard {
    /// Lets an encryption wait for the next block.
    pub(super) fn wait_for_uses(&self, asked: Asked<'_>, frame: &RequestFrame<'_>, version: u32) {
        let held = self
            .hold(frame)
            .filter(|_| self.figures.unreserved.get() < WAITING_MAX);
        let Some(held) = held else {
            let refusal = Refusal::Overloaded { after_us: 100_000 };
            return self.refuse_as(asked.responder, refusal);
        };
        self.figures
            .unreserved
            .set(self.figures.unreserved.get() + 1);
        self.unreserved.borrow_mut().push_back(Unreserved {
            operation: SlowOperation::new(asked, held),
            keyspace: frame.keyspace_id,
            key_id: frame.key_id.to_vec(),
            version,
        });
        self.figures.uses_work.wake();
    }

    /// Begins a reservation for each of them; those of one key share it.
    pub(super) async fn run_uses_lane(self: Rc<Self>) {
        loop {
            let next = self.unreserved.borrow_mut().pop_front();
            match next {
                Some(next) => tasks::spawn(Rc::clone(&self).reserve_uses(next)),
                None => self.figures.uses_work.wait().await,
            }
        }
    }

    async fn reserve_uses(self: Rc<Self>, waiting: Unreserved) {
        let Unreserved {
            operation,
            keyspace,
            key_id,
            version,
        } = waiting;
        let reserved = self.rehydrator.reserve_uses(keyspace, &key_id, version);
        let reserved = reserved.await;
        self.figures
            .unreserved
            .set(self.figures.unreserved.get() - 1);
        let turn = self.begin_turn();
        self.guarded(|| match reserved {
            Ok(()) => self.take_slow(&turn, operation),
            Err(error) => self.refuse_write(operation.into_responder(), error.of_an_encryption()),
        });
        self.end_turn(turn);
    }
}

impl WriteError {
    /// The same, said to somebody who wanted to encrypt.
    fn of_an_encryption(self) -> Self {
        match self {
            WriteError::Store(why) | WriteError::Unknown(why) => WriteError::Store(format!(
                "nothing was encrypted, since the key's use count cannot be written down: {why}"
            )),
            other => other,
        }
    }
}
