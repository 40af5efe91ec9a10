//! KEYSPACE_SET: permanent and temporary changes of settings and grants.
//!
//! ```text
//! set ─▶ section checked, or nothing but withdrawals ────────────▶ Writing ─▶ Acting ─▶ answer
//!  └───▶ what it takes away acts, while the KMS checks ─ ok ──────────▲          ▲
//!                                                      └ fails ──────────────────┘
//! ```

use super::commands::{Answering, Begun};
use super::effect::{FirstSeal, KmsAnswer, KmsRequest};
use super::event::Event;
use super::in_force::{Settled, Settlement};
use super::report::Report;
use super::saver::{acknowledge, not_written, settled};
use super::{Control, Refused, Reply};
use crate::catalogue::{Edit, SettingsChange};
use crate::ids::WorkId;
use crate::keyspace_change::Guard;
use crate::policy::Principal;
use keyway_protocol::Status;

/// A change of settings in progress.
pub(super) struct Set {
    id: u32,
    who: Principal,
    change: SettingsChange,
    answering: Answering,
    stage: Stage,
    /// The part of it that takes something away, which did not wait for the KMS.
    early: Option<SettingsChange>,
    /// Edits whose outcome is not known yet: the early part's, and that of the whole change.
    edits_left: usize,
    /// Why the edit that was settled last could not be written, although it is in force.
    unwritten: Option<String>,
    /// Why the change was refused, beyond its early part.
    refused: Option<Refused>,
}

enum Stage {
    /// The KMS checks that its section of the catalogue was written by a server.
    Checking,
    Writing,
    /// The change is being published to the shards.
    Acting,
}

impl Control {
    /// Changes settings and grants. A change that only withdraws grants is written without a seal, so that it does not
    /// wait for a KMS. What any other change takes away acts before the KMS is called.
    pub(super) fn set(
        &mut self,
        answering: Answering,
        who: Principal,
        id: u32,
        change: SettingsChange,
    ) -> Begun {
        let work = self.works.begin();
        let mut set = Set {
            id,
            who,
            change,
            answering,
            stage: Stage::Writing,
            early: None,
            edits_left: 0,
            unwritten: None,
            refused: None,
        };
        match self.begin_set(work, &mut set) {
            Err(refused) if set.early.is_none() => {
                return Begun::Answered(set.answering, Err(refused));
            }
            Err(refused) => set.refused = Some(refused),
            Ok(()) => {}
        }
        self.works.wait(work, set);
        Begun::Begun
    }

    fn begin_set(&mut self, work: WorkId, set: &mut Set) -> Result<(), Refused> {
        let wanted = self.in_force.wanted();
        let after = wanted.changed(set.id, &set.change, &self.by(set.who))?;
        let before = wanted.keyspace(set.id)?;
        if after.only_withdraws(before) {
            return self.want_set(work, set, set.change.clone());
        }
        let kms = before.kms.clone();
        let is_checked = self.kms.get(&kms).map(|status| status.is_checked);
        if is_checked.as_ref().is_ok_and(|is_checked| *is_checked) {
            return self.want_set(work, set, set.change.clone());
        }
        let by = self.by(set.who);
        let tighter = Guard::of(before).meet(&Guard::of(&after)).settings;
        let parts = [
            set.change.tightening(before, &tighter),
            // If an override that expires later does not allow the settings without the rest.
            set.change.withdrawals(before),
        ];
        let mut parts = parts.into_iter().flatten();
        if let Some(early) = parts.find(|part| wanted.changed(set.id, part, &by).is_ok()) {
            self.want_set(work, set, early.clone())?;
            set.early = Some(early);
        }
        is_checked.map_err(|failure| failure.refusal())?;
        self.call(work, &kms, KmsRequest::Check(FirstSeal::Optional));
        set.stage = Stage::Checking;
        Ok(())
    }

    fn want_set(
        &mut self,
        work: WorkId,
        set: &mut Set,
        change: SettingsChange,
    ) -> Result<(), Refused> {
        self.may_begin(&set.answering)?;
        let (id, by) = (set.id, self.by(set.who));
        self.want_for(&set.answering, work, Edit::Set { id, change, by })?;
        set.edits_left += 1;
        Ok(())
    }

    pub(super) fn step_set(&mut self, work: WorkId, mut set: Set, event: Event) {
        match event {
            Event::Kms(KmsAnswer::Checked(checked)) => {
                set.stage = Stage::Writing;
                let change = set.change.clone();
                let checked = checked.map_err(|failure| failure.refusal());
                let wanted = checked.and_then(|()| self.want_set(work, &mut set, change));
                set.refused = wanted.err();
            }
            Event::Settled(outcome) => set.note(outcome),
            Event::Acknowledged => return self.end_set(set),
            _ => {}
        }
        if matches!(set.stage, Stage::Writing) && set.edits_left == 0 {
            match set.refused.take() {
                Some(refused) if set.early.is_none() => {
                    return self.answer(set.answering, Err(refused));
                }
                refused => set.refused = refused,
            }
            set.stage = Stage::Acting;
            self.wait_until_acted(work, set.id);
        }
        self.works.wait(work, set);
    }

    fn end_set(&mut self, set: Set) {
        let done = match (&set.refused, &set.early) {
            (Some(_), Some(early)) => early,
            _ => &set.change,
        };
        self.report(Report::SettingsChanged {
            keyspace: set.id,
            who: set.who,
            settings: done.to_string(),
            for_ms: set.change.lasts().map(|lasts| lasts.ms()),
        });
        let answer = self.answer_to_set(&set);
        self.answer(set.answering, answer);
    }

    /// Returns the answer to a change that every shard applies as far as it is in force. It names what is, and what is
    /// not.
    fn answer_to_set(&self, set: &Set) -> Reply {
        if set.unwritten.is_none() && set.refused.is_none() {
            return Ok(Vec::new());
        }
        let guard = self.in_force.guard(set.id)?;
        let (done, left) = set.change.compared(&guard.policy, &guard.settings);
        let disk = set.unwritten.as_deref();
        let refused = set.refused.as_ref().map(|(_, why)| why);
        match (disk, refused) {
            (Some(why), None) if left.is_empty() => {
                return acknowledge(Settled::Unwritten(why.to_owned()), Vec::new());
            }
            _ => {}
        }
        let mut text = format!("in force on every shard: {}", list(&done));
        if !left.is_empty() {
            text += &format!("; not in force: {}", list(&left));
        }
        if let Some(why) = disk {
            text += &format!("; {}", not_written(why));
        }
        if let Some(why) = refused {
            text += &format!("; it is not complete: {why}");
            if set.early.as_ref().is_some_and(SettingsChange::has_settings) {
                text += "; a restart undoes shorter time limits until the KMS has checked the keyspaces";
            }
        }
        Err((Status::NotPersisted, text))
    }
}

impl Set {
    fn note(&mut self, outcome: Settlement) {
        self.edits_left = self.edits_left.saturating_sub(1);
        match settled(outcome) {
            Ok(Settled::Written) => self.unwritten = None,
            Ok(Settled::Unwritten(why)) => self.unwritten = Some(why),
            Err(refused) => self.refused = Some(refused),
        }
    }
}

fn list(names: &[String]) -> String {
    match names.is_empty() {
        true => "nothing of it".to_owned(),
        false => names.join(", "),
    }
}
