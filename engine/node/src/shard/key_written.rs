//! The end of a write that the log has completed: the core is updated, the write is logged, and it is answered.

use keyway_core::KeyspaceId;
use keyway_protocol::{KeyRevoke, Request};

use super::Shard;
use super::effect::Done;
use super::job::Job;
use super::key_admin::lost;
use super::port::{KeyState, Port};
use super::report::{KeyChange, Report};

impl<P: Port> Shard<P> {
    /// Ends a write that the log has done, or not. Between the core's learning of it and the answer nothing else runs on
    /// the shard, so an operation that begins after the answer finds it so.
    pub(super) fn finish_put(&mut self, job: Job, done: Done, restores: bool) {
        let written = match done {
            Done::Put(Ok(version)) => Ok(version),
            Done::Put(Err(error)) => Err(error.into()),
            _ => Err(lost().into()),
        };
        // A version's revocation is known already, and the key may have been loaded without it since.
        if !revokes_version(&job) {
            self.learn_key(&job, written.is_ok());
        }
        if let Ok(newest) = written {
            self.report_write(&job, newest, restores);
        }
        self.finish_write(job, written);
    }

    /// Has the core act by what the log holds of a key now. `is_done`: what the request asks for is in it.
    pub(super) fn learn_key(&mut self, job: &Job, is_done: bool) {
        let Some(known) = self.known(job) else { return };
        let Some(frame) = job.frame.frame() else {
            return;
        };
        let (keyspace, id) = (KeyspaceId(frame.keyspace_id), frame.key_id.bytes());
        let now = self.timed.now();
        let rewrites = is_done
            && (revokes_version(job)
                || job
                    .frame
                    .with(|_, request| matches!(request, Request::KeyTrim(_)))
                    == Some(true));
        self.core.call(|core| match known.state {
            KeyState::Revoked => core.handle_revoked(now, keyspace, id),
            KeyState::Deleted => core.handle_deleted(now, keyspace, id),
            _ if rewrites => core.handle_rewritten(now, keyspace, id, known.version),
            _ => core.handle_stored(now, keyspace, id, known.version),
        });
    }

    /// Tells the log what an auditor wants to know of; the rest is counted.
    fn report_write(&mut self, job: &Job, newest: u32, restores: bool) {
        let change = job.frame.with(|_, request| match request {
            Request::KeyTrim(trim) => Some(KeyChange::Trimmed(trim.below)),
            Request::KeyRevoke(KeyRevoke { key_version: 0 }) => Some(KeyChange::Revoked),
            Request::KeyRevoke(revoke) => Some(KeyChange::VersionRevoked(revoke.key_version)),
            Request::KeyDelete => Some(KeyChange::Deleted),
            _ => restores.then_some(KeyChange::Restored),
        });
        let (Some(Some(change)), Some(frame)) = (change, job.frame.frame()) else {
            return;
        };
        self.out.report(Report::KeyChanged {
            keyspace: frame.keyspace_id,
            key_id: Box::from(frame.key_id.bytes()),
            change,
            newest,
            who: job.permit.who(),
        });
    }
}

/// Returns whether a write revokes one version of its key.
fn revokes_version(job: &Job) -> bool {
    let revokes = job
        .frame
        .with(|_, request| matches!(request, Request::KeyRevoke(KeyRevoke { key_version: 1.. })));
    revokes == Some(true)
}
