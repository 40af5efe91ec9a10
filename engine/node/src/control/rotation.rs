//! ROTATE: a keyspace's next DEK.
//!
//! ```text
//! rotate: new DEK ─▶ keyspaces.json ─▶ every shard gets it, and confirms that it seals under it ─▶ answer
//!                                       │ in the background: see `reseal`
//!                                       ▼
//!            count blobs under older DEKs ─▶ none: retire the older DEKs
//!                         ▲ some: reseal them ────┘
//! ```
//!
//! The catalogue shows what remains to be done after a restart: a keyspace with more than one DEK. Shards start with the
//! latest one that is written, so no confirmation is needed then.
//!
//! | crash | on the disk | after the restart |
//! |---|---|---|
//! | before the new DEK N+1 is written | N | unchanged; nothing was sealed under N+1 |
//! | then, until N is retired | N, N+1 | shards seal under N+1; blobs are counted again |
//! | later | N+1, N retired | the rotation is complete |

use keyway_protocol::{Status, encode_generation};

use super::commands::{Answering, Begun};
use super::effect::{FirstSeal, KmsAnswer, KmsRequest};
use super::event::Event;
use super::in_force::Settled;
use super::kms::{Deks, NewDek};
use super::publish::Until;
use super::report::Report;
use super::saver::{acknowledge, settled};
use super::{Control, Refused};
use crate::catalogue::{Edit, WrappedDek};
use crate::ids::{Epoch, WorkId};
use crate::messages::Lane;
use crate::policy::Principal;

/// A rotation, until every shard seals under the new DEK.
pub(super) struct Rotate {
    id: u32,
    kms: String,
    /// The generation of the new DEK.
    generation: u32,
    /// The epoch in which it began; a lock since then discards it.
    epoch: Epoch,
    who: Principal,
    answering: Answering,
    stage: Stage,
}

enum Stage {
    /// The KMS checks that its section of the catalogue was written by a server.
    Checking,
    /// The KMS generates the DEK.
    Minting,
    Writing(Deks),
    /// Shards raise their floors, and complete what they are sealing under the older DEK.
    Flooring(Settled),
}

impl Stage {
    fn name(&self) -> &'static str {
        match self {
            Stage::Checking => "checking",
            Stage::Minting => "minting",
            Stage::Writing(_) => "writing",
            Stage::Flooring(_) => "flooring",
        }
    }
}

impl Rotate {
    pub(super) fn name(&self) -> &'static str {
        self.stage.name()
    }
}

impl Control {
    /// Rotates a keyspace to a new DEK. Answers with its generation when every shard seals under it, and no write sealed
    /// under an older one is in flight. The blobs follow in the background.
    pub(super) fn rotate(&mut self, answering: Answering, who: Principal, id: u32) -> Begun {
        let work = self.works.begin();
        match self.begin_rotation(work, id) {
            Ok((kms, generation, stage)) => {
                let rotate = Rotate {
                    id,
                    kms,
                    generation,
                    epoch: self.epoch_of(id),
                    who,
                    answering,
                    stage,
                };
                self.works.wait(work, rotate);
                Begun::Begun
            }
            Err(refused) => Begun::Answered(answering, Err(refused)),
        }
    }

    fn begin_rotation(&mut self, work: WorkId, id: u32) -> Result<(String, u32, Stage), Refused> {
        self.check_no_change_of_deks(id)?;
        let (kms, generation) = self.next_generation(id)?;
        let status = self.kms.get(&kms).map_err(|failure| failure.refusal())?;
        self.change_deks(id, work);
        let stage = match status.is_checked {
            true => self.mint(work, id, &kms, generation),
            false => {
                self.call(work, &kms, KmsRequest::Check(FirstSeal::Needed));
                Stage::Checking
            }
        };
        Ok((kms, generation, stage))
    }

    fn mint(&mut self, work: WorkId, keyspace: u32, kms: &str, generation: u32) -> Stage {
        let request = KmsRequest::NewDek {
            keyspace,
            generation,
        };
        self.call(work, kms, request);
        Stage::Minting
    }

    /// Returns the keyspace's KMS, and the generation of its next DEK.
    fn next_generation(&self, id: u32) -> Result<(String, u32), Refused> {
        if self.is_locked(id) {
            return Err(self.refuse_locked(id));
        }
        let catalogue = self.in_force.written();
        let keyspace = catalogue.keyspace(id)?;
        if keyspace.has_older_deks() {
            return Err(self.refuse_resealing(id));
        }
        catalogue.check_rotation(id)?;
        let next = keyspace.generation().checked_add(1).ok_or((
            Status::Conflict,
            "the keyspace's DEK generations are exhausted".to_owned(),
        ))?;
        Ok((keyspace.kms.clone(), next))
    }

    pub(super) fn step_rotate(&mut self, work: WorkId, mut rotate: Rotate, event: Event) {
        let id = rotate.id;
        let next = match (rotate.stage, event) {
            (Stage::Checking, Event::Kms(KmsAnswer::Checked(Ok(())))) => {
                Ok(self.mint(work, id, &rotate.kms, rotate.generation))
            }
            (Stage::Checking, Event::Kms(KmsAnswer::Checked(Err(failure))))
            | (Stage::Minting, Event::Kms(KmsAnswer::Made(Err(failure)))) => Err(failure.refusal()),
            (Stage::Minting, Event::Kms(KmsAnswer::Made(Ok(made)))) => {
                rotate.stage = Stage::Minting;
                self.write_rotation(work, &rotate, made)
            }
            (Stage::Writing(deks), Event::Settled(outcome)) => settled(outcome).map(|settled| {
                let (keyspace, generation, who) = (id, rotate.generation, rotate.who);
                self.report(Report::Rotated {
                    keyspace,
                    generation,
                    who,
                });
                // The DEK in memory, not one that the KMS would have to unwrap: the KMS may be unreachable by now, and
                // whatever is sealed in the meantime must be sealed under this one.
                self.deks_have_changed(id);
                self.broadcast_lease(id, Ok(deks));
                self.publish(id, Lane::Ordinary);
                self.published
                    .wait(work, [(id, Until::Confirmed(generation))]);
                Stage::Flooring(settled)
            }),
            (Stage::Flooring(settled), Event::Acknowledged) => {
                self.deks_are_changed(id, work);
                self.start_resealing(id);
                let mut payload = Vec::new();
                encode_generation(rotate.generation, &mut payload);
                return self.answer(rotate.answering, acknowledge(settled, payload));
            }
            (stage, _) => Ok(stage),
        };
        match next {
            Ok(stage) => {
                rotate.stage = stage;
                self.works.wait(work, rotate);
            }
            Err(refused) => {
                self.deks_are_changed(id, work);
                self.answer(rotate.answering, Err(refused));
            }
        }
    }

    fn write_rotation(
        &mut self,
        work: WorkId,
        rotate: &Rotate,
        made: NewDek,
    ) -> Result<Stage, Refused> {
        let id = rotate.id;
        if self.is_locked(id) || self.epoch_of(id) != rotate.epoch {
            return Err(self.refuse_locked(id));
        }
        self.may_begin(&rotate.answering)?;
        let dek = WrappedDek {
            generation: rotate.generation,
            record: made.record.clone(),
        };
        let edit = Edit::AddDek {
            id,
            kms: rotate.kms.clone(),
            dek,
            by: self.by(rotate.who),
        };
        self.want_for(&rotate.answering, work, edit)?;
        Ok(Stage::Writing(made.into()))
    }

    /// Refuses a command that changes a keyspace's DEKs while another does.
    pub(super) fn check_no_change_of_deks(&self, id: u32) -> Result<(), Refused> {
        if self.is_changing_deks(id) {
            return Err((
                Status::Conflict,
                "another command is rotating, moving or destroying the keyspace's DEKs; check `keyway keyspace \
                 list` before you run this one again"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn is_changing_deks(&self, id: u32) -> bool {
        let governed = self.keyspaces.get(&id);
        governed.is_some_and(|governed| governed.changing_deks.is_some())
    }

    /// Records that this work alone changes the DEKs of a keyspace.
    pub(super) fn change_deks(&mut self, id: u32, work: WorkId) {
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.changing_deks = Some(work);
        }
    }

    /// Records that it no longer does.
    pub(super) fn deks_are_changed(&mut self, id: u32, work: WorkId) {
        if let Some(governed) = self.keyspaces.get_mut(&id)
            && governed.changing_deks == Some(work)
        {
            governed.changing_deks = None;
        }
    }

    /// Returns the refusal of a command that must wait until blobs are resealed.
    pub(super) fn refuse_resealing(&self, id: u32) -> Refused {
        let left = self.reseal_progress(id).map_or(0, |progress| progress.left);
        let written = self.in_force.written().keyspace(id);
        let generation = written.map_or(0, |keyspace| keyspace.generation());
        (
            Status::Conflict,
            format!(
                "the rotation to DEK {generation} is still resealing blobs ({left} left); wait until `keyway keyspace list` shows none"
            ),
        )
    }
}
