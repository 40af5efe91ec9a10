//! What the shard has asked its driver for and waits for: loads, steps of writes, pages.

use std::collections::VecDeque;

use keyway_core::{FlightId, Instant, KeyId, KeyspaceId};

use super::effect::{Effect, Errand, TaskId};
use super::job::Job;
use super::outputs::Outputs;
use super::port::Row;
use super::shelf::SealUnder;
use crate::ids::QuestionId;
use crate::messages::{ResealPage, ResealWork};
use keyway_core::slots::{Handle, Slots};

/// What an errand is for.
pub(crate) enum Task {
    /// A load that was begun.
    Load(Load),
    /// A job.
    Job(Handle<Job>),
    /// A page of a DEK's rotation.
    Pass(Box<Pass>),
}

/// A load that was begun.
pub(crate) struct Load {
    pub(crate) flight: FlightId,
    pub(crate) keyspace: KeyspaceId,
    pub(crate) key_id: KeyId,
    pub(crate) began_at: Instant,
}

/// A page of a DEK's rotation, in progress.
pub(crate) struct Pass {
    pub(crate) question: QuestionId,
    pub(crate) under: SealUnder,
    pub(crate) work: ResealWork,
    /// What is left of the page.
    pub(crate) rows: VecDeque<Row>,
    pub(crate) page: ResealPage,
    /// A blob is being written to the log.
    pub(crate) is_putting: bool,
}

/// Tasks in progress. Bounded by read slots, jobs, and pages that control has requested.
#[derive(Default)]
pub(crate) struct Tasks(Slots<Task>);

impl Tasks {
    /// Sends the driver on an errand.
    pub(crate) fn begin(&mut self, out: &mut Outputs, task: Task, errand: Errand) {
        let id = TaskId(self.0.vacant().to_bits());
        self.0.insert(task);
        out.push(Effect::Do(id, errand));
    }

    /// Takes a task that has its result.
    pub(crate) fn end(&mut self, id: TaskId) -> Option<Task> {
        self.0.take(Handle::from_bits(id.0)?)
    }
}
