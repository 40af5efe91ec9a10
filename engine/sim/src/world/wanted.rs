//! Writes that need a DEK: they ask for it through the core, and wait.

use super::calm::WRITE_WAIT_US;
use super::{Asked, Kind, Stage, World, keyspace_id};
use crate::coverage::Input;
use crate::dice::Dice;
use crate::oracle::{Checked, ExpectedGate, ensure};
use crate::plan::Name;
use keyway_core::{DekRequest, DekVerdict, Instant, Refusal, Token};

const WANT: u64 = 11;

impl World<'_> {
    /// A put needs the DEK that it is to be sealed under.
    pub(super) fn want_dek(&mut self, shard: u16, id: u64, asked: &Asked) -> Checked {
        let name = asked.name;
        self.begin(shard);
        self.cover(shard, Input::DekWanted, name);
        let mut dice = Dice::of(self.plan.seed, WANT, id, 0);
        // After a rotation nothing is sealed under an older generation; the shard may not have been notified yet.
        let generation = match dice.one_in(3) {
            true => 1,
            false => self.control.generation[&name.keyspace],
        };
        let wait_us = match self.is_calm {
            true => WRITE_WAIT_US,
            false => dice.pick(&[1_000, 50_000, 3_000_000]),
        };
        let site = &mut self.sites[usize::from(shard)];
        let newest = site.seal_generations.entry(name.keyspace).or_default();
        *newest = generation.max(*newest);
        let request = DekRequest {
            token: Token(id),
            keyspace: keyspace_id(name.keyspace),
            generation,
            wait_us,
            deadline: asked.deadline.map(Instant::from_micros),
        };
        let now = Instant::from_micros(self.now);
        let verdict = site.core.handle_wanted(now, request);
        self.trace.note(self.now, || {
            format!(
                "  #{id} wants DEK {} of generation {generation}: {verdict:?}",
                name.keyspace
            )
        });
        self.tally(shard, name.keyspace).dek_requests += 1;
        match verdict {
            DekVerdict::Ready => self.seal(shard, id, asked)?,
            DekVerdict::Wait => {
                self.tally(shard, name.keyspace).dek_waiting += 1;
                let until = asked.deadline.unwrap_or(u64::MAX).min(self.now + wait_us);
                let budget_ends_at = u64::MAX;
                self.stage(
                    id,
                    Stage::Waiting {
                        until,
                        budget_ends_at,
                    },
                );
            }
            DekVerdict::Refuse(refusal) => {
                ensure!(
                    22,
                    !matches!(refusal, Refusal::Unavailable { .. }),
                    "{name:?}: {refusal:?} without having waited for the KMS"
                );
                self.check_no_dek(shard, name, refusal)?;
                self.answer(shard, id)?;
            }
        }
        self.turn(shard)
    }

    /// The DEK has come that a put waits for.
    pub(super) fn dek_came(&mut self, shard: u16, id: u64) -> Checked {
        let asked = self.waiting(id)?;
        self.trace
            .note(self.now, || format!("  #{id} after a wait: the DEK"));
        self.tally(shard, asked.name.keyspace).dek_waiting -= 1;
        self.seal(shard, id, &asked)
    }

    fn seal(&mut self, shard: u16, id: u64, asked: &Asked) -> Checked {
        let Kind::Put { not_after_us } = asked.kind else {
            ensure!(18, false, "#{id}: is a {:?}, and got a DEK", asked.kind);
            return Ok(());
        };
        ensure!(
            22,
            self.can_seal(shard, asked.name.keyspace),
            "#{id}: is to be sealed under a DEK that is not available"
        );
        self.put(shard, id, asked, not_after_us)
    }

    /// Whether a shard has the DEK that a keyspace's blobs are sealed under now.
    fn can_seal(&mut self, shard: u16, keyspace: u8) -> bool {
        let now = self.now;
        let terms = self.oracle.terms(shard, keyspace);
        let leased = terms.gate == ExpectedGate::Open && terms.lease_end > now;
        let generation = terms.generation;
        let site = &self.sites[usize::from(shard)];
        let wanted = site.seal_generations.get(&keyspace).copied().unwrap_or(0);
        leased && generation >= wanted
    }

    /// A put got no DEK, and this is why.
    pub(super) fn check_no_dek(&mut self, shard: u16, name: Name, refusal: Refusal) -> Checked {
        let can_seal = self.can_seal(shard, name.keyspace);
        let gate = self.oracle.terms(shard, name.keyspace).gate;
        let fits = match refusal {
            Refusal::NeedsUnlock { .. } => gate != ExpectedGate::Open,
            Refusal::Unavailable { after_us } => {
                after_us > 0 && gate == ExpectedGate::Open && !can_seal
            }
            Refusal::Overloaded { after_us } => after_us > 0 && gate == ExpectedGate::Open,
            Refusal::DeadlineExceeded => true,
            _ => false,
        };
        ensure!(
            22,
            fits,
            "{name:?}: a write got {refusal:?}, {gate:?}, its DEK available: {can_seal}"
        );
        Ok(())
    }

    /// No put waits for a DEK that is there, or that it will not get.
    pub(super) fn check_wanting(&mut self, shard: u16) -> Checked {
        if !self.plan.writes_wait() {
            return Ok(());
        }
        for keyspace in 0..self.plan.shape.keyspaces {
            let may_wait = self.oracle.terms(shard, keyspace).gate == ExpectedGate::Open
                && !self.can_seal(shard, keyspace);
            let waits = self.requests.iter().find(|(_, asked)| {
                asked.owner == shard
                    && asked.name.keyspace == keyspace
                    && matches!(asked.kind, Kind::Put { .. })
                    && matches!(asked.stage, Stage::Waiting { .. })
            });
            ensure!(
                8,
                may_wait || waits.is_none(),
                "keyspace {keyspace}: {waits:?} waits for a DEK that is there, or will not come"
            );
        }
        Ok(())
    }
}
