//! Inputs to control, and its effects carried out: messages, calls to KMSes, and `keyspaces.json`.

use super::site::Input;
use super::{Event, World};
use crate::control::kms::NAMES;
use crate::control::plan::DiskMood;
use crate::oracle::{Checked, ensure};
use keyway_node::catalogue::Catalogue;
use keyway_node::control::{ControlEffect, KmsAnswer, KmsRequest};
use keyway_node::ids::{CallId, WriteId};
use keyway_node::messages::ToControl;

const KMS: u64 = 206;
const DISK: u64 = 207;

impl World<'_> {
    pub(super) fn tick(&mut self) -> Checked {
        self.statuses();
        self.control.handle_tick(self.moment());
        self.control_effects()
    }

    fn statuses(&mut self) {
        for (name, kms) in NAMES.iter().zip(&self.kms) {
            self.control.handle_kms_status(name, kms.status());
        }
    }

    pub(super) fn hear_shard(&mut self, from: u16, message: ToControl) -> Checked {
        self.statuses();
        self.trace.note(self.now, || {
            format!("control: {} of shard {from}", word(&message))
        });
        self.note_begun(&message);
        let calls = self.made;
        let may_ask = match message {
            ToControl::Unwrap { keyspace } => self.may_ask_for_lease(keyspace),
            _ => None,
        };
        self.control.handle_shard(self.moment(), from, message);
        self.control_effects()?;
        ensure!(
            40,
            may_ask.is_none() || self.made > calls,
            "keyspace {may_ask:?}: its DEK is asked for, and the KMS is not called at once"
        );
        Ok(())
    }

    /// A keyspace of which the KMS has to be asked now, if its DEK is asked for.
    fn may_ask_for_lease(&self, keyspace: u32) -> Option<u32> {
        let is_known = self.control.written().keyspace(keyspace).is_ok();
        let [state, .., unlock] = self.control.state_of(keyspace)?;
        let unwraps = self.books.of_control.unwraps.get(&keyspace);
        let is_asked = unwraps.is_some_and(|count| *count > 0);
        (is_known && state == "open" && unlock == "idle" && !is_asked).then_some(keyspace)
    }

    pub(super) fn hear_kms(&mut self, call: CallId, answer: KmsAnswer) -> Checked {
        self.statuses();
        let keyspace = self.books.of_control.calls.remove(&call).flatten();
        if let (KmsAnswer::Unwrapped(_), Some(keyspace)) = (&answer, keyspace)
            && let Some(count) = self.books.of_control.unwraps.get_mut(&keyspace)
        {
            *count -= 1;
        }
        self.trace.note(self.now, || {
            format!("control: KMS call {} is answered", call.0)
        });
        self.control.handle_kms(self.moment(), call, answer);
        self.control_effects()
    }

    /// The disk has the new file. Whether control receives a success is another matter.
    pub(super) fn replaced(&mut self, write: WriteId) -> Checked {
        if let Some((under_way, catalogue)) = self.disk.writing.take() {
            if under_way == write {
                let before = std::mem::replace(&mut self.disk.durable, catalogue);
                self.check_deks_kept(&before)?;
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
        (self.disk.writing, self.disk.before) = (None, None);
        self.statuses();
        self.trace.note(self.now, || {
            format!("control: write {}: {result:?}", write.0)
        });
        self.control.handle_saved(self.moment(), write, result);
        self.control_effects()
    }

    /// Carries out what control wants done.
    pub(super) fn control_effects(&mut self) -> Checked {
        while let Some(effect) = self.control.poll_effect() {
            match effect {
                ControlEffect::Tell {
                    shard,
                    lane,
                    message,
                } => {
                    self.check_told(&message)?;
                    let input = Input::Control(lane, message);
                    let event = Event::ToShard { shard, input };
                    self.post(true, shard, lane, self.now, event);
                }
                ControlEffect::Kms { call, kms, request } => self.call(call, &kms, request),
                ControlEffect::LockKms { kms } => {
                    if let Some(number) = NAMES.iter().position(|name| *name == kms) {
                        // Without a secret there is nothing to forget.
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
                ControlEffect::Status { question, .. } => self.ask_exporter(question),
                ControlEffect::Hurry { .. } | ControlEffect::Figures(_) => {}
            }
        }
        let (commands, works) = self.control.under_way();
        ensure!(
            36,
            commands <= 2 * keyway_node::control::COMMANDS_MAX,
            "{commands} commands, {works} works"
        );
        Ok(())
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
            *self.books.of_control.unwraps.entry(keyspace).or_default() += 1;
        }
        self.books.of_control.calls.insert(call, keyspace);
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
}

fn word(message: &ToControl) -> String {
    match message {
        ToControl::Request(request) => format!("{:?}", request.command.opcode()),
        ToControl::Unwrap { keyspace } => format!("unwrap of {keyspace}"),
        ToControl::Revive { keyspace, .. } => format!("revive of {keyspace}"),
        ToControl::Hottest { .. } => "hottest".to_owned(),
        ToControl::Acted { keyspace, revision } => format!("acted on {keyspace}, {}", revision.0),
        ToControl::Wiped { keyspace, .. } => format!("wiped {keyspace}"),
        ToControl::Confirmed {
            keyspace,
            generation,
        } => format!("confirmed {keyspace}, {generation}"),
        ToControl::Resealed { page, .. } => format!("resealed: {page:?}"),
        ToControl::Progress { progress, .. } => format!("progress: {progress:?}"),
        ToControl::Hot { .. } => "hot".to_owned(),
    }
}
