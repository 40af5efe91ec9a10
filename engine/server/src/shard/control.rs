//! Talking to the control thread.

use std::rc::Rc;

use keyway_core::{Instant, KeyspaceId, LeaseEvent, Refusal, UnlockState};
use keyway_node::ids::Epoch;
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::messages::{
    Command, DekBytes, DekCopies, Lane, Request, ResealError, ToControl, ToShard, UnlockProgress,
};
use keyway_protocol::{ResponseHead, Status};
use zeroize::Zeroizing;

use super::Responder;
use super::Shard;
use super::leases::{DekShelf, hear_lease, hear_lock};
use super::request::{Asked, Wish};
use super::turn::Turn;
use crate::accounts::{CONTROL_RESERVED, WAITING_RESERVED};
use crate::rehydrator::{Rehydrator, WriteError};
use crate::runtime::tasks;

/// Rows of the log that one step of a DEK's rotation looks at.
const RESEAL_ROWS_MAX: usize = 64;

impl DekShelf for Rehydrator {
    fn hold(&self, keyspace: u32, mut dek: Box<DekBytes>) -> Result<(), String> {
        self.hold_dek(keyspace, dek.generation, &mut dek.bytes)
    }

    fn drop_all(&self, keyspace: u32) {
        self.drop_deks(keyspace);
    }
}

impl Shard {
    /// Hands an administrator's request to the control thread.
    pub(super) fn ask_control(&self, asked: Asked<'_>, command: Command) {
        let token = self.waiting.token();
        let who = asked.allowed.principal();
        let lane = command.lane();
        let places = self.unless_operator(who, CONTROL_RESERVED);
        let waiting = self.unless_operator(who, WAITING_RESERVED);
        let has_place =
            self.control.capacity(lane) > places && self.waiting.has_room_on(lane, waiting);
        let request = ToControl::Request(Request {
            token,
            who,
            deadline: asked.deadline,
            command,
        });
        if has_place && self.control.offer(lane, request) {
            let handed = &self.figures.control_requests;
            handed.set(handed.get() + 1);
            self.wait(token, asked.waiting(Wish::Control));
        } else {
            self.refuse_as(asked.responder, Refusal::Overloaded { after_us: 100_000 });
        }
    }

    /// Takes what the control thread has said since the last turn: all of the emergency lane, and the rest as long as the
    /// turn lasts. Acknowledgements for which there was no room are sent again.
    pub(super) fn hear_control(self: &Rc<Self>, turn: &Turn) {
        self.control.flush();
        loop {
            let message = {
                let mut events = self.events.borrow_mut();
                match turn.is_over() {
                    true => events.try_recv_emergency(),
                    false => events.try_recv(),
                }
            };
            let Some(message) = message else { return };
            self.guarded(|| self.hear(turn, message));
            turn.read_clock();
        }
    }

    fn hear(self: &Rc<Self>, turn: &Turn, message: ToShard) {
        let now = turn.now();
        match message {
            ToShard::Keyspace(change) => {
                let (keyspace, revision) = (change.id, change.revision);
                self.take_change(turn, &change);
                self.control.send(ToControl::Acted { keyspace, revision });
            }
            ToShard::Lease {
                keyspace,
                epoch,
                event,
                deks,
                ticket,
            } => self.take_lease(now, (keyspace, epoch), event, deks, ticket),
            ToShard::Reseal {
                question,
                keyspace,
                generation,
                work,
                cursor,
            } => {
                let shard = Rc::clone(self);
                tasks::spawn(async move {
                    let page = shard
                        .rehydrator
                        .reseal_page(keyspace, generation, work, &cursor, RESEAL_ROWS_MAX)
                        .await;
                    let page = page.map_err(reseal_error);
                    shard.control.send(ToControl::Resealed { question, page });
                });
            }
            ToShard::Progress { question, keyspace } => {
                let progress = self.unlock_progress(now, keyspace);
                self.control
                    .send(ToControl::Progress { question, progress });
            }
            ToShard::Hot {
                question,
                keyspace,
                by,
                keys_max,
            } => {
                let share = {
                    let mut keyspaces = self.keyspaces.borrow_mut();
                    let known = keyspaces.of_mut(keyspace);
                    known.map(|known| known.tally.share(self.index, now, by, keys_max))
                };
                self.control.send(ToControl::Hot { question, share });
            }
            ToShard::Answer {
                token,
                status,
                payload,
            } => {
                if let Some(waiting) = self.take_waiting(token) {
                    self.relay_answer(waiting.responder, status, payload);
                }
            }
        }
    }

    /// The KMS has answered. What was asked before a lock is void, and wiped.
    fn take_lease(
        &self,
        now: Instant,
        (keyspace, epoch): (u32, Epoch),
        event: LeaseEvent,
        deks: DekCopies,
        ticket: u64,
    ) {
        let known_epoch = self
            .keyspaces
            .borrow()
            .of(keyspace)
            .map(|known| known.epoch);
        if known_epoch.is_some_and(|known| epoch < known) {
            return;
        }
        let granted = matches!(event, LeaseEvent::Granted { .. });
        self.warm.borrow_mut().hear_lease(keyspace, granted);
        let mut core = self.core.borrow_mut();
        hear_lease(&mut core, &self.rehydrator, now, keyspace, event, deks);
        // Who was given the earlier ticket need not wait any longer.
        let gauges = core.gauges(now, KeyspaceId(keyspace));
        if granted
            && gauges.is_some_and(|gauges| gauges.lease_left_us > 0)
            && let Some(known) = self.keyspaces.borrow_mut().of_mut(keyspace)
        {
            known.ticket = known.ticket.max(ticket);
        }
    }

    fn unlock(&self, now: Instant, keyspace: u32) {
        // What is in memory from here on is the unlock's; nothing waits for the lock any longer.
        self.locking
            .borrow_mut()
            .retain(|(locked, _)| *locked != keyspace);
        let episode = self
            .core
            .borrow_mut()
            .handle_unlock(now, KeyspaceId(keyspace));
        if let (Some(episode), Some(known)) =
            (episode, self.keyspaces.borrow_mut().of_mut(keyspace))
        {
            known.episode = episode;
        }
    }

    fn unlock_progress(&self, now: Instant, keyspace: u32) -> UnlockProgress {
        let keyspaces = self.keyspaces.borrow();
        let (ticket, episode) = match keyspaces.of(keyspace) {
            Some(known) => (known.ticket, known.episode),
            None => (0, 0),
        };
        let core = self.core.borrow();
        let gauges = core.gauges(now, KeyspaceId(keyspace));
        let status = core.unlock_status(KeyspaceId(keyspace), episode);
        UnlockProgress {
            ticket,
            is_open: gauges
                .is_some_and(|gauges| !gauges.locked && !gauges.denied && gauges.lease_left_us > 0),
            is_reloaded: status.is_none_or(|status| status.state != UnlockState::Pending),
            keys_reloaded: status.map_or(0, |status| status.keys_reloaded),
        }
    }

    /// Acknowledges locks of keyspaces of which no plaintext is left, and seal floors below which nothing is on its way. The
    /// core wipes a large keyspace over several ticks; its DEK went at once, so nothing is added meanwhile.
    pub(super) fn acknowledge(&self) {
        for (keyspace, generation) in self.rehydrator.floors().take_confirmed() {
            self.control.send(ToControl::Confirmed {
                keyspace,
                generation,
            });
        }
        let mut locking = self.locking.borrow_mut();
        if locking.is_empty() {
            return;
        }
        let core = self.core.borrow();
        locking.retain(|(keyspace, epoch)| {
            let is_wiped = core.resident_keys(KeyspaceId(*keyspace)).next().is_none();
            if is_wiped {
                let (keyspace, epoch) = (*keyspace, *epoch);
                self.control.send(ToControl::Wiped { keyspace, epoch });
            }
            !is_wiped
        });
    }

    /// Asks for DEKs that are not in use any more and that blobs are sealed under all the same.
    pub(super) fn ask_for_retired(&self) {
        for (keyspace, generation) in self.rehydrator.take_retired_wanted() {
            let request = ToControl::Revive {
                keyspace,
                generation,
            };
            // A full queue is tried again with the blob's next load.
            self.control.offer(Lane::Ordinary, request);
        }
    }

    fn relay_answer(&self, responder: Responder, status: Status, payload: Zeroizing<Vec<u8>>) {
        self.answer(responder, |out| {
            if status == Status::Ok {
                out.extend_from_slice(&payload);
                return Ok(ResponseHead::OK);
            }
            let mut head = ResponseHead::status(status);
            if status.has_hint() {
                head.after_us = 100_000;
            }
            Err((head, String::from_utf8_lossy(&payload).into_owned()))
        });
    }

    /// Makes a keyspace known, or acts by what has changed of it, unless that is older than what the shard has.
    pub(super) fn take_change(&self, turn: &Turn, change: &KeyspaceChange) {
        let Some(taken) = self.keyspaces.borrow_mut().take(turn.now(), change) else {
            return;
        };
        self.take_deks_in_use(change, taken.floor_rises);
        let id = KeyspaceId(change.id);
        let mut core = self.core.borrow_mut();
        let settings = change.guard.settings.clone();
        if let Err(error) = core.handle_keyspace(turn.now(), id, settings) {
            // The catalogue has validated them; only the number of keyspaces is left.
            tracing::error!(keyspace = %change.name, %error, "settings refused");
        }
        if change.guard.locked {
            let is_locked = core
                .gauges(turn.now(), id)
                .is_some_and(|gauges| gauges.locked);
            if !is_locked {
                hear_lock(&mut core, &self.rehydrator, turn.now(), change.id);
            }
            drop(core);
            if change.epoch > Epoch::default() {
                let mut locking = self.locking.borrow_mut();
                locking.retain(|(keyspace, _)| *keyspace != change.id);
                locking.push((change.id, change.epoch));
                drop(locking);
                self.acknowledge();
            }
        } else if taken.opens {
            drop(core);
            self.unlock(turn.now(), change.id);
        }
    }

    fn take_deks_in_use(&self, change: &KeyspaceChange, floor_rises: bool) {
        let floors = self.rehydrator.floors();
        match floor_rises {
            true => floors.confirm(change.id, change.seal_floor),
            false => floors.raise(change.id, change.seal_floor),
        }
        self.rehydrator.retire_deks(change.id, change.oldest);
    }
}

fn reseal_error(error: WriteError) -> ResealError {
    match error {
        WriteError::DekMissing => ResealError::DekMissing,
        WriteError::Overloaded(_) => ResealError::Overloaded,
        error => ResealError::Other(format!("{error:?}")),
    }
}
