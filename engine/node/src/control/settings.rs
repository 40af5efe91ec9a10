//! KEYSPACE_SET: permanent and temporary changes of settings and grants.

use super::commands::{Answering, Begun};
use super::effect::{FirstSeal, KmsAnswer, KmsRequest};
use super::event::Event;
use super::in_force::Settled;
use super::report::Report;
use super::saver::{acknowledge, settled};
use super::{Control, Refused};
use crate::catalogue::{Edit, SettingsChange};
use crate::ids::WorkId;
use crate::policy::Principal;

/// A change of settings in progress.
pub(super) struct Set {
    id: u32,
    who: Principal,
    change: SettingsChange,
    answering: Answering,
    stage: Stage,
}

enum Stage {
    /// The KMS checks that its section of the catalogue was written by a server.
    Checking,
    Writing,
    /// The change is being published to the shards.
    Acting(Settled),
}

impl Control {
    /// Changes settings and grants. A change that only withdraws grants is written without a seal, so that it does not
    /// wait for a KMS.
    pub(super) fn set(
        &mut self,
        answering: Answering,
        who: Principal,
        id: u32,
        change: SettingsChange,
    ) -> Begun {
        let work = self.works.begin();
        let begun = match self.kms_to_check(id, who, &change) {
            Ok(Some(kms)) => {
                self.call(work, &kms, KmsRequest::Check(FirstSeal::Optional));
                Ok(Stage::Checking)
            }
            Ok(None) => self.want_set(work, &answering, (id, who), change.clone()),
            Err(refused) => Err(refused),
        };
        match begun {
            Ok(stage) => {
                let set = Set {
                    id,
                    who,
                    change,
                    answering,
                    stage,
                };
                self.works.wait(work, set);
                Begun::Begun
            }
            Err(refused) => Begun::Answered(answering, Err(refused)),
        }
    }

    /// Returns the KMS whose section must be checked before the change, if any.
    fn kms_to_check(
        &self,
        id: u32,
        who: Principal,
        change: &SettingsChange,
    ) -> Result<Option<String>, Refused> {
        let wanted = self.in_force.wanted();
        let after = wanted.changed(id, change, &self.by(who))?;
        let before = wanted.keyspace(id)?;
        if after.only_withdraws(before) {
            return Ok(None);
        }
        let status = self.kms.get(&before.kms);
        let status = status.map_err(|failure| failure.refusal())?;
        Ok((!status.is_checked).then(|| before.kms.clone()))
    }

    fn want_set(
        &mut self,
        work: WorkId,
        answering: &Answering,
        (id, who): (u32, Principal),
        change: SettingsChange,
    ) -> Result<Stage, Refused> {
        self.may_begin(answering)?;
        let by = self.by(who);
        self.want_for(answering, work, Edit::Set { id, change, by })?;
        Ok(Stage::Writing)
    }

    pub(super) fn step_set(&mut self, work: WorkId, mut set: Set, event: Event) {
        let id = set.id;
        let next = match (set.stage, event) {
            (Stage::Checking, Event::Kms(KmsAnswer::Checked(Ok(())))) => {
                let change = set.change.clone();
                self.want_set(work, &set.answering, (id, set.who), change)
            }
            (Stage::Checking, Event::Kms(KmsAnswer::Checked(Err(failure)))) => {
                Err(failure.refusal())
            }
            (Stage::Writing, Event::Settled(outcome)) => settled(outcome).map(|settled| {
                self.wait_until_acted(work, id);
                Stage::Acting(settled)
            }),
            (Stage::Acting(settled), Event::Acknowledged) => {
                self.report(Report::SettingsChanged {
                    keyspace: id,
                    who: set.who,
                    settings: set.change.to_string(),
                    for_ms: set.change.lasts().map(|lasts| lasts.ms()),
                });
                return self.answer(set.answering, acknowledge(settled, Vec::new()));
            }
            (stage, _) => Ok(stage),
        };
        match next {
            Ok(stage) => {
                set.stage = stage;
                self.works.wait(work, set);
            }
            Err(refused) => self.answer(set.answering, Err(refused)),
        }
    }
}
