//! Shards: what they make of control's messages, and what they say to it.

use super::kms::{Dek, dek_of};
use super::shards::Known;
use super::{Event, World};
use crate::oracle::{Checked, ensure};
use keyway_core::LeaseEvent;
use keyway_node::ids::Epoch;
use keyway_node::keyspace_change::KeyspaceChange;
use keyway_node::messages::{Command, DekCopies, Lane, ResealError, ToControl, ToShard};

const WIPE: u64 = 105;
const PAGE: u64 = 106;
/// How long a shard takes to wipe a keyspace, at most, µs.
const WIPES_WITHIN_US: u64 = 20_000;

impl World<'_> {
    pub(super) fn hear_control(&mut self, shard: u16, message: ToShard) -> Checked {
        match message {
            ToShard::Keyspace(change) => self.take_change(shard, *change),
            ToShard::Lease {
                keyspace,
                epoch,
                event,
                deks,
                ticket,
            } => {
                self.take_lease(shard, (keyspace, epoch), event, &deks, ticket);
                Ok(())
            }
            ToShard::Reseal {
                question,
                keyspace,
                generation,
                work,
                cursor,
            } => {
                let mut log = std::mem::take(&mut self.logs[usize::from(shard)]);
                let site = &self.shards[usize::from(shard)];
                let page = match site.keyspaces.get(&keyspace) {
                    Some(_) if site.pages_fail => Err(ResealError::Overloaded),
                    Some(known) => known.page(self.now, &mut log, generation, work, &cursor),
                    None => Err(ResealError::Other("no such keyspace".to_owned())),
                };
                self.logs[usize::from(shard)] = log;
                self.trace.note(self.now, || {
                    format!("  shard {shard}: {work:?} {keyspace} from {cursor:?}: {page:?}")
                });
                let takes_us = self.dice(PAGE, question.0).range(10, 3_000);
                let message = ToControl::Resealed { question, page };
                let from = shard;
                self.schedule(self.now + takes_us, Event::ToControl { from, message });
                self.check_blobs()
            }
            ToShard::Progress { question, keyspace } => {
                let known = self.shards[usize::from(shard)].keyspaces.get(&keyspace);
                if let Some(known) = known {
                    let progress = known.progress(self.now);
                    self.say(shard, ToControl::Progress { question, progress });
                }
                Ok(())
            }
            ToShard::Hot { question, .. } => {
                let share = None;
                self.say(shard, ToControl::Hot { question, share });
                Ok(())
            }
            ToShard::Answer {
                token,
                status,
                payload,
            } => self.answered(token, status, &payload),
        }
    }

    fn take_change(&mut self, shard: u16, change: KeyspaceChange) -> Checked {
        let (keyspace, revision) = (change.id, change.revision);
        self.trace.note(self.now, || {
            format!(
                "  shard {shard}: {keyspace} is locked: {}, revision {}, floor {}",
                change.guard.locked, revision.0, change.seal_floor
            )
        });
        let site = &mut self.shards[usize::from(shard)];
        let known = site.keyspaces.get(&keyspace);
        if known.is_none_or(|known| revision >= known.change.revision) {
            self.act(shard, change);
        }
        self.say(shard, ToControl::Acted { keyspace, revision });
        self.confirm(shard, keyspace);
        Ok(())
    }

    fn act(&mut self, shard: u16, change: KeyspaceChange) {
        let keyspace = change.id;
        let site = &mut self.shards[usize::from(shard)];
        let known = site.keyspaces.entry(keyspace).or_insert_with(|| {
            let mut known = Known::new(change.clone());
            known.confirming = Some(change.seal_floor);
            known
        });
        let opens = !change.guard.locked && change.opening > known.change.opening;
        if change.seal_floor > known.change.seal_floor {
            known.confirming = Some(change.seal_floor);
        }
        let lease_us = change.guard.settings.dek_lease_ms * 1_000;
        known.lease_end = known.lease_end.min(self.now + lease_us);
        known.change = change;
        let oldest = known.change.oldest;
        known.deks.retain(|generation, _| *generation >= oldest);
        if known.change.guard.locked {
            known.drop_deks();
            if known.change.epoch > Epoch::default() {
                known.wiping = Some(known.change.epoch);
                let takes_us = self.dice(WIPE, u64::from(shard)).below(WIPES_WITHIN_US);
                self.schedule(self.now + takes_us, Event::Wiped { shard, keyspace });
            }
        } else if opens {
            known.wiping = None;
            if known.lease_end <= self.now {
                self.say(shard, ToControl::Unwrap { keyspace });
            }
        }
    }

    fn take_lease(
        &mut self,
        shard: u16,
        (keyspace, epoch): (u32, Epoch),
        event: LeaseEvent,
        deks: &DekCopies,
        ticket: u64,
    ) {
        let site = &mut self.shards[usize::from(shard)];
        let Some(known) = site.keyspaces.get_mut(&keyspace) else {
            return;
        };
        if epoch < known.change.epoch || known.change.guard.locked {
            return;
        }
        let LeaseEvent::Granted { sent_at, .. } = event else {
            return;
        };
        let lease_us = known.change.guard.settings.dek_lease_ms * 1_000;
        let ends_at = sent_at.as_micros() + lease_us;
        if ends_at <= self.now {
            return;
        }
        known.lease_end = known.lease_end.max(ends_at);
        for dek in deks {
            known.deks.insert(dek.generation, dek_of(dek));
        }
        known.has_keys = true;
        known.keys_reloaded += 1;
        known.ticket = known.ticket.max(ticket);
    }

    pub(super) fn wiped(&mut self, shard: u16, keyspace: u32) -> Checked {
        let site = &mut self.shards[usize::from(shard)];
        let Some(known) = site.keyspaces.get_mut(&keyspace) else {
            return Ok(());
        };
        if let Some(epoch) = known.wiping.take() {
            known.has_keys = false;
            self.say(shard, ToControl::Wiped { keyspace, epoch });
        }
        Ok(())
    }

    /// A blob is in the log.
    pub(super) fn landed(&mut self, shard: u16, keyspace: u32, seal: u64) -> Checked {
        let site = &mut self.shards[usize::from(shard)];
        let known = site.keyspaces.get_mut(&keyspace);
        let Some(dek) = known.and_then(|known| known.seals.remove(&seal)) else {
            return Ok(());
        };
        self.logs[usize::from(shard)].push(dek);
        self.check_seal(dek)?;
        self.confirm(shard, keyspace);
        self.check_blobs()
    }

    /// After a ROTATE was answered nothing is sealed under an older DEK.
    pub(super) fn check_seal(&self, dek: Dek) -> Checked {
        let newest = self.books.rotated.get(&dek.keyspace).copied().unwrap_or(0);
        ensure!(
            29,
            dek.generation >= newest,
            "{dek:?}: something is sealed under it, and ROTATE was answered with {newest}"
        );
        Ok(())
    }

    fn confirm(&mut self, shard: u16, keyspace: u32) {
        let site = &mut self.shards[usize::from(shard)];
        let known = site.keyspaces.get_mut(&keyspace);
        if let Some(generation) = known.and_then(Known::take_confirmed) {
            self.say(
                shard,
                ToControl::Confirmed {
                    keyspace,
                    generation,
                },
            );
        }
    }

    pub(super) fn say(&mut self, from: u16, message: ToControl) {
        let lane = match &message {
            ToControl::Request(request) => request.command.lane(),
            ToControl::Acted { .. } | ToControl::Wiped { .. } => Lane::Emergency,
            _ => Lane::Ordinary,
        };
        self.post(false, from, lane, Event::ToControl { from, message });
    }
}

/// A command in a word.
pub(super) fn word(command: &Command) -> &'static str {
    match command {
        Command::Create { .. } => "CREATE",
        Command::Set { .. } => "SET",
        Command::History { .. } => "HISTORY",
        Command::List { .. } => "LIST",
        Command::Lock { .. } => "LOCK",
        Command::Unlock { .. } => "UNLOCK",
        Command::UnlockStatus { .. } => "UNLOCK_STATUS",
        Command::Rotate { .. } => "ROTATE",
        Command::DestroyDeks { .. } => "DESTROY_DEKS",
        Command::Rewrap { .. } => "REWRAP",
        Command::Hot { .. } => "HOT",
        Command::Initialise { .. } => "KMS_INIT",
        Command::UnlockKms { .. } => "KMS_UNLOCK",
        Command::LockKms { .. } => "KMS_LOCK",
        Command::LockAll => "LOCK_ALL",
        Command::Status { .. } => "STATUS",
    }
}
