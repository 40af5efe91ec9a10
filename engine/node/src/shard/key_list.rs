//! KEY_LIST: pages of a keyspace's keys.

use keyway_core::slots::Handle;
use keyway_protocol::{
    KeyList, KeyListAnswer, KeyRow, KeyState as RowState, RequestFrame, ResponseHead, Status,
};

use super::Shard;
use super::effect::Errand;
use super::job::{Job, Stage};
use super::places::Purpose;
use super::port::{KeyState, Page, Port};
use super::refusal::overloaded;
use super::tasks::Task;
use super::use_key::Asked;

impl<P: Port> Shard<P> {
    /// Starts reading a page.
    pub(super) fn list_keys(
        &mut self,
        mut asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        list: &KeyList<'_>,
    ) {
        let Some(place) = self.out.connections.accounts.list(asked.allowed.who()) else {
            return self.refuse_as(asked.responder, overloaded(10_000));
        };
        let claim = self.claim(&asked, Purpose::Request);
        let Some(kept) = self.jobs.keep_nothing(claim, asked.place.take()) else {
            return self.refuse_as(asked.responder, overloaded(100_000));
        };
        let stage = Stage::Listing { _place: place };
        let job = self.jobs.park(asked.into_job(kept, stage));
        let errand = Errand::List {
            keyspace: frame.keyspace_id,
            cursor: list.cursor.to_vec(),
            rows_max: usize::from(list.rows_max()),
        };
        self.tasks.begin(&mut self.out, Task::Job(job), errand);
    }

    /// Answers with a page that was read.
    pub(super) fn show_page(&mut self, at: Handle<Job>, page: Result<Page, String>) {
        let Some(job) = self.take_job(at) else {
            return;
        };
        let Some(responder) = job.responder else {
            return;
        };
        if let Err(denied) = self.governed.recheck(job.permit) {
            return self.out.deny(responder, denied);
        }
        let page = match page {
            Ok(page) => page,
            Err(text) => {
                return self.out.refuse(responder, Status::BadRequest, text.into());
            }
        };
        let port = &self.timed.port;
        self.out.answer(responder, |payload| {
            let rows = page.rows.iter().filter_map(|row| {
                // A revoked key still has its blob until the revocation is written.
                let head = match row.state {
                    KeyState::Live => port.head_of(&row.blob.bytes).ok(),
                    _ => None,
                };
                Some(KeyRow {
                    key_id: std::str::from_utf8(&row.key_id).ok()?,
                    key_version: row.blob.version,
                    algorithm: head.and_then(|head| head.protocol_algorithm()),
                    state: match row.state {
                        KeyState::Revoked => RowState::Revoked,
                        KeyState::Live if head.is_some() => RowState::Active,
                        // The log leaves out what was deleted.
                        _ => RowState::Damaged,
                    },
                    versions: head
                        .and_then(|head| head.versions)
                        .map(|versions| versions.with_revoked(row.blob.version, row.revoked))
                        .filter(|versions| versions.are_of(row.blob.version)),
                })
            });
            match KeyListAnswer::encode(&page.cursor, rows, payload) {
                Ok(()) => Ok(ResponseHead::OK),
                Err(error) => Err((
                    ResponseHead::status(Status::Internal),
                    error.to_string().into(),
                )),
            }
        });
    }
}
