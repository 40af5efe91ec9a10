//! REWRAP: a keyspace's DEKs stay the same ones, all of them, and are wrapped by the KMS that the keyspace names.

use super::World;
use super::books::Asked;
use super::plan::Asks;
use crate::control::kms::{Dek, NAMES, read};
use crate::oracle::{Checked, ensure};
use keyway_node::catalogue::{Catalogue, Keyspace};
use keyway_protocol::Status;
use std::collections::BTreeSet;

/// Which KMS wraps a keyspace's DEKs, as far as the answers to REWRAP tell.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WrappedBy {
    /// By the last REWRAP that was answered OK.
    moved_to: Option<usize>,
    /// Requests without an answer.
    open: u32,
    /// One of them may have been done, or several were done at the same time.
    is_unsure: bool,
}

impl WrappedBy {
    pub(crate) fn note_sent(&mut self) {
        self.open += 1;
    }

    /// It was lost with its connection.
    pub(crate) fn note_unknown(&mut self) {
        self.open -= 1;
        self.is_unsure = true;
    }

    fn note_answered(&mut self, kms: usize, status: Status, is_alone: bool) {
        self.open -= 1;
        match status {
            Status::Ok if is_alone => (self.moved_to, self.is_unsure) = (Some(kms), false),
            Status::Ok | Status::Internal | Status::DeadlineExceeded => self.is_unsure = true,
            _ => {}
        }
    }

    /// `None`: it may be one of several. `first`: where it was made.
    fn number(&self, first: Option<usize>) -> Option<usize> {
        let is_sure = self.open == 0 && !self.is_unsure;
        self.moved_to.or(first).filter(|_| is_sure)
    }
}

impl World<'_> {
    /// The KMS that wraps a keyspace's DEKs, if that is known.
    fn wrapped_by(&self, keyspace: u32) -> Option<usize> {
        let book = self.books.keyspaces.get(&keyspace);
        let wrapped = book.map(|book| book.wrapped).unwrap_or_default();
        let is_first = keyspace <= self.plan.keyspaces;
        wrapped.number(is_first.then_some((keyspace as usize - 1) % NAMES.len()))
    }

    /// Whether a keyspace's DEKs were at this KMS all the time since a request was sent.
    pub(super) fn is_surely_at(&self, keyspace: u32, kms: usize, asked: &Asked) -> bool {
        self.wrapped_by(keyspace) == Some(kms)
            && !self.may_overlap(asked, |other| moves(other, keyspace))
    }

    pub(super) fn rewrap_answered(
        &mut self,
        (keyspace, kms): (u32, usize),
        asked: &Asked,
        status: Status,
    ) -> Checked {
        let is_alone = {
            let others = self.books.requests.values();
            let overlaps =
                |other: &Asked| moves(other, keyspace) && other.may_act_after(asked.sent_at);
            others.filter(|other| overlaps(other)).nth(1).is_none()
        };
        let wrapped = &mut self.books.of(keyspace).wrapped;
        wrapped.note_answered(kms, status, is_alone);
        self.check_wrapped(keyspace)
    }

    /// What was answered OK is written.
    pub(super) fn check_wrapped(&self, keyspace: u32) -> Checked {
        let durable = self.disk.durable.keyspace(keyspace).ok();
        let known = self.wrapped_by(keyspace).map(|kms| NAMES[kms]);
        ensure!(
            41,
            known.is_none_or(|kms| durable.is_none_or(|it| it.kms == kms)),
            "keyspace {keyspace}: by the answers to REWRAP it is at {known:?}, and keyspaces.json has {:?}",
            durable.map(|it| &it.kms)
        );
        Ok(())
    }

    /// `keyspaces.json` was replaced: each DEK is still there, and each is wrapped by its keyspace's KMS.
    pub(super) fn check_deks_kept(&self, before: &Catalogue) -> Checked {
        for (id, keyspace) in self.disk.durable.iter() {
            let strange = records(keyspace).find(|(kms, dek)| {
                kms.map(|kms| NAMES[kms]) != Some(keyspace.kms.as_str())
                    || dek.is_none_or(|dek| dek.keyspace != id)
            });
            ensure!(
                41,
                strange.is_none(),
                "keyspace {id} is at {:?}, and has {strange:?}",
                keyspace.kms
            );
            let Ok(before) = before.keyspace(id) else {
                continue;
            };
            let now: BTreeSet<Dek> = records(keyspace).filter_map(|(_, dek)| dek).collect();
            // A newer one may have been written although the disk reported a failure: that write is undone.
            let book = self.books.keyspaces.get(&id);
            let rotated = book.and_then(|book| book.rotated);
            let newest = rotated.map_or(1, |(newest, _)| newest);
            let before = records(before).filter_map(|(_, dek)| dek);
            let mut promised = before.filter(|dek| dek.generation <= newest);
            let missing = promised.find(|dek| !now.contains(dek));
            ensure!(
                41,
                missing.is_none() || self.may_destroy(id),
                "keyspace {id}: {missing:?} is gone from keyspaces.json, and no request was to destroy DEKs"
            );
        }
        Ok(())
    }

    fn may_destroy(&self, keyspace: u32) -> bool {
        let asks = Some(Asks::DestroyDeks(keyspace));
        let mut all = self.books.requests.values();
        all.any(|asked| asked.asks == asks)
    }
}

fn moves(asked: &Asked, keyspace: u32) -> bool {
    matches!(asked.asks, Some(Asks::Rewrap { keyspace: of, .. }) if of == keyspace)
}

/// The DEKs of a keyspace, in use and retired, with the KMS that wraps each.
fn records(keyspace: &Keyspace) -> impl Iterator<Item = (Option<usize>, Option<Dek>)> {
    let all = keyspace.deks().into_iter().chain(keyspace.retired_deks());
    all.map(|wrapped| {
        let read = read(&wrapped.record);
        let dek = read.map(|(_, dek)| dek);
        let dek = dek.filter(|dek| dek.generation == wrapped.generation);
        (read.map(|(kms, _)| kms), dek)
    })
}
