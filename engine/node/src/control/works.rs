//! The works of control: each is a small state machine that waits for one thing at a time.

use std::collections::{BTreeMap, BTreeSet};

use keyway_core::Instant;

use super::commands::Answering;
use super::create::Create;
use super::destroy::{Destroy, DestroyDue};
use super::hottest::Hottest;
use super::kms_admin::{Initialise, OpenKms};
use super::lock::Lock;
use super::reseal::Reseal;
use super::revive::Revive;
use super::rewrap::Rewrap;
use super::rotation::Rotate;
use super::settings::Set;
use super::unlock::Unlock;
use super::unlock_status::Progress;
use crate::ids::{CallId, QuestionId, WorkId};

/// Declares the kinds of works, each with the type of its state.
macro_rules! works {
    ($($Kind:ident($State:ident)),+ $(,)?) => {
        /// A work, in the state in which it waits.
        pub(super) enum Work {
            $($Kind($State),)+
        }

        $(
            impl From<$State> for Work {
                fn from(state: $State) -> Work {
                    Work::$Kind(state)
                }
            }
        )+
    };
}

works! {
    Create(Create),
    Set(Set),
    Lock(Lock),
    Unlock(Unlock),
    OpenKms(OpenKms),
    Initialise(Initialise),
    Rotate(Rotate),
    Rewrap(Rewrap),
    Revive(Revive),
    Destroy(Destroy),
    DestroyDue(DestroyDue),
    Reseal(Reseal),
    Progress(Progress),
    Hottest(Hottest),
    Status(Answering),
}

/// The recipient of a KMS's answer.
pub(super) enum Caller {
    Work(WorkId),
    /// The shards, for the lease of this keyspace.
    Lease(u32),
}

/// All works, and what they wait for.
#[derive(Default)]
pub(super) struct Works {
    last: WorkId,
    last_call: CallId,
    last_question: QuestionId,
    waiting: BTreeMap<WorkId, Work>,
    calls: BTreeMap<CallId, Caller>,
    questions: BTreeMap<QuestionId, (WorkId, u16)>,
    resting: BTreeSet<(Instant, WorkId)>,
}

impl Works {
    /// Returns the id of a new work.
    pub(super) fn begin(&mut self) -> WorkId {
        self.last.count_up()
    }

    /// Puts a work aside.
    pub(super) fn wait(&mut self, id: WorkId, work: impl Into<Work>) {
        self.waiting.insert(id, work.into());
    }

    /// Removes a work in order to continue it.
    pub(super) fn take(&mut self, id: WorkId) -> Option<Work> {
        self.waiting.remove(&id)
    }

    /// Returns a work that waits.
    pub(super) fn get(&self, id: WorkId) -> Option<&Work> {
        self.waiting.get(&id)
    }

    /// Returns the resealing of a keyspace, which waits under this id.
    pub(super) fn reseal_mut(&mut self, id: WorkId) -> Option<&mut Reseal> {
        match self.waiting.get_mut(&id) {
            Some(Work::Reseal(reseal)) => Some(reseal),
            _ => None,
        }
    }

    /// As [`Works::reseal_mut`], for reading.
    pub(super) fn reseal(&self, id: WorkId) -> Option<&Reseal> {
        match self.waiting.get(&id) {
            Some(Work::Reseal(reseal)) => Some(reseal),
            _ => None,
        }
    }

    /// Returns the stage of the latest unlock of a keyspace that has not ended.
    pub(super) fn unlock_of(&self, id: u32) -> Option<&'static str> {
        let mut works = self.waiting.values().rev();
        works.find_map(|work| match work {
            Work::Unlock(unlock) if unlock.keyspace() == id => Some(unlock.name()),
            _ => None,
        })
    }

    /// Returns the number of works that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the id of a new call of this work.
    pub(super) fn call(&mut self, work: WorkId) -> CallId {
        self.call_for(Caller::Work(work))
    }

    /// Returns the id of a new call for the lease of this keyspace.
    pub(super) fn call_for_lease(&mut self, keyspace: u32) -> CallId {
        self.call_for(Caller::Lease(keyspace))
    }

    fn call_for(&mut self, caller: Caller) -> CallId {
        let call = self.last_call.count_up();
        self.calls.insert(call, caller);
        call
    }

    /// Returns the recipient of this call's answer.
    pub(super) fn called(&mut self, call: CallId) -> Option<Caller> {
        self.calls.remove(&call)
    }

    /// Returns the id of a request of this work to a shard.
    pub(super) fn question(&mut self, work: WorkId, shard: u16) -> QuestionId {
        let question = self.last_question.count_up();
        self.questions.insert(question, (work, shard));
        question
    }

    /// Returns the work and the shard of a request.
    pub(super) fn asked(&mut self, question: QuestionId) -> Option<(WorkId, u16)> {
        self.questions.remove(&question)
    }

    /// Returns the works whose requests a stopped shard has not answered.
    pub(super) fn asked_of(&mut self, shard: u16) -> Vec<WorkId> {
        let asked = self.questions.values();
        let of_it = asked.filter(|(_, at)| *at == shard);
        let of_it = of_it.map(|(work, _)| *work).collect();
        self.questions.retain(|_, (_, at)| *at != shard);
        of_it
    }

    /// Resumes a work at a time.
    pub(super) fn rest(&mut self, work: WorkId, until: Instant) {
        self.resting.insert((until, work));
    }

    /// Resumes a paused work now.
    pub(super) fn hurry(&mut self, work: WorkId) {
        let found = self.resting.iter().find(|(_, of)| *of == work).copied();
        if let Some(rest) = found {
            self.resting.remove(&rest);
            self.rest(work, Instant::ZERO);
        }
    }

    /// Returns a work whose pause is over.
    pub(super) fn rested(&mut self, now: Instant) -> Option<WorkId> {
        let (until, work) = *self.resting.first()?;
        if until > now {
            return None;
        }
        self.resting.pop_first();
        Some(work)
    }

    /// Returns when the first pause ends.
    pub(super) fn next_rested(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }
}
