//! What a shard wants done, after each input.

use super::{World, keyspace_of, name_of};
use crate::oracle::{Checked, Gate, ensure};
use crate::plan::Name;
use keyway_core::{Action, Event, LoadError, Urgency};

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
                Action::Ready {
                    token,
                    keyspace,
                    key_id,
                    redeem,
                } => self.ready(shard, token.0, name_of(keyspace, &key_id), redeem)?,
                Action::Refreshed { token, version } => self.refreshed(shard, token.0, version)?,
                Action::Refuse { token, refusal } => self.refused(shard, token.0, refusal)?,
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
        Ok(prefetched)
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
            Event::KeyspaceDenied { keyspace, .. } => {
                let keyspace = keyspace_of(*keyspace);
                let step = self.step;
                let terms = self.oracle.terms(shard, keyspace);
                if terms.gate == Gate::Open {
                    ensure!(
                        22,
                        terms.kms_locked && terms.lease_end == 0,
                        "keyspace {keyspace} was denied, and the KMS did not refuse it twice"
                    );
                    terms.close(Gate::Denied, step);
                    self.void_flights(shard, keyspace);
                }
            }
            _ => {}
        }
        Ok(())
    }
}
