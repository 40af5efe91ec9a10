//! REWRAP: moves a keyspace's DEKs, including retired ones, to another KMS, or wraps them again at the same one.

use super::commands::{Answering, Begun};
use super::effect::{KmsAnswer, KmsRequest};
use super::event::Event;
use super::kms::{Deks, KmsFailure};
use super::report::Report;
use super::saver::{acknowledge, settled};
use super::{Control, Refused};
use crate::catalogue::{Edit, WrappedDek};
use crate::ids::{Epoch, WorkId};
use crate::policy::Principal;

/// DEKs that are being moved.
pub(super) struct Rewrap {
    id: u32,
    from: String,
    to: String,
    /// The epoch in which it began; a lock since then discards it.
    epoch: Epoch,
    who: Principal,
    answering: Answering,
    stage: Stage,
}

enum Stage {
    /// One KMS unwraps them; the other wraps and verifies them.
    Moving,
    Writing(Deks),
}

impl Rewrap {
    pub(super) fn name(&self) -> &'static str {
        match self.stage {
            Stage::Moving => "moving",
            Stage::Writing(_) => "moving-writing",
        }
    }
}

impl Control {
    /// Moves a keyspace's DEKs. The shards get the DEKs that the other KMS has just verified, and their leases count from
    /// then.
    pub(super) fn rewrap(
        &mut self,
        answering: Answering,
        who: Principal,
        id: u32,
        to: String,
    ) -> Begun {
        let work = self.works.begin();
        match self.begin_rewrap(work, id, &to) {
            Ok(from) => {
                self.change_deks(id, work);
                let rewrap = Rewrap {
                    id,
                    from,
                    to,
                    epoch: self.epoch_of(id),
                    who,
                    answering,
                    stage: Stage::Moving,
                };
                self.works.wait(work, rewrap);
                Begun::Begun
            }
            Err(refused) => Begun::Answered(answering, Err(refused)),
        }
    }

    fn begin_rewrap(&mut self, work: WorkId, id: u32, to: &str) -> Result<String, Refused> {
        self.check_no_change_of_deks(id)?;
        self.kms.get(to).map_err(|failure| failure.refusal())?;
        if self.is_locked(id) {
            return Err(self.refuse_locked(id));
        }
        let (from, request) = self.move_request(id).map_err(|failure| failure.refusal())?;
        self.call(work, to, request);
        Ok(from)
    }

    fn move_request(&self, id: u32) -> Result<(String, KmsRequest), KmsFailure> {
        let keyspace = self.in_force.written().keyspace(id);
        let keyspace = keyspace.map_err(|error| KmsFailure::of_catalogue(&error))?;
        self.kms.get(&keyspace.kms)?;
        let request = KmsRequest::Move {
            keyspace: id,
            from: keyspace.kms.clone(),
            in_use: keyspace.deks(),
            retired: keyspace.retired_deks(),
        };
        Ok((keyspace.kms.clone(), request))
    }

    pub(super) fn step_rewrap(&mut self, work: WorkId, mut rewrap: Rewrap, event: Event) {
        let id = rewrap.id;
        let answer = match (rewrap.stage, event) {
            (Stage::Moving, Event::Kms(KmsAnswer::Moved(Ok((deks, records))))) => {
                rewrap.stage = Stage::Moving;
                match self.write_moved(work, &rewrap, records) {
                    Ok(()) => {
                        rewrap.stage = Stage::Writing(deks);
                        return self.works.wait(work, rewrap);
                    }
                    Err(refused) => Err(refused),
                }
            }
            (Stage::Moving, Event::Kms(KmsAnswer::Moved(Err(failure)))) => Err(failure.refusal()),
            (Stage::Writing(deks), Event::Settled(outcome)) => match settled(outcome) {
                Ok(settled) => {
                    self.moved(id, (&rewrap.from, &rewrap.to), rewrap.who, deks);
                    acknowledge(settled, Vec::new())
                }
                Err(refused) => Err(refused),
            },
            (stage, _) => {
                rewrap.stage = stage;
                return self.works.wait(work, rewrap);
            }
        };
        self.deks_are_changed(id, work);
        self.answer(rewrap.answering, answer);
    }

    fn write_moved(
        &mut self,
        work: WorkId,
        rewrap: &Rewrap,
        deks: Vec<WrappedDek>,
    ) -> Result<(), Refused> {
        let id = rewrap.id;
        if self.is_locked(id) || self.epoch_of(id) != rewrap.epoch {
            return Err(self.refuse_locked(id));
        }
        self.may_begin(&rewrap.answering)?;
        let edit = Edit::Rewrap {
            id,
            from: rewrap.from.clone(),
            to: rewrap.to.clone(),
            deks,
            by: self.by(rewrap.who),
        };
        self.want_for(&rewrap.answering, work, edit)
    }

    fn moved(&mut self, id: u32, (from, to): (&str, &str), who: Principal, deks: Deks) {
        self.troubles.forget(from, id);
        self.report(Report::Moved {
            keyspace: id,
            from: from.to_owned(),
            to: to.to_owned(),
            who,
        });
        self.broadcast_lease(id, Ok(deks));
    }
}
