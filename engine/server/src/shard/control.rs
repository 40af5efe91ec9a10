//! Talking to the control thread.

use std::rc::Rc;

use keyway_core::{KeyspaceId, LeaseEvent, Refusal, UnlockState};
use keyway_protocol::{ResponseHead, Status};
use zeroize::Zeroizing;

use super::Responder;
use super::Shard;
use super::leases::{DekShelf, hear_lease, hear_lock};
use super::request::{Asked, Wish};
use super::turn::Turn;
use crate::accounts::{CONTROL_RESERVED, WAITING_RESERVED};
use crate::control::messages::{
    Command, ControlEvent, ControlRequest, DekBytes, KeyspaceConfig, ReplyTo,
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
        let places = self.unless_operator(who, CONTROL_RESERVED);
        let has_place = self.control.capacity() > places
            && self
                .waiting
                .has_room_beside(self.unless_operator(who, WAITING_RESERVED));
        let request = ControlRequest::Admin {
            reply_to,
            who,
            deadline: asked.deadline,
            command,
        };
        if has_place && self.control.try_send(request).is_ok() {
            let handed = &self.figures.control_requests;
            handed.set(handed.get() + 1);
            self.wait(token, asked.waiting(Wish::Control));
        } else {
            self.refuse_as(asked.responder, Refusal::Overloaded { after_us: 100_000 });
        }
    }

    /// Takes what the control thread has said since the last turn, as long as the turn lasts.
    pub(super) fn hear_control(self: &Rc<Self>, turn: &Turn) {
        while !turn.is_over() {
            let event = self.events.borrow_mut().try_recv();
            let Ok(event) = event else { return };
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
            } => {
                let granted = matches!(event, LeaseEvent::Granted { .. });
                self.warm.borrow_mut().hear_lease(keyspace, granted);
                let mut core = self.core.borrow_mut();
                hear_lease(&mut core, &self.rehydrator, now, keyspace, event, deks);
            }
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
            ControlEvent::Lock { keyspace, done } => {
                hear_lock(&mut self.core.borrow_mut(), &self.rehydrator, now, keyspace);
                self.locking.borrow_mut().push((keyspace, done));
                self.acknowledge_locks();
            }
            ControlEvent::Unlock { keyspace } => {
                // What is in memory from here on is the unlock's; whoever waits for the lock waits no longer.
                self.locking
                    .borrow_mut()
                    .retain(|(locked, _)| *locked != keyspace);
                let ticket = self
                    .core
                    .borrow_mut()
                    .handle_unlock(now, KeyspaceId(keyspace));
                if let Some(known) = self.keyspaces.borrow_mut().of_mut(keyspace) {
                    known.last_unlock = ticket;
                }
            }
            ControlEvent::Reloaded { keyspace, answer } => {
                let ticket = self
                    .keyspaces
                    .borrow()
                    .of(keyspace)
                    .and_then(|k| k.last_unlock);
                let core = self.core.borrow();
                let status = ticket.and_then(|at| core.unlock_status(KeyspaceId(keyspace), at));
                let progress = status.map_or((true, 0), |status| {
                    (status.state != UnlockState::Pending, status.keys_reloaded)
                });
                let _ = answer.send(progress);
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
        self.keyspaces.borrow_mut().take(turn.now(), config);
        let id = KeyspaceId(config.id);
        let mut core = self.core.borrow_mut();
        if let Err(error) = core.handle_keyspace(turn.now(), id, config.settings.clone()) {
            // The catalogue has validated them; only the number of keyspaces is left.
            tracing::error!(keyspace = %config.name, %error, "settings refused");
        }
        let locked = core
            .gauges(turn.now(), id)
            .is_some_and(|gauges| gauges.locked);
        if config.locked && !locked {
            core.handle_lock(turn.now(), id);
        }
    }
}
