//! UNLOCK_STATUS: what has become of a ticket, as the shards stand.

use std::rc::Rc;

use keyway_protocol::Status;
use serde_json::{Value, json};

use super::kms::Kms;
use super::lanes::Lane;
use super::messages::{ControlEvent, UnlockProgress};
use super::tickets::{Ticket, UnlockState};
use super::{Answer, Control};

/// Keyspaces whose shards are asked in one second whether an unlock has loaded its keys.
const WATCHED_MAX: usize = 16;

impl<K: Kms + 'static> Control<K> {
    /// What has become of `ticket`, as JSON.
    pub(super) async fn unlock_status(&self, id: u32, ticket: u64) -> Answer {
        self.written().keyspace(id)?;
        let found = self.tickets.borrow().of(id, ticket);
        let document = match found {
            Ticket::Unknown => status(
                "unknown",
                "this ticket was not handed out for this keyspace since the server started, or ended too long ago",
            ),
            Ticket::Ended { opened: true } => status("done", "unlocked"),
            Ticket::Ended { opened: false } => {
                status("failed", "the unlock failed or was overtaken")
            }
            Ticket::Unlock(UnlockState::Opened) => {
                self.look_at_opened(id, ticket).await;
                match self.tickets.borrow().of(id, ticket) {
                    Ticket::Unlock(state) => of_unlock(&state),
                    _ => status("done", "unlocked"),
                }
            }
            Ticket::Unlock(state) => of_unlock(&state),
            Ticket::Need => self.of_need(id, ticket).await?,
        };
        Ok(document.to_string().into_bytes())
    }

    /// A ticket from NEEDS_UNLOCK is over once every shard has gone on to a later one, under a lease, and has loaded
    /// what was in use.
    async fn of_need(&self, id: u32, ticket: u64) -> Result<Value, (Status, String)> {
        let shards = self.progress(id).await;
        if shards.len() < self.shards.len() {
            return Err((Status::Unavailable, "the server is stopping".to_owned()));
        }
        let keys_reloaded = keys_of(&shards);
        if shards.iter().any(|shard| shard.ticket <= ticket) {
            return Ok(self.pending(id));
        }
        // Where a shard needs the DEK again, with a later ticket, what this one stood for is over.
        let is_open = shards.iter().all(|shard| shard.is_open);
        let is_loading = |shard: &UnlockProgress| shard.is_open && !shard.is_reloaded;
        let mut document = if shards.iter().any(is_loading) {
            status("pending", "loading the keys that were in use")
        } else if is_open {
            status("done", "unlocked")
        } else {
            status("done", "it was unlocked, and needs another unlock since")
        };
        document["keys_reloaded"] = json!(keys_reloaded);
        Ok(document)
    }

    /// Why a keyspace is not usable, and what is being done about it.
    fn pending(&self, id: u32) -> Value {
        let tickets = self.tickets.borrow();
        match tickets.latest(id) {
            Some(state @ (UnlockState::Asking { .. } | UnlockState::MoreShares { .. })) => {
                of_unlock(state)
            }
            Some(UnlockState::Failed(why)) if self.is_locked(id) => status(
                "pending",
                &format!("the last unlock failed: {why}; run `keyway unlock` again"),
            ),
            _ if self.is_locked(id) => {
                status("pending", "no unlock was started; run `keyway unlock`")
            }
            _ => status("pending", "waiting for the KMS"),
        }
    }

    /// Looks whether the keys of opened keyspaces are loaded. To be called once a second, so that an unlock is known to
    /// be done even if nobody asks before the next lock.
    pub(super) fn look_at_all_opened(self: &Rc<Self>) {
        let opened = self.tickets.borrow().opened();
        for (id, ticket) in opened.into_iter().take(WATCHED_MAX) {
            let control = Rc::clone(self);
            tokio::task::spawn_local(async move { control.look_at_opened(id, ticket).await });
        }
    }

    async fn look_at_opened(&self, id: u32, ticket: u64) {
        let locks = self.locks_of(id);
        let shards = self.progress(id).await;
        let is_done = |shard: &UnlockProgress| shard.is_open && shard.is_reloaded;
        let state = if self.is_locked(id) || self.locks_of(id) != locks {
            UnlockState::Failed("locked again before its keys were loaded".to_owned())
        } else if shards.len() == self.shards.len() && shards.iter().all(is_done) {
            UnlockState::Done {
                keys_reloaded: keys_of(&shards),
            }
        } else {
            return;
        };
        self.tickets.borrow_mut().settle_opened(id, ticket, state);
    }

    async fn progress(&self, id: u32) -> Vec<UnlockProgress> {
        let shards = self.broadcast(Lane::Ordinary, |answer| ControlEvent::UnlockProgress {
            keyspace: id,
            answer,
        });
        shards.await
    }
}

fn keys_of(shards: &[UnlockProgress]) -> u64 {
    shards.iter().map(|shard| shard.keys_reloaded).sum()
}

fn of_unlock(state: &UnlockState) -> Value {
    match state {
        UnlockState::Asking { attempts: 0, .. } => status("pending", "asking the KMS"),
        UnlockState::Asking {
            attempts,
            last_error,
        } => {
            let why = last_error.as_deref().unwrap_or_default();
            let mut document = status("pending", &format!("waiting for the KMS: {why}"));
            document["attempts"] = json!(attempts);
            document
        }
        UnlockState::MoreShares { given, threshold } => {
            let message = format!("{given} of {threshold} shares given");
            let mut document = status("pending", &message);
            document["shares"] = json!({ "given": given, "threshold": threshold });
            document
        }
        UnlockState::Failed(reason) => status("failed", reason),
        UnlockState::Opened => status("pending", "loading the keys that were in use"),
        UnlockState::Done { keys_reloaded } => {
            let mut document = status("done", "unlocked");
            document["keys_reloaded"] = json!(keys_reloaded);
            document
        }
    }
}

fn status(state: &str, message: &str) -> Value {
    json!({ "state": state, "message": message, "keys_reloaded": 0 })
}
