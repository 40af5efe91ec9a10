//! What control says: changes and leases carried out and acknowledged, questions answered.

use keyway_core::slots::At;
use keyway_core::{KeyspaceId, LeaseEvent, UnlockState};

use super::Shard;
use super::governed::Governed;
use super::port::Port;
use super::report::Report;
use super::shelf::SealUnder;
use super::tasks::Pass;
use crate::ids::Epoch;
use crate::keyspace_change::KeyspaceChange;
use crate::messages::{DekCopies, ResealPage, ToControl, ToShard, UnlockProgress};

impl<P: Port> Shard<P> {
    /// Carries out one message of control.
    pub(super) fn obey(&mut self, order: ToShard) {
        match order {
            ToShard::Keyspace(change) => {
                self.take_change(&change);
                self.out.tell_control(ToControl::Acted {
                    keyspace: change.id,
                    revision: change.revision,
                });
            }
            ToShard::Lease {
                keyspace,
                epoch,
                event,
                deks,
                ticket,
            } => self.take_lease(keyspace, epoch, event, deks, ticket),
            ToShard::Reseal {
                question,
                keyspace,
                generation,
                work,
                cursor,
            } => {
                let pass = Pass {
                    question,
                    under: SealUnder {
                        keyspace,
                        generation,
                    },
                    work,
                    rows: Default::default(),
                    page: ResealPage::default(),
                    is_putting: false,
                };
                self.begin_pass(pass, cursor);
            }
            ToShard::Progress { question, keyspace } => {
                let progress = self.unlock_progress(keyspace);
                self.out
                    .tell_control(ToControl::Progress { question, progress });
            }
            ToShard::Hot {
                question,
                keyspace,
                by,
                keys_max,
            } => {
                let (shard, now) = (self.site.index, self.timed.now());
                let at = self.governed.find(keyspace);
                let share = at.map(|at| self.governed[at].tally.share(shard, now, by, keys_max));
                self.out.tell_control(ToControl::Hot { question, share });
            }
            ToShard::Answer {
                token,
                status,
                payload,
            } => self.relay_answer(token, status, payload),
        }
    }

    /// Makes a keyspace known, or acts by its newest state.
    pub(super) fn take_change(&mut self, change: &KeyspaceChange) {
        let (now, keyspace) = (self.timed.now(), KeyspaceId(change.id));
        let Some(at) = self.governed.take(now, change) else {
            return;
        };
        self.shelf.raise_floor(change.id, change.seal_floor);
        self.shelf.retire(change.id, change.oldest);
        let settings = change.guard.settings.clone();
        let taken = self
            .core
            .call(|core| core.handle_keyspace(now, keyspace, settings));
        if let Err(error) = taken {
            // The catalogue has validated them; only the number of keyspaces is left.
            let (keyspace, error) = (change.id, error.to_string());
            self.out.report(Report::SettingsRefused { keyspace, error });
        }
        let governed = &mut self.governed[at];
        let opens = change.opening > governed.opening;
        governed.opening = change.opening.max(governed.opening);
        governed.epoch = change.epoch.max(governed.epoch);
        match change.guard.locked {
            true => self.lock(at),
            false if opens => self.unlock(at),
            false => {}
        }
    }

    /// Purges a keyspace. Its DEK goes at once, so that nothing is added while the core wipes a large keyspace over
    /// several ticks.
    fn lock(&mut self, at: At<Governed>) {
        let (now, id) = (self.timed.now(), self.governed[at].id);
        let keyspace = KeyspaceId(id);
        let gauges = self.core.view().gauges(now, keyspace);
        if gauges.is_none_or(|gauges| !gauges.locked) {
            self.core.call(|core| core.handle_lock(now, keyspace));
        }
        self.shelf.drop_all(id);
        let epoch = self.governed[at].epoch;
        // That of a keyspace that was locked at the start is waited for by no command.
        if epoch > Epoch::default() {
            self.upkeep.locking.epochs.insert(id, epoch);
            self.acknowledge_lock(id);
        }
    }

    fn unlock(&mut self, at: At<Governed>) {
        let (now, id) = (self.timed.now(), self.governed[at].id);
        // What is in memory after this belongs to the unlock.
        self.upkeep.locking.epochs.remove(&id);
        let episode = self
            .core
            .call(|core| core.handle_unlock(now, KeyspaceId(id)));
        if let Some(episode) = episode {
            self.governed[at].episode = episode;
        }
    }

    /// Acknowledges locks of keyspaces of which no plaintext is left. Looks at some of them, and goes on there next time.
    pub(super) fn acknowledge_locks(&mut self) {
        for id in self.upkeep.locking.next_page() {
            self.acknowledge_lock(id);
        }
    }

    fn acknowledge_lock(&mut self, id: u32) {
        let is_wiped = || {
            let mut left = self.core.view().resident_keys(KeyspaceId(id));
            left.next().is_none()
        };
        let Some(epoch) = self.upkeep.locking.epochs.get(&id).copied() else {
            return;
        };
        if is_wiped() {
            self.upkeep.locking.epochs.remove(&id);
            self.out.tell_control(ToControl::Wiped {
                keyspace: id,
                epoch,
            });
        }
    }

    /// Confirms floors below which nothing is being written to the log.
    pub(super) fn confirm_floors(&mut self) {
        while let Some(SealUnder {
            keyspace,
            generation,
        }) = self.shelf.next_confirmed()
        {
            self.out.tell_control(ToControl::Confirmed {
                keyspace,
                generation,
            });
        }
    }

    fn take_lease(
        &mut self,
        keyspace: u32,
        epoch: Epoch,
        event: LeaseEvent,
        deks: DekCopies,
        ticket: u64,
    ) {
        let (now, id) = (self.timed.now(), KeyspaceId(keyspace));
        let at = self.governed.find(keyspace);
        // What was asked before a lock is void, and wiped.
        if at.is_none_or(|at| epoch < self.governed[at].epoch) {
            return;
        }
        let granted = matches!(event, LeaseEvent::Granted { .. });
        self.upkeep.warm.note_lease(keyspace, granted);
        // A lock may have overtaken it on the way. Then nothing of it is kept, not even until the core says so.
        let gauges = self.core.view().gauges(now, id);
        let is_locked = gauges.is_some_and(|gauges| gauges.locked);
        for dek in deks.into_iter().filter(|_| !is_locked) {
            let generation = dek.generation;
            match self.timed.port.take_dek(dek) {
                Ok(dek) => self.shelf.hold(keyspace, generation, dek),
                Err(error) => {
                    let error = error.0;
                    self.out.report(Report::NoRoomForDek { keyspace, error });
                }
            }
        }
        self.core.call(|core| core.handle_lease(now, id, event));
        // Who was given the earlier ticket need not wait any longer.
        let gauges = self.core.view().gauges(now, id);
        if granted
            && gauges.is_some_and(|gauges| gauges.lease_left_us > 0)
            && let Some(at) = at
        {
            let governed = &mut self.governed[at];
            governed.ticket = governed.ticket.max(ticket);
        }
    }

    fn unlock_progress(&self, keyspace: u32) -> UnlockProgress {
        let (ticket, episode) = match self.governed.find(keyspace) {
            Some(at) => (self.governed[at].ticket, self.governed[at].episode),
            None => (0, 0),
        };
        let (core, id) = (self.core.view(), KeyspaceId(keyspace));
        let gauges = core.gauges(self.timed.now(), id);
        let status = core.unlock_status(id, episode);
        UnlockProgress {
            ticket,
            is_open: gauges
                .is_some_and(|gauges| !gauges.locked && !gauges.denied && gauges.lease_left_us > 0),
            is_reloaded: status.is_none_or(|status| status.state != UnlockState::Pending),
            keys_reloaded: status.map_or(0, |status| status.keys_reloaded),
        }
    }
}
