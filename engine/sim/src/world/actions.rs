//! Executes the actions of a shard after each input.

use super::{World, keyspace_of, name_of};
use crate::dice::Dice;
use crate::oracle::{Checked, ExpectedGate, Seen, ensure};
use crate::plan::Name;
use keyway_core::{Action, Event, LoadError, Outcome, Urgency};

const HAND_OUT: u64 = 10;
/// Actions that one input may cause, at most: for each flight and waiter a few.
const ACTIONS_PER_UNIT: usize = 4;

impl World<'_> {
    /// Carries out all that the shard asks for. Returns the keys whose loads do not hurry.
    pub(super) fn drain(&mut self, shard: u16) -> Checked<Vec<Name>> {
        let limits = &self.plan.shape.limits;
        let units = limits.flights_max + limits.waiters_max + limits.entries_max;
        let most = (units + 2) * ACTIONS_PER_UNIT;
        let (mut count, mut prefetched, mut evicted) = (0, Vec::new(), Vec::new());
        while let Some(action) = self.sites[usize::from(shard)].core.poll_action() {
            count += 1;
            ensure!(
                17,
                count <= most,
                "one input caused more than {most} actions"
            );
            match action {
                Action::Load {
                    flight,
                    keyspace,
                    key_id,
                    urgency,
                } => {
                    if urgency != Urgency::OnDemand {
                        prefetched.push(name_of(keyspace, &key_id));
                    }
                    self.load(shard, flight, keyspace, &key_id, urgency)?;
                }
                Action::Unwrap { keyspace } => self.unwrap(shard, keyspace_of(keyspace))?,
                Action::DropDek { keyspace } => {
                    let site = &mut self.sites[usize::from(shard)];
                    site.deks.remove(&keyspace_of(keyspace));
                }
                Action::Report(Event::Evicted { keyspace, key_id }) => {
                    evicted.push(name_of(keyspace, &key_id));
                }
                Action::Report(event) => self.report(shard, &event)?,
            }
        }
        for name in evicted {
            let alive = self.oracle.ledger.alive.borrow();
            let stays = alive
                .values()
                .any(|alive| alive.name == name && alive.committed_step < self.step);
            ensure!(3, !stays, "{name:?}: was evicted, and is in memory");
        }
        self.hand_out(shard)?;
        Ok(prefetched)
    }

    /// Those whose wait is over, one at a time. In some histories time passes between two of them.
    fn hand_out(&mut self, shard: u16) -> Checked {
        let mut dice = Dice::of(self.plan.seed, HAND_OUT, self.step, 0);
        loop {
            let now = self.instant();
            let core = &mut self.sites[usize::from(shard)].core;
            let Some((token, outcome)) = core.poll_ready(now) else {
                return Ok(());
            };
            match outcome {
                Outcome::Serve(grant) => {
                    let seen = Seen::of(&grant);
                    self.ready(shard, token.0, seen)?;
                }
                Outcome::Dek => self.dek_came(shard, token.0)?,
                Outcome::Refreshed { version } => self.refreshed(shard, token.0, version)?,
                Outcome::Refuse(refusal) => self.refused(shard, token.0, refusal)?,
            }
            if self.plan.takes_time() {
                self.now += match dice.below(40) {
                    0 if !self.is_calm => dice.range(1_000, 300_000),
                    1..4 => dice.range(120, 5_000),
                    _ => dice.range(1, 120),
                };
                self.time_passed(shard);
            }
        }
    }

    fn report(&mut self, shard: u16, event: &Event) -> Checked {
        self.trace.note(self.now, || format!("  log: {event:?}"));
        match event {
            Event::LoadFailed {
                keyspace,
                key_id,
                error,
                ..
            } => {
                let name = name_of(*keyspace, key_id);
                self.flight_ended(name);
                if *error == LoadError::TimedOut {
                    self.void_flight(name);
                }
            }
            Event::KmsUnavailable { keyspace, .. } => {
                self.awaiting_may_end(keyspace_of(*keyspace));
            }
            Event::KeyspaceDenied { keyspace, .. } => {
                let keyspace = keyspace_of(*keyspace);
                let step = self.step;
                let terms = self.oracle.terms(shard, keyspace);
                if terms.gate == ExpectedGate::Open {
                    ensure!(
                        22,
                        terms.kms_locked && terms.lease_end == 0,
                        "keyspace {keyspace} was denied, and the KMS did not refuse it twice"
                    );
                    terms.close(ExpectedGate::Denied, step);
                    self.void_flights(shard, keyspace);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
