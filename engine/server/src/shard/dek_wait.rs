//! Writes that wait for a keyspace's DEK. The core asks for it, and tells when it is there.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use keyway_core::{DekRequest, DekVerdict, Instant, KeyspaceId, Outcome, Refusal, Token};
use tokio::sync::oneshot;

use super::Shard;

/// How long a write waits for the keyspace's DEK, in microseconds.
const DEK_WAIT_US: u64 = 3_000_000;

/// By the token that the core names them by. No more than the core lets wait.
#[derive(Default)]
pub struct DekWaits(RefCell<HashMap<u64, oneshot::Sender<Result<(), Refusal>>>>);

impl DekWaits {
    fn wait(&self, token: u64) -> oneshot::Receiver<Result<(), Refusal>> {
        let (tell, told) = oneshot::channel();
        self.0.borrow_mut().insert(token, tell);
        told
    }

    /// The wait under `token` is over, if there is one.
    pub fn tell<V>(&self, token: u64, outcome: &Outcome<'_, V>) {
        let Some(tell) = self.0.borrow_mut().remove(&token) else {
            return;
        };
        let told = match outcome {
            Outcome::Refuse(refusal) => Err(*refusal),
            Outcome::Dek | Outcome::Serve(_) | Outcome::Refreshed { .. } => Ok(()),
        };
        // The write's task may have been ended by a stop.
        let _ = tell.send(told);
    }
}

impl Shard {
    /// Sealing needs a DEK; the first write to a keyspace is often the first use of it.
    pub(super) async fn wait_for_dek(
        self: &Rc<Self>,
        keyspace: u32,
        deadline: Option<Instant>,
    ) -> Result<(), Refusal> {
        let token = self.waiting.token();
        let turn = self.begin_turn();
        let request = DekRequest {
            token: Token(token),
            keyspace: KeyspaceId(keyspace),
            generation: self.rehydrator.floors().of(keyspace),
            wait_us: DEK_WAIT_US,
            deadline,
        };
        let verdict = self.core.borrow_mut().handle_wanted(turn.now(), request);
        let told = match verdict {
            DekVerdict::Wait => Some(self.dek_waits.wait(token)),
            DekVerdict::Ready | DekVerdict::Refuse(_) => None,
        };
        // Carries out what the core wants: to ask the KMS.
        self.end_turn(turn);
        match (verdict, told) {
            (DekVerdict::Refuse(refusal), _) => Err(refusal),
            // The other end goes with the shard only.
            (_, Some(told)) => told.await.unwrap_or(Err(Refusal::Unavailable {
                after_us: DEK_WAIT_US,
            })),
            (_, None) => Ok(()),
        }
    }
}
