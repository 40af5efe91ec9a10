//! The control thread and its messages to shards: DEKs, locks, settings.

use super::{Event, Place, World, keyspace_id};
use crate::coverage::Input;
use crate::dice::Dice;
use crate::kms::{Call, Dek, said};
use crate::oracle::{Checked, ExpectedGate, ensure};
use crate::plan::{Mood, Name};
use keyway_core::{LeaseEvent, Settings};
use std::hash::{BuildHasher, RandomState};

const CALL: u64 = 7;
const TELL: u64 = 8;

impl World<'_> {
    pub(super) fn control(&mut self, event: Event) -> Checked {
        match event {
            Event::Ask(keyspace) => {
                self.call_kms(keyspace);
                Ok(())
            }
            Event::Answered {
                keyspace,
                call,
                mood,
            } => {
                self.fan_out(keyspace, call, mood);
                Ok(())
            }
            other => unreachable!("{other:?} is for a shard"),
        }
    }

    /// A shard requests a DEK: it joins the call in flight.
    pub(super) fn unwrap(&mut self, shard: u16, keyspace: u8) -> Checked {
        let now = self.now;
        self.tally(shard, keyspace).unwraps += 1;
        let terms = self.oracle.terms(shard, keyspace);
        ensure!(
            4,
            terms
                .asking_since
                .is_none_or(|since| now >= since + 120_000_000),
            "keyspace {keyspace}: a second unwrap at shard {shard}"
        );
        ensure!(
            22,
            terms.gate == ExpectedGate::Open,
            "keyspace {keyspace}: an unwrap while {:?}",
            terms.gate
        );
        terms.asking_since = Some(now);
        self.trace
            .note(now, || format!("  shard {shard} asks for DEK {keyspace}"));
        let delay_us = self.tell_us(shard, keyspace);
        // It is in the thread's inbox at once, and read when the thread gets to it.
        self.control
            .calls
            .entry(keyspace)
            .or_insert_with(|| Call {
                number: 0,
                sent_at: 0,
                waiting: Vec::new(),
            })
            .waiting
            .push(shard);
        self.schedule(delay_us, Place::Control, Event::Ask(keyspace));
        Ok(())
    }

    fn tell_us(&self, shard: u16, keyspace: u8) -> u64 {
        let which = u64::from(shard) << 8 | u64::from(keyspace);
        let delay_us = Dice::of(self.plan.seed, TELL, which, self.step).range(20, 900);
        match self.plan.is_nondeterministic {
            true => delay_us + RandomState::new().hash_one(which) % 2,
            false => delay_us,
        }
    }

    fn call_kms(&mut self, keyspace: u8) {
        let now = self.now;
        let Some(call) = self.control.calls.get_mut(&keyspace) else {
            return;
        };
        if call.number != 0 {
            return;
        }
        self.control.call_count += 1;
        call.number = self.control.call_count;
        call.sent_at = now;
        let number = call.number;
        let mut dice = Dice::of(self.plan.seed, CALL, u64::from(keyspace), self.step);
        let outcome = self.kms.outcome(&mut dice);
        self.trace
            .note(now, || format!("  KMS call {number}: {outcome:?}"));
        let answered = Event::Answered {
            keyspace,
            call: number,
            mood: outcome.mood,
        };
        self.schedule(outcome.after_us, Place::Control, answered);
    }

    /// One answer for every shard that asked.
    fn fan_out(&mut self, keyspace: u8, number: u64, mood: Mood) {
        let Some(call) = self.control.calls.get(&keyspace).cloned() else {
            return;
        };
        if call.number != number {
            return;
        }
        self.control.calls.remove(&keyspace);
        let sent_at = call.sent_at.saturating_sub(self.kms.late_us);
        let generation = self.control.generation[&keyspace];
        let (event, dek) = said(mood, sent_at, generation);
        let copies = 1 + u64::from(mood == Mood::Repeats);
        for shard in call.waiting {
            for copy in 0..copies {
                let delay_us = self.tell_us(shard, keyspace) + copy * 3_000;
                let lease = Event::Lease {
                    keyspace,
                    event,
                    dek,
                };
                self.schedule(delay_us, Place::Shard(shard), lease);
            }
        }
    }

    pub(super) fn lease(
        &mut self,
        shard: u16,
        keyspace: u8,
        event: LeaseEvent,
        dek: Option<Dek>,
    ) -> Checked {
        self.begin(shard);
        self.cover_all(shard, Input::of_lease(event));
        self.trace
            .note(self.now, || format!("  shard {shard} receives {event:?}"));
        if let Some(dek) = dek {
            let deks = &mut self.sites[usize::from(shard)].deks;
            let newest = deks.get(&keyspace).map_or(0, |known| known.generation);
            // One that comes late takes no newer one away.
            if !self.plan.writes_wait() || dek.generation >= newest {
                deks.insert(keyspace, dek);
            }
        }
        let (now, step) = (self.now, self.step);
        let terms = self.oracle.terms(shard, keyspace);
        let must_be_denied = terms.told(now, event);
        let granted = matches!(event, LeaseEvent::Granted { .. }) && terms.lease_end > now;
        if !granted {
            self.flights_may_end(keyspace);
        }
        let terms = self.oracle.terms(shard, keyspace);
        if must_be_denied {
            terms.close(ExpectedGate::Denied, step);
            self.void_flights(shard, keyspace);
        }
        let now = self.instant();
        let core = &mut self.sites[usize::from(shard)].core;
        core.handle_lease(now, keyspace_id(keyspace), event);
        self.turn(shard)
    }

    /// A refusal of the KMS or an operator's word ends flights without a line in the log.
    fn flights_may_end(&mut self, keyspace: u8) {
        self.awaiting.retain(|name, _| name.keyspace != keyspace);
        self.dek_missed.retain(|name, _| name.keyspace != keyspace);
    }

    /// An outage ends the flights that wait for a DEK without a line of their own in the log. Those that load go on.
    pub(super) fn awaiting_may_end(&mut self, keyspace: u8) {
        let loads = &self.current;
        let goes_on = |name: &Name| name.keyspace != keyspace || loads.contains_key(name);
        self.awaiting.retain(|name, _| goes_on(name));
        self.dek_missed.retain(|name, _| goes_on(name));
    }

    pub(super) fn gate(&mut self, shard: u16, keyspace: u8, lock: bool) -> Checked {
        self.begin(shard);
        let input = if lock { Input::Lock } else { Input::Unlock };
        self.cover_all(shard, input);
        self.trace.note(self.now, || {
            format!("  shard {shard}: {input:?} {keyspace}")
        });
        self.flights_may_end(keyspace);
        let (now, step) = (self.instant(), self.step);
        let (id, site) = (keyspace_id(keyspace), usize::from(shard));
        if lock {
            self.oracle
                .terms(shard, keyspace)
                .close(ExpectedGate::Locked, step);
            self.void_flights(shard, keyspace);
            self.sites[site].core.handle_lock(now, id);
            self.sites[site].deks.remove(&keyspace);
        } else {
            self.oracle.terms(shard, keyspace).open();
            let ticket = self.sites[site].core.handle_unlock(now, id);
            ensure!(
                22,
                ticket.is_some_and(|at| self.sites[site].core.unlock_status(id, at).is_some()),
                "an unlock gave the ticket {ticket:?}, which tells nothing"
            );
            self.oracle.terms(shard, keyspace).ticket = ticket;
        }
        self.turn(shard)
    }

    pub(super) fn configure(&mut self, shard: u16, keyspace: u8, settings: &Settings) -> Checked {
        self.begin(shard);
        self.cover_all(shard, Input::Settings);
        let (now, step) = (self.now, self.step);
        self.trace.note(now, || {
            format!("  shard {shard}: {keyspace} has {settings:?}")
        });
        let terms = self.oracle.terms(shard, keyspace);
        terms.change(now, step, settings);
        let now = self.instant();
        let core = &mut self.sites[usize::from(shard)].core;
        let changed = core.handle_keyspace(now, keyspace_id(keyspace), settings.clone());
        ensure!(22, changed.is_ok(), "settings refused: {changed:?}");
        self.turn(shard)
    }

    pub(super) fn everywhere(&mut self, event: &Event) {
        for shard in 0..self.sites.len() as u16 {
            let delay_us = self.tell_us(shard, 0);
            self.schedule(delay_us, Place::Shard(shard), event.clone());
        }
    }
}
