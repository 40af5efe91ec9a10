//! What the shard has asked its driver for and waits for: loads, steps of writes, pages.

use keyway_core::{FlightId, Instant, KeyId, KeyspaceId};

use super::effect::{Effect, Errand, TaskId};
use super::job::Job;
use super::outputs::Outputs;
use super::reseal::Pass;
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
