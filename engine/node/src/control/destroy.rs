//! Destroys retired DEKs: by command, once no blob needs one of them, and when their retention has ended.

use keyway_protocol::{Status, encode_deks_destroyed};

use super::commands::{Answering, Begun};
use super::event::Event;
use super::in_force::Settlement;
use super::report::Report;
use super::reseal::{Pass, Passed};
use super::saver::{acknowledge, settled};
use super::{Control, Refused, Reply};
use crate::catalogue::{ChangeAuthor, Edit};
use crate::ids::WorkId;
use crate::messages::ResealWork;
use crate::policy::Principal;

/// A destruction by command.
pub(super) struct Destroy {
    id: u32,
    retired: Vec<u32>,
    who: Principal,
    answering: Answering,
    stage: Stage,
}

enum Stage {
    /// Blobs under DEKs older than the current one are counted.
    Counting(Pass),
    /// There are some: the DEKs are put into use again.
    Reviving(u64),
    Writing,
}

/// A destruction of DEKs whose retention has ended.
pub(super) struct DestroyDue {
    due: Vec<(u32, u32)>,
}

impl Destroy {
    pub(super) fn name(&self) -> &'static str {
        match self.stage {
            Stage::Counting(_) => "destroy-counting",
            Stage::Reviving(_) => "destroy-reviving",
            Stage::Writing => "destroy-writing",
        }
    }
}

impl Control {
    /// Destroys the retired DEKs permanently, once no blob needs one of them. Answers with the number of DEKs destroyed.
    pub(super) fn destroy_deks(&mut self, answering: Answering, who: Principal, id: u32) -> Begun {
        let (generation, retired) = match self.retired_of(id) {
            Ok(retired) => retired,
            Err(refused) => return Begun::Answered(answering, Err(refused)),
        };
        if retired.is_empty() {
            return Begun::Answered(answering, Ok(destroyed(0)));
        }
        let work = self.works.begin();
        self.change_deks(id, work);
        let pass = self.begin_pass(work, (id, generation), ResealWork::Count);
        let destroy = Destroy {
            id,
            retired,
            who,
            answering,
            stage: Stage::Counting(pass),
        };
        self.works.wait(work, destroy);
        Begun::Begun
    }

    fn retired_of(&self, id: u32) -> Result<(u32, Vec<u32>), Refused> {
        self.check_no_change_of_deks(id)?;
        let keyspace = self.in_force.written().keyspace(id)?;
        if keyspace.has_older_deks() {
            return Err(self.refuse_resealing(id));
        }
        let retired = keyspace.retired().map(|(generation, _)| generation);
        Ok((keyspace.generation(), retired.collect()))
    }

    pub(super) fn step_destroy(&mut self, work: WorkId, mut destroy: Destroy, event: Event) {
        let id = destroy.id;
        let answer = match (destroy.stage, event) {
            (Stage::Counting(pass), event) => match self.step_pass(work, pass, event) {
                Passed::On(pass, _) => {
                    destroy.stage = Stage::Counting(pass);
                    return self.works.wait(work, destroy);
                }
                Passed::Stopped => Err(stopping()),
                Passed::Over { found: 0, .. } => {
                    match self.want_destroyed(work, id, &destroy.answering, destroy.who) {
                        Ok(()) => {
                            destroy.stage = Stage::Writing;
                            return self.works.wait(work, destroy);
                        }
                        Err(refused) => Err(refused),
                    }
                }
                Passed::Over { .. } if self.is_locked(id) => Err(self.refuse_locked(id)),
                Passed::Over { found, .. } => {
                    let revival = self.revival(id, destroy.retired.clone());
                    match self.want_for(&destroy.answering, work, revival) {
                        Ok(()) => {
                            destroy.stage = Stage::Reviving(found);
                            return self.works.wait(work, destroy);
                        }
                        Err((_, why)) => Err((Status::Conflict, why)),
                    }
                }
            },
            (Stage::Reviving(found), Event::Settled(outcome)) => {
                self.found_some(&destroy.retired, id, found, outcome)
            }
            (Stage::Writing, Event::Settled(outcome)) => settled(outcome).and_then(|settled| {
                let count = destroy.retired.len();
                self.report(Report::Destroyed {
                    keyspace: id,
                    generations: std::mem::take(&mut destroy.retired),
                    who: destroy.who,
                });
                acknowledge(settled, destroyed(count))
            }),
            (stage, _) => {
                destroy.stage = stage;
                return self.works.wait(work, destroy);
            }
        };
        self.deks_are_changed(id, work);
        self.answer(destroy.answering, answer);
    }

    fn want_destroyed(
        &mut self,
        work: WorkId,
        id: u32,
        answering: &Answering,
        who: Principal,
    ) -> Result<(), Refused> {
        self.may_begin(answering)?;
        let by = self.by(who);
        self.want_for(answering, work, Edit::DestroyRetired { id, by })
    }

    /// Handles blobs found under retired DEKs: they are resealed first.
    fn found_some(&mut self, retired: &[u32], id: u32, found: u64, outcome: Settlement) -> Reply {
        settled(outcome)?;
        self.revived(id, retired);
        Err((
            Status::Conflict,
            format!(
                "{found} blobs are still sealed under retired DEKs and are being resealed under the current DEK; \
                 try again when `keyway keyspace list` shows none left"
            ),
        ))
    }

    /// Destroys retired DEKs whose retention has ended.
    pub(super) fn destroy_due_deks(&mut self) {
        let due = self.in_force.written().due_deks(self.now.unix_ms);
        if due.is_empty() {
            return;
        }
        let mut ids: Vec<u32> = due.iter().map(|(id, _)| *id).collect();
        ids.dedup();
        let work = self.works.begin();
        let by = ChangeAuthor::expiry(self.now);
        match self.want(work, Edit::DestroyDue { ids, by }) {
            Ok(()) => self.works.wait(work, DestroyDue { due }),
            Err((_, why)) => self.report(Report::DueKept { why }),
        }
    }

    pub(super) fn step_destroy_due(&mut self, work: DestroyDue, event: Event) {
        let Event::Settled(outcome) = event else {
            return;
        };
        match settled(outcome) {
            Ok(_) => self.report(Report::DueDestroyed { due: work.due }),
            Err((_, why)) => self.report(Report::DueKept { why }),
        }
    }
}

fn destroyed(count: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    encode_deks_destroyed(count as u32, &mut payload);
    payload
}

fn stopping() -> Refused {
    (
        Status::Unavailable,
        "the server is stopping; nothing was destroyed".to_owned(),
    )
}
