//! CREATE: creates a keyspace with a DEK that its KMS has wrapped and verified.

use keyway_protocol::{Status, encode_keyspace_id};

use super::commands::{Answering, Begun};
use super::effect::{FirstSeal, KmsAnswer, KmsRequest};
use super::event::Event;
use super::in_force::Settled;
use super::kms::{Deks, NewDek};
use super::report::Report;
use super::saver::{acknowledge, settled};
use super::state::State;
use super::{Control, Governed, Refused};
use crate::catalogue::{Edit, FIRST_GENERATION, SettingsChange};
use crate::ids::WorkId;
use crate::policy::Principal;

/// A keyspace that is being created.
pub(super) struct Create {
    name: String,
    kms: String,
    change: SettingsChange,
    who: Principal,
    answering: Answering,
    stage: Stage,
}

enum Stage {
    /// The KMS checks that its section of the catalogue was written by a server.
    Checking,
    /// The KMS generates the DEK of this keyspace.
    Making(u32),
    Writing(u32, Deks),
    /// The change is being published to the shards.
    Acting(u32, Settled),
}

impl Control {
    pub(super) fn create(
        &mut self,
        answering: Answering,
        who: Principal,
        name: String,
        kms: Option<String>,
        change: SettingsChange,
    ) -> Begun {
        let kms = kms.unwrap_or_else(|| self.kms.default.clone());
        let work = self.works.begin();
        match self.begin_create(work, &name, &kms) {
            Ok(stage) => {
                let create = Create {
                    name,
                    kms,
                    change,
                    who,
                    answering,
                    stage,
                };
                self.works.wait(work, create);
                Begun::Begun
            }
            Err(refused) => Begun::Answered(answering, Err(refused)),
        }
    }

    fn begin_create(&mut self, work: WorkId, name: &str, kms: &str) -> Result<Stage, Refused> {
        self.in_force.wanted().check_new(name)?;
        let status = self.kms.get(kms).map_err(|failure| failure.refusal())?;
        if status.is_checked {
            return self.make_dek(work, kms);
        }
        self.call(work, kms, KmsRequest::Check(FirstSeal::Needed));
        Ok(Stage::Checking)
    }

    /// Reserves the id only now, so that a creation refused because the KMS is locked consumes none.
    fn make_dek(&mut self, work: WorkId, kms: &str) -> Result<Stage, Refused> {
        let keyspace = self.in_force.reserve_id().ok_or((
            Status::Conflict,
            "the node's keyspace ids are exhausted".to_owned(),
        ))?;
        let request = KmsRequest::NewDek {
            keyspace,
            generation: FIRST_GENERATION,
        };
        self.call(work, kms, request);
        Ok(Stage::Making(keyspace))
    }

    pub(super) fn step_create(&mut self, work: WorkId, mut create: Create, event: Event) {
        let next = match (create.stage, event) {
            (Stage::Checking, Event::Kms(KmsAnswer::Checked(checked))) => checked
                .map_err(|failure| failure.refusal())
                .and_then(|()| self.make_dek(work, &create.kms)),
            (Stage::Making(id), Event::Kms(KmsAnswer::Made(made))) => {
                let made = made.map_err(|failure| failure.refusal());
                create.stage = Stage::Making(id);
                made.and_then(|dek| self.write_new(work, &create, id, dek))
            }
            (Stage::Writing(id, deks), Event::Settled(outcome)) => match settled(outcome) {
                Ok(settled) => {
                    self.wait_until_acted(work, id);
                    // An unwrap verified it, so the first use need not wait for another.
                    self.broadcast_lease(id, Ok(deks));
                    Ok(Stage::Acting(id, settled))
                }
                Err(refused) => {
                    self.keyspaces.remove(&id);
                    Err(refused)
                }
            },
            (Stage::Acting(id, settled), Event::Acknowledged) => {
                self.report(Report::Created {
                    id,
                    name: create.name,
                    kms: create.kms,
                    who: create.who,
                });
                let mut payload = Vec::new();
                encode_keyspace_id(id, &mut payload);
                return self.answer(create.answering, acknowledge(settled, payload));
            }
            (stage, _) => Ok(stage),
        };
        match next {
            Ok(stage) => {
                create.stage = stage;
                self.works.wait(work, create);
            }
            Err(refused) => self.answer(create.answering, Err(refused)),
        }
    }

    fn write_new(
        &mut self,
        work: WorkId,
        create: &Create,
        id: u32,
        made: NewDek,
    ) -> Result<Stage, Refused> {
        self.may_begin(&create.answering)?;
        let edit = Edit::Create {
            id,
            name: create.name.clone(),
            change: create.change.clone(),
            kms: create.kms.clone(),
            record: made.record.clone(),
            by: self.by(create.who),
        };
        self.want_for(&create.answering, work, edit)?;
        self.keyspaces.insert(id, Governed::new(State::Making));
        Ok(Stage::Writing(id, made.into()))
    }
}
