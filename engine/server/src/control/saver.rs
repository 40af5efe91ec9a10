//! Changes of the catalogue: in force as far as they may be, written beside the control thread, and answered.

use std::rc::Rc;

use keyway_protocol::Status;
use tokio::sync::oneshot;

use super::catalogue::{self, Catalogue, CatalogueError};
use super::in_force::{Settled, Undone, Wanted};
use super::kms::Kms;
use super::lanes::Lane;
use super::{Answer, Control};
use crate::clock;
use crate::metrics::exporter;
use crate::metrics::snapshot::{CatalogueSnapshot, Snapshot};

/// Starts to write the catalogue's file as a whole, durably; what is returned says how that ended. One write at a time.
pub type Save = Box<dyn Fn(Catalogue) -> oneshot::Receiver<std::io::Result<()>>>;

/// A thread of its own that writes, so that the disk keeps nobody waiting.
///
/// Errors: there is no thread to be had.
pub fn beside(
    write: impl Fn(&Catalogue) -> std::io::Result<()> + Send + 'static,
) -> std::io::Result<Save> {
    type Job = (Catalogue, oneshot::Sender<std::io::Result<()>>);
    let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
    let thread = std::thread::Builder::new().name("keyway-saver".to_owned());
    thread.spawn(move || {
        for (catalogue, done) in inbox {
            // The control thread may have stopped.
            let _ = done.send(write(&catalogue));
        }
    })?;
    Ok(Box::new(move |catalogue| {
        let (done, saved) = oneshot::channel();
        // Without a thread `done` is dropped here, which says so.
        let _ = jobs.send((catalogue, done));
        saved
    }))
}

/// How a command is refused.
pub(super) type Refused = (Status, String);

impl<K: Kms + 'static> Control<K> {
    /// Makes a change of these keyspaces. What it takes away is in force on every shard as soon as they can act, whatever
    /// the disk does; what it gives, when this returns. The change is a pure function, which may be applied several times.
    ///
    /// Errors: it is refused, or only gives something and could not be written. Then nothing has changed.
    pub(super) async fn edit(
        self: &Rc<Self>,
        keyspaces: &[u32],
        edit: impl Fn(&mut Catalogue) -> Result<(), CatalogueError> + 'static,
    ) -> Result<Settled, Refused> {
        let Wanted { tightened, outcome } = self.want(keyspaces, edit)?;
        self.publish(&tightened, Lane::Emergency).await;
        let settled = settled(outcome).await?;
        self.publish(keyspaces, Lane::Ordinary).await;
        Ok(settled)
    }

    /// The first half of [`Control::edit`]: the change is accepted, and being written. No shard has been told.
    pub(super) fn want(
        self: &Rc<Self>,
        keyspaces: &[u32],
        edit: impl Fn(&mut Catalogue) -> Result<(), CatalogueError> + 'static,
    ) -> Result<Wanted, Refused> {
        self.check_caller()?;
        let mut in_force = self.in_force.borrow_mut();
        let wanted = in_force.want(clock::now(), keyspaces, Rc::new(edit))?;
        drop(in_force);
        self.save();
        Ok(wanted)
    }

    /// Writes what is to be written, unless a write is under way.
    pub(super) fn save(self: &Rc<Self>) {
        let Some(catalogue) = self.in_force.borrow_mut().next_write(clock::now()) else {
            return;
        };
        let saved = (self.save)(catalogue);
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let result = match saved.await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err("the thread that writes has ended; restart the server".to_owned()),
            };
            control.handle_saved(result);
        });
    }

    fn handle_saved(self: &Rc<Self>, result: Result<(), String>) {
        let (touched, was_failing, unwritten) = {
            let mut in_force = self.in_force.borrow_mut();
            let was_failing = in_force.failing().is_some();
            let touched = in_force.handle_saved(clock::now(), result.clone());
            (touched, was_failing, in_force.unwritten())
        };
        match result {
            Err(why) => tracing::error!(
                why,
                unwritten,
                "{} could not be written; what is locked or withdrawn stays so, a restart would undo it, and the server \
                 keeps trying",
                catalogue::FILE
            ),
            Ok(()) if was_failing => tracing::info!("{} is written again", catalogue::FILE),
            Ok(()) => {}
        }
        // A change that was answered before it was written has nobody left who tells the shards of its other half.
        let control = Rc::clone(self);
        tokio::task::spawn_local(async move { control.publish(&touched, Lane::Ordinary).await });
        self.save();
        self.saved.notify_one();
    }

    /// Answers what has waited for the disk for too long, and tries again what failed. To be called once a second.
    pub(super) fn look_at_saves(self: &Rc<Self>) {
        self.in_force.borrow_mut().handle_tick(clock::now());
        self.save();
        let in_force = self.in_force.borrow();
        let snapshot = CatalogueSnapshot {
            unwritten_changes: in_force.unwritten() as u64,
            write_failures_total: in_force.failures_total(),
        };
        exporter::offer(&self.exporter, Snapshot::Catalogue(snapshot));
    }

    /// At the end: one more try for what is not written, for as long as a change may wait for the disk.
    pub(super) async fn save_at_end(self: &Rc<Self>, mut second: impl AsyncFnMut()) {
        self.in_force.borrow_mut().retry_now();
        self.save();
        let mut seconds_left = super::in_force::WRITE_US_MAX / 1_000_000;
        while seconds_left > 0 && self.in_force.borrow().is_writing() {
            tokio::select! {
                () = self.saved.notified() => {}
                () = second() => seconds_left -= 1,
            }
        }
        let unwritten = self.in_force.borrow().unwritten();
        if unwritten > 0 {
            tracing::error!(
                unwritten,
                "stopped with changes in force that were not written: the next start undoes them"
            );
        }
    }
}

/// How a change ended.
pub(super) async fn settled(
    outcome: oneshot::Receiver<Result<Settled, Undone>>,
) -> Result<Settled, Refused> {
    match outcome.await {
        Ok(Ok(settled)) => Ok(settled),
        Ok(Err(Undone::Unwritten(why))) => Err((
            Status::Internal,
            format!(
                "{} could not be written: {why}; nothing has changed; try again once the disk works",
                catalogue::FILE
            ),
        )),
        Ok(Err(Undone::Refused(why))) => Err((Status::Conflict, why)),
        Err(_) => Err((Status::Internal, "the server is stopping".to_owned())),
    }
}

/// The answer to a command whose change has been accepted.
pub(super) fn acknowledge(settled: Settled, payload: Vec<u8>) -> Answer {
    match settled {
        Settled::Written => Ok(payload),
        Settled::Unwritten(why) => Err((
            Status::NotPersisted,
            format!(
                "what this command takes away is in force on every shard, but {} could not be written: {why}; a restart \
                 would undo it; the server keeps trying",
                catalogue::FILE
            ),
        )),
    }
}
