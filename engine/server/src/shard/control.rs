//! Talking to the control thread.

use std::rc::Rc;

use keyway_core::{Instant, KeyspaceId, LeaseEvent, Refusal, UnlockState};
use keyway_protocol::{ResponseHead, Status};
use zeroize::Zeroizing;

use super::Responder;
use super::Shard;
use super::leases::{DekShelf, hear_lease, hear_lock};
use super::request::{Asked, Wish};
use super::turn::Turn;
use crate::accounts::{CONTROL_RESERVED, WAITING_RESERVED};
use crate::control::lanes::Lane;
use crate::control::messages::{
    Command, ControlEvent, ControlRequest, DekBytes, KeyspaceConfig, ReplyTo, UnlockProgress,
};
use crate::rehydrator::Rehydrator;
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
        let reply_to = ReplyTo {
            shard: self.index,
            token,
        };
        let who = asked.allowed.principal();
        let lane = command.lane();
        let places = self.unless_operator(who, CONTROL_RESERVED);
        let waiting = self.unless_operator(who, WAITING_RESERVED);
        let has_place =
            self.control.capacity(lane) > places && self.waiting.has_room_on(lane, waiting);
        let request = ControlRequest::Admin {
            reply_to,
            who,
            deadline: asked.deadline,
            command,
        };
        if has_place && self.control.try_send(lane, request).is_ok() {
            let handed = &self.figures.control_requests;
            handed.set(handed.get() + 1);
            self.wait(token, asked.waiting(Wish::Control));
        } else {
            self.refuse_as(asked.responder, Refusal::Overloaded { after_us: 100_000 });
        }
    }

    /// Takes what the control thread has said since the last turn: all of the emergency lane, and the rest as long as the
    /// turn lasts.
    pub(super) fn hear_control(self: &Rc<Self>, turn: &Turn) {
        loop {
            let event = {
                let mut events = self.events.borrow_mut();
                match turn.is_over() {
                    true => events.try_recv_emergency(),
                    false => events.try_recv(),
                }
            };
            let Some(event) = event else { return };
            self.guarded(|| self.hear(turn, event));
            turn.read_clock();
        }
    }

    fn hear(self: &Rc<Self>, turn: &Turn, event: ControlEvent) {
        let now = turn.now();
        match event {
            ControlEvent::Keyspace { config, done } => {
                self.take_keyspace(turn, &config);
                // The control thread may have given up waiting; the change holds all the same.
                let _ = done.send(());
            }
            ControlEvent::Lease {
                keyspace,
                event,
                deks,
                ticket,
            } => {
                let granted = matches!(event, LeaseEvent::Granted { .. });
                self.warm.borrow_mut().hear_lease(keyspace, granted);
                let mut core = self.core.borrow_mut();
                hear_lease(&mut core, &self.rehydrator, now, keyspace, event, deks);
                // Whoever was given the earlier ticket need not wait any longer.
                let gauges = core.gauges(now, KeyspaceId(keyspace));
                if granted
                    && gauges.is_some_and(|gauges| gauges.lease_left_us > 0)
                    && let Some(known) = self.keyspaces.borrow_mut().of_mut(keyspace)
                {
                    known.ticket = known.ticket.max(ticket);
                }
            }
            ControlEvent::SealFloor {
                keyspace,
                generation,
                done,
            } => self.rehydrator.floors().confirm(keyspace, generation, done),
            ControlEvent::Retire {
                keyspace,
                generation,
            } => self.rehydrator.retire_deks(keyspace, generation),
            ControlEvent::Reseal {
                keyspace,
                generation,
                work,
                cursor,
                answer,
            } => {
                let shard = Rc::clone(self);
                tasks::spawn(async move {
                    let page = shard
                        .rehydrator
                        .reseal_page(keyspace, generation, work, &cursor, RESEAL_ROWS_MAX)
                        .await;
                    let _ = answer.send(page);
                });
            }
            ControlEvent::Lock {
                keyspace,
                revision,
                done,
            } => {
                // An older one than the gate has seen was undone by an unlock, and has nothing to wait for.
                if !self.keyspaces.borrow_mut().gate_follows(keyspace, revision) {
                    let _ = done.send(());
                    return;
                }
                hear_lock(&mut self.core.borrow_mut(), &self.rehydrator, now, keyspace);
                self.locking.borrow_mut().push((keyspace, done));
                self.acknowledge_locks();
            }
            ControlEvent::Unlock {
                keyspace,
                revision,
                done,
            } => {
                if self.keyspaces.borrow_mut().gate_follows(keyspace, revision) {
                    self.unlock(now, keyspace);
                }
                // The control thread may have given up waiting; the unlock holds all the same.
                let _ = done.send(());
            }
            ControlEvent::UnlockProgress { keyspace, answer } => {
                // Whoever asked may have gone.
                let _ = answer.send(self.unlock_progress(now, keyspace));
            }
            ControlEvent::Hot {
                keyspace,
                by,
                keys_max,
                answer,
            } => {
                if let Some(known) = self.keyspaces.borrow_mut().of_mut(keyspace) {
                    let share = known.tally.share(self.index, now, by, keys_max);
                    // Whoever asked may have gone.
                    let _ = answer.send(share);
                }
            }
            ControlEvent::Answer {
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

    fn unlock(&self, now: Instant, keyspace: u32) {
        // What is in memory from here on is the unlock's; whoever waits for the lock waits no longer.
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

    /// Acknowledges locks of keyspaces of which no plaintext is left. The core wipes a large keyspace over several
    /// ticks; its DEK went at once, so nothing is added meanwhile.
    pub(super) fn acknowledge_locks(&self) {
        let mut locking = self.locking.borrow_mut();
        if locking.is_empty() {
            return;
        }
        let core = self.core.borrow();
        let waiting = std::mem::take(&mut *locking);
        for (keyspace, done) in waiting {
            let is_wiped = core.resident_keys(KeyspaceId(keyspace)).next().is_none();
            if is_wiped {
                // The control thread may have given up waiting; the lock holds all the same.
                let _ = done.send(());
            } else {
                locking.push((keyspace, done));
            }
        }
    }

    /// Asks for DEKs that are not in use any more and that blobs are sealed under all the same.
    pub(super) fn ask_for_retired(&self) {
        for (keyspace, generation) in self.rehydrator.take_retired_wanted() {
            let request = ControlRequest::Revive {
                keyspace,
                generation,
            };
            // A full queue is tried again with the blob's next load.
            let _ = self.control.try_send(Lane::Ordinary, request);
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

    /// Makes a keyspace known, or acts by its new settings.
    pub(super) fn take_keyspace(&self, turn: &Turn, config: &KeyspaceConfig) {
        let is_newer = self.keyspaces.borrow_mut().take(turn.now(), config);
        if !is_newer {
            return;
        }
        let gate_follows = {
            let mut keyspaces = self.keyspaces.borrow_mut();
            keyspaces.gate_follows(config.id, config.revision)
        };
        self.rehydrator.floors().raise(config.id, config.seal_floor);
        let id = KeyspaceId(config.id);
        let mut core = self.core.borrow_mut();
        if let Err(error) = core.handle_keyspace(turn.now(), id, config.settings.clone()) {
            // The catalogue has validated them; only the number of keyspaces is left.
            tracing::error!(keyspace = %config.name, %error, "settings refused");
        }
        let locked = core
            .gauges(turn.now(), id)
            .is_some_and(|gauges| gauges.locked);
        if gate_follows && config.locked && !locked {
            core.handle_lock(turn.now(), id);
        }
    }
}
