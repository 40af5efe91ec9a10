//! UNLOCK_STATUS: the status of a ticket, from the progress of the shards.

use keyway_protocol::Status;
use serde_json::{Value, json};

use super::commands::{Answering, Begun};
use super::event::{Event, ShardAnswer};
use super::tickets::{Ticket, UnlockState};
use super::{Control, Refused, Reply};
use crate::ids::{Epoch, WorkId};
use crate::messages::{Lane, ToShard, UnlockProgress};

/// Most keyspaces whose shards are asked per second whether an unlock has loaded its keys.
const WATCHED_MAX: usize = 16;

/// A request to the shards for the progress of an unlock.
pub(super) struct Progress {
    id: u32,
    ticket: u64,
    epoch: Epoch,
    shards: Vec<UnlockProgress>,
    /// Number of shards that have not answered.
    left: usize,
    purpose: Purpose,
}

enum Purpose {
    /// For a ticket from NEEDS_UNLOCK.
    Need(Answering),
    /// For an unlock's ticket.
    Unlock(Answering),
    /// To record that an unlock has completed, even if no client asks before the next lock.
    Watch,
}

impl Control {
    /// Returns the status of `ticket`, as JSON.
    pub(super) fn unlock_status(&mut self, answering: Answering, id: u32, ticket: u64) -> Begun {
        if let Err(error) = self.in_force.written().keyspace(id) {
            return Begun::Answered(answering, Err(error.into()));
        }
        let document = match self.beside.tickets.of(id, ticket) {
            Ticket::Unknown => status(
                "unknown",
                "this ticket was not issued for this keyspace since the server started, or it ended too long ago",
            ),
            Ticket::Ended { opened: true } => status("done", "unlocked"),
            Ticket::Ended { opened: false } => {
                status("failed", "the unlock failed or was superseded")
            }
            Ticket::Unlock(UnlockState::Opened) => {
                self.request_progress(id, ticket, Purpose::Unlock(answering));
                return Begun::Begun;
            }
            Ticket::Unlock(state) => of_unlock(&state),
            Ticket::Need => {
                self.request_progress(id, ticket, Purpose::Need(answering));
                return Begun::Begun;
            }
        };
        Begun::Answered(answering, Ok(document.to_string().into_bytes()))
    }

    /// Checks whether the keys of opened keyspaces are loaded. Called once a second.
    pub(super) fn check_all_opened(&mut self) {
        // Slow shards get no further request in the meantime.
        if self.beside.every_second.watched > 0 {
            return;
        }
        let opened = self.beside.tickets.opened();
        for (id, ticket) in opened.into_iter().take(WATCHED_MAX) {
            self.beside.every_second.watched += 1;
            self.request_progress(id, ticket, Purpose::Watch);
        }
    }

    fn request_progress(&mut self, id: u32, ticket: u64, purpose: Purpose) {
        let work = self.works.begin();
        let shards: Vec<u16> = self.published.running().collect();
        let progress = Progress {
            id,
            ticket,
            epoch: self.epoch_of(id),
            shards: Vec::with_capacity(shards.len()),
            left: shards.len(),
            purpose,
        };
        for shard in &shards {
            let question = self.works.question(work, *shard);
            let ask = ToShard::Progress {
                question,
                keyspace: id,
            };
            self.send_to(*shard, Lane::Ordinary, ask);
        }
        match shards.is_empty() {
            true => self.end_progress(progress),
            false => self.works.wait(work, progress),
        }
    }

    pub(super) fn step_progress(&mut self, work: WorkId, mut progress: Progress, event: Event) {
        match event {
            Event::Shard(ShardAnswer::Progress(shard)) => {
                progress.shards.push(shard);
                progress.left -= 1;
            }
            Event::Shard(_) => progress.left -= 1,
            _ => {}
        }
        match progress.left {
            0 => self.end_progress(progress),
            _ => self.works.wait(work, progress),
        }
    }

    fn end_progress(&mut self, progress: Progress) {
        let Progress {
            id,
            ticket,
            epoch,
            shards,
            purpose,
            ..
        } = progress;
        match purpose {
            Purpose::Need(answering) => {
                let answer = self.of_need(id, ticket, &shards);
                self.answer_read(answering, answer);
            }
            Purpose::Unlock(answering) => {
                self.settle_opened((id, ticket), epoch, &shards);
                let document = match self.beside.tickets.of(id, ticket) {
                    Ticket::Unlock(state) => of_unlock(&state),
                    _ => status("done", "unlocked"),
                };
                self.answer_read(answering, Ok(document.to_string().into_bytes()));
            }
            Purpose::Watch => {
                self.beside.every_second.watched -= 1;
                self.settle_opened((id, ticket), epoch, &shards);
            }
        }
    }

    fn settle_opened(&mut self, (id, ticket): (u32, u64), epoch: Epoch, shards: &[UnlockProgress]) {
        // A shard whose lease has ended since loads nothing more.
        let state = if self.is_locked(id) || self.epoch_of(id) != epoch {
            UnlockState::Failed("locked again before its keys were loaded".to_owned())
        } else if self.is_every_shard(shards) && !shards.iter().any(UnlockProgress::is_loading) {
            UnlockState::Done {
                keys_reloaded: keys_of(shards),
            }
        } else {
            return;
        };
        self.beside.tickets.settle_opened(id, ticket, state);
    }

    /// Returns the status of a ticket from NEEDS_UNLOCK. It is completed once every shard uses a later one, under a
    /// lease, and has loaded the keys that were in use.
    fn of_need(&self, id: u32, ticket: u64, shards: &[UnlockProgress]) -> Reply {
        if !self.is_every_shard(shards) {
            return Err(stopping());
        }
        if shards.iter().any(|shard| shard.ticket <= ticket) {
            return Ok(self.pending(id).to_string().into_bytes());
        }
        // If a shard needs the DEK again, with a later ticket, this one is completed.
        let is_open = shards.iter().all(|shard| shard.is_open);
        let mut document = if shards.iter().any(UnlockProgress::is_loading) {
            status("pending", "loading the keys that were in use")
        } else if is_open {
            status("done", "unlocked")
        } else {
            status("done", "it was unlocked, and now needs another unlock")
        };
        document["keys_reloaded"] = json!(keys_of(shards));
        Ok(document.to_string().into_bytes())
    }

    fn is_every_shard(&self, shards: &[UnlockProgress]) -> bool {
        shards.len() == usize::from(self.published.shards())
    }

    /// Returns the status of a keyspace that only an operator opens.
    fn awaits_operator(&self, id: u32, why: &str) -> Value {
        let remedy = self.unlock_remedy(id);
        let mut document = status("pending", &format!("{why}; {remedy}"));
        document["remedy"] = json!(remedy);
        document
    }

    /// Returns why a keyspace is not usable, and what is being done about it.
    fn pending(&self, id: u32) -> Value {
        let is_locked = self.is_locked(id);
        match self.beside.tickets.latest(id) {
            Some(state @ (UnlockState::Asking { .. } | UnlockState::MoreShares { .. })) => {
                of_unlock(state)
            }
            Some(UnlockState::Failed(why)) if is_locked => {
                self.awaits_operator(id, &format!("the last unlock failed: {why}"))
            }
            _ if is_locked || self.is_kms_closed(id) => {
                self.awaits_operator(id, "no unlock was started")
            }
            _ => status("pending", "waiting for the KMS"),
        }
    }
}

fn stopping() -> Refused {
    (Status::Unavailable, "the server is stopping".to_owned())
}

fn keys_of(shards: &[UnlockProgress]) -> u64 {
    shards.iter().map(|shard| shard.keys_reloaded).sum()
}

fn of_unlock(state: &UnlockState) -> Value {
    match state {
        UnlockState::Asking { attempts: 0, .. } => status("pending", "calling the KMS"),
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
