//! The planned steps, carried out.

use super::{Event, Kind, Place, Stage, World};
use crate::kms::said;
use crate::oracle::Checked;
use crate::plan::Step;

/// Requests that one step may make: they are numbered by step.
const REQUESTS_PER_STEP: u64 = 64;

impl World<'_> {
    pub(super) fn carry_out(&mut self, number: u64, step: &Step) -> Checked {
        self.trace
            .note(self.now, || format!("step {number}: {step:?}"));
        let first = number * REQUESTS_PER_STEP;
        match *step {
            Step::Request {
                by,
                name,
                deadline_us,
                slow,
                count,
            } => {
                for id in first..first + u64::from(count) {
                    self.ask(id, by, name, Kind::Request { slow }, deadline_us)?;
                }
                Ok(())
            }
            Step::Force {
                by,
                name,
                deadline_us,
            } => self.ask(first, by, name, Kind::Force, deadline_us),
            Step::Put {
                by,
                name,
                not_after_us,
            } => self.ask(first, by, name, Kind::Put { not_after_us }, None),
            Step::Revoke { by, name } => self.ask(first, by, name, Kind::Revoke, None),
            Step::Leave { which } => self.leave(which),
            Step::Disconnect { connection } => self.disconnect(connection),
            Step::Corrupt { name } => {
                self.store.corrupt(name);
                Ok(())
            }
            Step::Lose { name } => {
                if self.store.lose(name) {
                    self.oracle.promised(name).put_version = 0;
                }
                Ok(())
            }
            Step::Lock { keyspace } => {
                self.control.locked.insert(keyspace, true);
                let lock = true;
                self.everywhere(&Event::Gate { keyspace, lock });
                Ok(())
            }
            Step::Unlock { keyspace } => {
                self.control.locked.insert(keyspace, false);
                let lock = false;
                self.everywhere(&Event::Gate { keyspace, lock });
                Ok(())
            }
            Step::Kms { mood, takes_us } => {
                self.kms.mood = mood;
                self.kms.takes_us = takes_us;
                Ok(())
            }
            Step::KmsSays {
                keyspace,
                shard,
                mood,
            } => {
                let generation = self.control.generation[&keyspace];
                let (event, dek) = said(mood, self.now, generation);
                let lease = Event::Lease {
                    keyspace,
                    event,
                    dek,
                };
                let shard = self.shard_at(shard);
                self.schedule(0, Place::Shard(shard), lease);
                Ok(())
            }
            Step::KmsLate { us } => {
                self.kms.late_us = us;
                Ok(())
            }
            Step::Store { mood } => {
                self.store.mood = mood;
                Ok(())
            }
            Step::Settings {
                keyspace,
                ref settings,
            } => {
                self.control.settings.insert(keyspace, settings.clone());
                let settings = settings.clone();
                self.everywhere(&Event::Config { keyspace, settings });
                Ok(())
            }
            Step::Hot { name } => {
                let owner = self.owner(name);
                self.schedule(0, Place::Shard(owner), Event::Hot(name));
                Ok(())
            }
            Step::RotateDek { keyspace } => {
                *self.control.generation.entry(keyspace).or_default() += 1;
                Ok(())
            }
            Step::Suspend { us } => {
                self.now += us;
                Ok(())
            }
            Step::Stall { shard, us } => {
                let (shard, until) = (self.shard_at(shard), self.now + us);
                self.sites[usize::from(shard)].stalled_until = until;
                Ok(())
            }
            Step::Crash => self.crash(number),
        }
    }

    fn leave(&mut self, which: u8) -> Checked {
        let waiting = self.requests.iter().filter(|(_, asked)| {
            let stalled = self.sites[usize::from(asked.owner)].stalled_until > self.now;
            matches!(asked.stage, Stage::Waiting { .. }) && !stalled
        });
        let waiting: Vec<(u64, u16)> = waiting.map(|(id, asked)| (*id, asked.owner)).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        let (id, owner) = waiting[usize::from(which) % waiting.len()];
        self.gone(owner, id)
    }

    /// Answers to a connection that is closed go nowhere, and who waits for one leaves.
    fn disconnect(&mut self, connection: u8) -> Checked {
        let mut leaving = Vec::new();
        for (id, asked) in &mut self.requests {
            if asked.by.connection == connection && !asked.closed {
                asked.closed = true;
                leaving.push((*id, asked.owner, asked.by.via));
            }
        }
        for (id, owner, via) in leaving {
            let delay_us = if owner == via { 0 } else { 40 };
            self.schedule(delay_us, Place::Shard(owner), Event::Gone(id));
        }
        Ok(())
    }
}
