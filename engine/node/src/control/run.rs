//! The loop that advances works, and helpers that they share.

use zeroize::Zeroizing;

use super::commands::{Answering, Asker};
use super::effect::{ControlEffect, KmsRequest};
use super::event::{Event, ShardAnswer};
use super::publish::Told;
use super::report::Report;
use super::state::Happens;
use super::works::Work;
use super::{Control, Reply};
use crate::catalogue::ChangeAuthor;
use crate::ids::{Epoch, QuestionId, WorkId};
use crate::messages::{Lane, ToShard};
use crate::policy::Principal;
use keyway_protocol::Status;

impl Control {
    /// Passes works what they have waited for, until nothing is left to pass.
    pub(super) fn run(&mut self) {
        loop {
            if let Some((work, outcome)) = self.in_force.poll_settled() {
                self.resume(work, Event::Settled(outcome));
            } else if let Some(work) = self.published.next_ready() {
                self.resume(work, Event::Acknowledged);
            } else if let Some(asker) = self.commands.next_orphan() {
                self.report(Report::CommandForgotten);
                let text = "the command was dropped without an answer; this is a bug".to_owned();
                self.send_answer(asker, Err((Status::Internal, text)));
            } else {
                return;
            }
        }
    }

    pub(super) fn handle_answer(&mut self, from: u16, question: QuestionId, answer: ShardAnswer) {
        match self.works.asked(question) {
            Some((work, asked)) if asked == from => self.resume(work, Event::Shard(answer)),
            _ => {}
        }
    }

    pub(super) fn resume(&mut self, id: WorkId, event: Event) {
        let Some(work) = self.works.take(id) else {
            return;
        };
        match work {
            Work::Create(work) => self.step_create(id, work, event),
            Work::Set(work) => self.step_set(id, work, event),
            Work::Lock(work) => self.step_lock(id, work, event),
            Work::Unlock(work) => self.step_unlock(id, work, event),
            Work::OpenKms(work) => self.step_open_kms(work, event),
            Work::Initialise(work) => self.step_initialise(work, event),
            Work::Rotate(work) => self.step_rotate(id, work, event),
            Work::Rewrap(work) => self.step_rewrap(id, work, event),
            Work::Revive(work) => self.step_revive(id, work, event),
            Work::Destroy(work) => self.step_destroy(id, work, event),
            Work::DestroyDue(work) => self.step_destroy_due(work, event),
            Work::Reseal(work) => self.step_reseal(id, work, event),
            Work::Progress(work) => self.step_progress(id, work, event),
            Work::Hottest(work) => self.step_hottest(id, work, event),
            Work::Status(answering) => self.step_status(answering, event),
        }
    }

    pub(super) fn answer(&mut self, answering: Answering, answer: Reply) {
        if let Some(asker) = self.commands.end(answering) {
            self.send_answer(asker, answer);
        }
    }

    /// Answers a command that only reads. What was collected for it is not sent if its right was withdrawn meanwhile.
    pub(super) fn answer_read(&mut self, answering: Answering, answer: Reply) {
        let answer = self.may_begin(&answering).and(answer);
        self.answer(answering, answer);
    }

    pub(super) fn send_answer(&mut self, asker: Asker, answer: Reply) {
        let (status, payload) = match answer {
            Ok(payload) => (Status::Ok, payload),
            Err((status, explanation)) => (status, explanation.into_bytes()),
        };
        let message = ToShard::Answer {
            token: asker.token,
            status,
            payload: Zeroizing::new(payload),
        };
        self.send_to(asker.shard, asker.lane, message);
    }

    pub(super) fn send_to(&mut self, shard: u16, lane: Lane, message: ToShard) {
        self.effects.push_back(ControlEffect::Tell {
            shard,
            lane,
            message,
        });
    }

    pub(super) fn send(&mut self, told: Told) {
        let Told {
            shard,
            lane,
            change,
        } = told;
        self.send_to(shard, lane, ToShard::Keyspace(change));
    }

    pub(super) fn report(&mut self, report: Report) {
        self.effects.push_back(ControlEffect::Report(report));
    }

    /// Calls a KMS for a work.
    pub(super) fn call(&mut self, work: WorkId, kms: &str, request: KmsRequest) {
        let call = self.works.call(work);
        self.effects.push_back(ControlEffect::Kms {
            call,
            kms: kms.to_owned(),
            request,
        });
    }

    pub(super) fn by(&self, who: Principal) -> ChangeAuthor {
        ChangeAuthor::principal(who.to_string(), self.now)
    }

    pub(super) fn epoch_of(&self, id: u32) -> Epoch {
        self.keyspaces
            .get(&id)
            .map_or(Epoch::default(), |governed| governed.epoch)
    }

    pub(super) fn is_locked(&self, id: u32) -> bool {
        self.in_force.is_locked(id)
    }

    pub(super) fn happens(&mut self, id: u32, happens: Happens) {
        if let Some(governed) = self.keyspaces.get_mut(&id) {
            governed.state = governed.state.after(happens);
        }
    }
}
