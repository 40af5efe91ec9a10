//! Passes inputs to control, and executes its effects.

use super::kms::{NAMES, dek_of};
use super::plan::DiskMood;
use super::{Event, World};
use crate::oracle::{Checked, ensure};
use keyway_node::catalogue::Catalogue;
use keyway_node::control::{ControlEffect, KmsAnswer, KmsRequest};
use keyway_node::ids::{CallId, WriteId};
use keyway_node::keyspace_change::{Guard, KeyspaceChange};
use keyway_node::messages::{Lane, ToControl, ToShard};

const LANE: u64 = 102;
const KMS: u64 = 103;
const DISK: u64 = 104;

impl World<'_> {
    pub(super) fn tick(&mut self) -> Checked {
        let now = self.moment();
        self.statuses();
        self.cover_all("tick");
        self.control.handle_tick(now);
        self.effects("tick")
    }

    fn statuses(&mut self) {
        self.inputs += 1;
        for (name, kms) in NAMES.iter().zip(&self.kms) {
            self.control.handle_kms_status(name, kms.status());
        }
    }

    pub(super) fn hear_shard(&mut self, from: u16, message: ToControl) -> Checked {
        let now = self.moment();
        self.statuses();
        let (input, keyspace) = self.input_of(&message);
        self.cover(keyspace, input);
        self.trace.note(self.now, || {
            format!("control: {input} {keyspace:?} of shard {from}")
        });
        self.note_begun(&message);
        let calls = self.made;
        let may_ask = match message {
            ToControl::Unwrap { keyspace } => self.may_ask_for_lease(keyspace),
            _ => None,
        };
        self.control.handle_shard(now, from, message);
        self.effects(input)?;
        ensure!(
            40,
            may_ask.is_none() || self.made > calls,
            "keyspace {may_ask:?}: its DEK is asked for, and the KMS is not called at once"
        );
        Ok(())
    }

    /// Returns the keyspace if a request for its DEK must now cause a KMS call.
    fn may_ask_for_lease(&self, keyspace: u32) -> Option<u32> {
        let is_known = self.control.written().keyspace(keyspace).is_ok();
        let [state, .., unlock] = self.control.state_of(keyspace)?;
        let is_asked = self.books.is_unwrapping(keyspace);
        (is_known && state == "open" && unlock == "idle" && !is_asked).then_some(keyspace)
    }

    pub(super) fn hear_kms(&mut self, call: CallId, answer: KmsAnswer) -> Checked {
        let now = self.moment();
        self.statuses();
        let keyspace = self.books.calls.remove(&call);
        if let (KmsAnswer::Unwrapped(_), Some(Some(keyspace))) = (&answer, keyspace) {
            self.books.unwrap_ends(keyspace);
        }
        let (input, is_good) = match &answer {
            KmsAnswer::Checked(it) => ("checked", it.is_ok()),
            KmsAnswer::Unwrapped(it) => ("unwrapped", it.is_ok()),
            KmsAnswer::Made(it) => ("made", it.is_ok()),
            KmsAnswer::Moved(it) => ("moved", it.is_ok()),
            KmsAnswer::Opened(it) => ("opened", it.is_ok()),
            KmsAnswer::Initialised(it) => ("initialised", it.is_ok()),
        };
        self.trace.note(self.now, || {
            format!("control: KMS call {}: {input}, {is_good}", call.0)
        });
        if let Some(Some(keyspace)) = keyspace {
            self.cover(Some(keyspace), if is_good { input } else { "KMS failed" });
        }
        self.control.handle_kms(now, call, answer);
        self.effects(input)
    }

    /// Handles that the disk has the new file, whether or not control is notified.
    pub(super) fn replaced(&mut self, write: WriteId) -> Checked {
        if let Some((under_way, catalogue)) = self.disk.writing.take() {
            if under_way == write {
                let before = std::mem::replace(&mut self.disk.durable, catalogue);
                self.disk.before = Some(before);
                self.trace
                    .note(self.now, || format!("write {} is durable", write.0));
            } else {
                self.disk.writing = Some((under_way, catalogue));
            }
        }
        self.check_blobs()
    }

    pub(super) fn saved(&mut self, write: WriteId, result: Result<(), String>) -> Checked {
        let now = self.moment();
        (self.disk.writing, self.disk.before) = (None, None);
        self.statuses();
        let input = match result {
            Ok(()) => "written",
            Err(_) => "not written",
        };
        self.cover_all(input);
        self.trace
            .note(self.now, || format!("control: write {}: {input}", write.0));
        self.control.handle_saved(now, write, result);
        self.effects(input)
    }

    /// Executes the effects of control.
    pub(super) fn effects(&mut self, input: &'static str) -> Checked {
        while let Some(effect) = self.control.poll_effect() {
            match effect {
                ControlEffect::Tell {
                    shard,
                    lane,
                    message,
                } => {
                    self.check_told(&message)?;
                    if let ToShard::Reseal {
                        question, keyspace, ..
                    }
                    | ToShard::Progress { question, keyspace } = &message
                    {
                        self.books.questions.insert(*question, *keyspace);
                    }
                    let event = Event::ToShard { shard, message };
                    self.post(true, shard, lane, event);
                }
                ControlEffect::Kms { call, kms, request } => self.call(call, &kms, request),
                ControlEffect::LockKms { kms } => {
                    if let Some(number) = NAMES.iter().position(|name| *name == kms) {
                        // Without a secret there is nothing to wipe.
                        self.kms[number].is_open &= number == 0;
                    }
                }
                ControlEffect::Save { write, catalogue } => self.save(write, catalogue)?,
                ControlEffect::SaveHotKeys { .. } => {
                    self.schedule(self.now + 100, Event::HotKeysSaved);
                }
                ControlEffect::Report(report) => {
                    self.trace.note(self.now, || format!("  log: {report:?}"));
                }
                ControlEffect::Hurry { .. }
                | ControlEffect::Status { .. }
                | ControlEffect::Figures(_) => {}
            }
        }
        self.check(input)
    }

    fn call(&mut self, call: CallId, kms: &str, request: KmsRequest) {
        self.made += 1;
        let keyspace = match &request {
            KmsRequest::Unwrap { keyspace, .. }
            | KmsRequest::NewDek { keyspace, .. }
            | KmsRequest::Move { keyspace, .. } => Some(*keyspace),
            KmsRequest::Open { keyspace, .. } => *keyspace,
            KmsRequest::Check(_) | KmsRequest::Initialise { .. } => None,
        };
        if let (KmsRequest::Unwrap { .. }, Some(keyspace)) = (&request, keyspace) {
            self.books.unwrap_begins(keyspace);
        }
        self.books.calls.insert(call, keyspace);
        let number = NAMES.iter().position(|name| *name == kms).unwrap_or(0);
        let takes_us = self.kms[number].takes_us;
        let takes_us = takes_us / 2 + self.dice(KMS, call.0).below(takes_us);
        let answer = self.kms[number].answer(request, self.now, self.made);
        self.trace.note(self.now, || {
            format!("  KMS call {} for {keyspace:?}", call.0)
        });
        self.schedule(self.now + takes_us, Event::KmsAnswers { call, answer });
    }

    fn save(&mut self, write: WriteId, catalogue: Catalogue) -> Checked {
        ensure!(
            36,
            self.disk.writing.is_none(),
            "write {} begins while another is in progress",
            write.0
        );
        self.trace
            .note(self.now, || format!("  write {} begins", write.0));
        let mut dice = self.dice(DISK, write.0);
        let takes_us = self.disk.takes_us / 2 + dice.below(self.disk.takes_us);
        let ends_at = self.now + takes_us;
        self.disk.writing = Some((write, catalogue));
        if self.disk.mood != DiskMood::Fails {
            self.schedule(self.now + dice.below(takes_us), Event::Replaced(write));
        }
        let result = match self.disk.mood {
            DiskMood::Good => Ok(()),
            DiskMood::Fails | DiskMood::FailsLate => Err("the simulated disk says so".to_owned()),
        };
        self.schedule(ends_at, Event::Saved { write, result });
        Ok(())
    }

    /// Puts a message on its lane.
    pub(super) fn post(&mut self, to_shard: bool, shard: u16, lane: Lane, event: Event) {
        let mut dice = self.dice(LANE, u64::from(shard));
        let delay_us = match lane {
            Lane::Emergency => dice.range(5, 300),
            Lane::Ordinary if dice.one_in(20) => dice.range(1_000, 40_000),
            Lane::Ordinary => dice.range(5, 2_000),
        };
        let free_at = self.lanes.entry((to_shard, shard, lane)).or_default();
        let at = (self.now + delay_us).max(*free_at);
        *free_at = at;
        self.schedule(at, event);
    }

    /// Checks that what control publishes is no looser than what is durable, and has the values of the durable catalogue.
    fn check_told(&mut self, message: &ToShard) -> Checked {
        match message {
            ToShard::Keyspace(change) => self.check_change(change),
            ToShard::Lease { keyspace, deks, .. } => {
                for dek in deks {
                    let dek = dek_of(dek);
                    ensure!(
                        35,
                        self.is_durable(dek),
                        "keyspace {keyspace}: {dek:?} is handed out, and keyspaces.json does not have it"
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_change(&mut self, change: &KeyspaceChange) -> Checked {
        let id = change.id;
        let durable = self.disk.durable.keyspace(id).ok();
        let guard = durable.map(Guard::of);
        ensure!(
            35,
            guard
                .as_ref()
                .is_some_and(|it| !it.is_tighter_than(&change.guard)),
            "keyspace {id}: shards receive {:?}, and keyspaces.json has {guard:?}",
            change.guard
        );
        let newest = durable.map_or(0, keyway_node::catalogue::Keyspace::generation);
        ensure!(
            35,
            change.seal_floor <= newest,
            "keyspace {id}: shards are to seal under {}, and keyspaces.json has {newest}",
            change.seal_floor
        );
        self.books.check_revision(change)
    }

    fn is_durable(&self, dek: super::Dek) -> bool {
        let mut catalogues = [Some(&self.disk.durable), self.disk.before.as_ref()]
            .into_iter()
            .flatten();
        catalogues.any(|catalogue| {
            let Ok(keyspace) = catalogue.keyspace(dek.keyspace) else {
                return false;
            };
            let deks = keyspace.deks();
            let retired = keyspace.retired_deks();
            let mut records = deks.iter().chain(&retired);
            records.any(|it| super::kms::read(&it.record).is_some_and(|(_, of)| of == dek))
        })
    }

    /// Returns a message as one word, and its keyspace.
    fn input_of(&mut self, message: &ToControl) -> (&'static str, Option<u32>) {
        match message {
            ToControl::Request(request) => (
                super::tell::word(&request.command),
                request.command.keyspace(),
            ),
            ToControl::Unwrap { keyspace } => ("unwrap", Some(*keyspace)),
            ToControl::Revive { keyspace, .. } => ("revive", Some(*keyspace)),
            ToControl::Hottest { .. } => ("hottest", None),
            ToControl::Acted { keyspace, .. } => ("acted", Some(*keyspace)),
            ToControl::Wiped { keyspace, .. } => ("wiped", Some(*keyspace)),
            ToControl::Confirmed { keyspace, .. } => ("confirmed", Some(*keyspace)),
            ToControl::Resealed { question, page } => {
                let of = self.books.questions.remove(question);
                match page {
                    Ok(_) => ("page", of),
                    Err(_) => ("page failed", of),
                }
            }
            ToControl::Progress { question, .. } => {
                ("progress", self.books.questions.remove(question))
            }
            ToControl::Hot { .. } => ("hot", None),
        }
    }
}
