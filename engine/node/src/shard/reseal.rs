//! One page of a DEK's rotation: the blobs that are not sealed under the latest DEK are counted, or resealed, one after
//! the other.
//!
//! Control requests pages only after every shard has confirmed that it seals under the latest DEK, with nothing older
//! in flight: see [`super::shelf`].

use super::Shard;
use super::effect::{Done, Errand, OwnedName};
use super::port::{Expect, KeyState, Name, Port, Row, Seal, Write, WriteError};
use super::report::Report;
use super::shelf::SealUnder;
use super::tasks::{Pass, Task};
use crate::ids::QuestionId;
use crate::messages::{ResealError, ResealPage, ResealWork, ToControl};

/// Rows of the log that one page looks at.
const ROWS_MAX: usize = 64;

/// How the sealing of one blob begins.
enum Resealing {
    Put(OwnedName, Write),
    Unreadable,
}

impl<P: Port> Shard<P> {
    /// Begins a page from `cursor` on.
    pub(super) fn begin_pass(&mut self, mut pass: Pass, cursor: Vec<u8>) {
        let SealUnder {
            keyspace,
            generation,
        } = pass.under;
        let floor = self.shelf.floor(keyspace);
        pass.page.floor = floor;
        if floor < generation {
            // What it found would prove nothing.
            let error = ResealError::Other(format!(
                "a pass for DEK {generation} came before the shard sealed under it (it is at {floor}); this is a bug"
            ));
            return self.end_pass(pass.question, Err(error));
        }
        let errand = Errand::List {
            keyspace,
            cursor,
            rows_max: ROWS_MAX,
        };
        self.tasks
            .begin(&mut self.out, Task::Pass(Box::new(pass)), errand);
    }

    /// Goes on with a page whose errand is done.
    pub(super) fn go_on_pass(&mut self, mut pass: Box<Pass>, done: Done) {
        if pass.is_putting {
            // First of all: nothing that fails may keep a rotation from its end.
            self.shelf.end(pass.under);
            pass.is_putting = false;
        }
        match done {
            // It may be a blob under an older DEK.
            Done::Listed(Ok(page)) if page.unsettled => {
                let error = "a write failed and may still be in the log".to_owned();
                return self.end_pass(pass.question, Err(ResealError::Other(error)));
            }
            Done::Listed(Ok(page)) => {
                pass.rows = page.rows.into();
                pass.page.cursor = page.cursor;
            }
            Done::Listed(Err(error)) => {
                return self.end_pass(pass.question, Err(ResealError::Other(error)));
            }
            // It may have been written or revoked since: it is under the newest DEK, or needs none.
            Done::Put(
                Ok(_) | Err(WriteError::Conflict(_) | WriteError::Revoked | WriteError::NotFound),
            ) => pass.page.resealed += 1,
            Done::Put(Err(error)) => return self.end_pass(pass.question, Err(of_write(error))),
            _ => {
                let error = ResealError::Other("a step was lost; this is a bug".to_owned());
                return self.end_pass(pass.question, Err(error));
            }
        }
        self.next_row(pass);
    }

    fn next_row(&mut self, mut pass: Box<Pass>) {
        while let Some(row) = pass.rows.pop_front() {
            let head = self.timed.port.head_of(&row.blob.bytes);
            let Some(older) = head
                .ok()
                .map(|head| head.dek_generation)
                .filter(|older| *older < pass.under.generation)
            else {
                continue;
            };
            pass.page.found += 1;
            if pass.work == ResealWork::Count {
                continue;
            }
            if row.state == KeyState::Revoked {
                // Until the revocation is written, a crash may undo it.
                let error = "a revocation is in force and not written yet".to_owned();
                return self.end_pass(pass.question, Err(ResealError::Other(error)));
            }
            match self.reseal(pass.under, older, &row) {
                Ok(Resealing::Put(name, write)) => {
                    self.shelf.begin(pass.under);
                    pass.is_putting = true;
                    let errand = Errand::Put(name, write);
                    return self.tasks.begin(&mut self.out, Task::Pass(pass), errand);
                }
                Ok(Resealing::Unreadable) => pass.page.unreadable += 1,
                Err(WriteError::Invalid(error)) => {
                    pass.page.unreadable += 1;
                    self.out.report(Report::NotResealed {
                        keyspace: pass.under.keyspace,
                        key_id: row.key_id.into(),
                        error,
                    });
                }
                Err(error) => return self.end_pass(pass.question, Err(of_write(error))),
            }
        }
        self.end_pass(pass.question, Ok(pass.page));
    }

    fn reseal(&mut self, under: SealUnder, older: u32, row: &Row) -> Result<Resealing, WriteError> {
        let SealUnder {
            keyspace,
            generation,
        } = under;
        if !self.shelf.has_dek(keyspace) {
            return Err(WriteError::DekMissing);
        }
        let Some((newest, sealer, opener)) = self.shelf.pair(keyspace, older) else {
            let sealer = self.shelf.sealer(keyspace);
            sealer.ok_or(WriteError::DekMissing)?;
            self.shelf.want_retired(keyspace, older);
            return Ok(Resealing::Unreadable);
        };
        if newest != generation {
            return Err(WriteError::DekMissing);
        }
        let name = Name {
            keyspace,
            key_id: &row.key_id,
        };
        let what = Seal::Resealed(&row.blob.bytes, opener);
        let sealed = self.timed.port.seal(sealer, name, what)?;
        let Some(mut sealed) = sealed else {
            return Ok(Resealing::Unreadable);
        };
        sealed.version = row.blob.version;
        let name = OwnedName {
            keyspace,
            key_id: Box::from(row.key_id.as_slice()),
        };
        // A version may have been revoked or trimmed since, which keeps the newest as it is.
        let expect = Expect::Revision(row.blob.version, row.blob.revision);
        Ok(Resealing::Put(name, Write::Blob { sealed, expect }))
    }

    fn end_pass(&mut self, question: QuestionId, page: Result<ResealPage, ResealError>) {
        self.out
            .tell_control(ToControl::Resealed { question, page });
    }
}

fn of_write(error: WriteError) -> ResealError {
    match error {
        WriteError::DekMissing => ResealError::DekMissing,
        WriteError::Overloaded(_) => ResealError::Overloaded,
        error => ResealError::Other(format!("{error:?}")),
    }
}
