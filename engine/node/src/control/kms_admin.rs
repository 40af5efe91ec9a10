//! KMS_INIT and KMS_UNLOCK: commands for a KMS as a whole.

use keyway_protocol::UnlockKind;
use serde_json::json;
use zeroize::Zeroizing;

use super::commands::{Answering, Begun};
use super::effect::{ControlEffect, KmsAnswer, KmsRequest, Unlocked};
use super::event::Event;
use super::kms::{FailureClass, KmsFailure, Need};
use super::report::Report;
use super::{Control, Reply};
use crate::ids::WorkId;
use crate::messages::Secret;

/// A KMS that is generating its own key.
pub(super) struct Initialise {
    kms: String,
    answering: Answering,
}

/// A KMS that is being unlocked.
pub(super) struct OpenKms {
    kms: String,
    answering: Answering,
}

/// The stage of an unlock.
pub(super) enum Opening {
    /// It is open, and needs no secret.
    IsOpen,
    /// The KMS has the secret and has not answered.
    UnlockRequest,
}

impl Control {
    /// Initialises a KMS. Answers with the shares, if its key is split into shares.
    pub(super) fn initialise(
        &mut self,
        answering: Answering,
        kms: String,
        (shares, threshold): (u8, u8),
        passphrase: Zeroizing<Vec<u8>>,
    ) -> Begun {
        if let Err(failure) = self.kms.get(&kms) {
            return Begun::Answered(answering, Err(failure.refusal()));
        }
        let work = self.works.begin();
        let request = KmsRequest::Initialise {
            shares,
            threshold,
            passphrase,
        };
        self.call(work, &kms, request);
        let initialise = Initialise { kms, answering };
        self.works.wait(work, initialise);
        Begun::Begun
    }

    pub(super) fn step_initialise(&mut self, work: Initialise, event: Event) {
        let Event::Kms(KmsAnswer::Initialised(made)) = event else {
            return;
        };
        let answer = match made {
            Ok((mut payload, shares)) => {
                let kms = work.kms;
                self.report(Report::Initialised { kms, shares });
                Ok(std::mem::take(&mut *payload))
            }
            Err(failure) => Err(failure.refusal()),
        };
        self.answer(work.answering, answer);
    }

    /// Unlocks a KMS. Its keyspaces open when they are used.
    pub(super) fn unlock_kms(
        &mut self,
        answering: Answering,
        kms: String,
        secret: Secret,
    ) -> Begun {
        let work = self.works.begin();
        match self.open_kms(work, &kms, None, secret) {
            Ok(Opening::UnlockRequest) => {
                let open = OpenKms { kms, answering };
                self.works.wait(work, open);
                Begun::Begun
            }
            Ok(Opening::IsOpen) => Begun::Answered(answering, self.kms_opened(&kms)),
            Err(failure) => Begun::Answered(answering, self.kms_unlock_failed(kms, failure)),
        }
    }

    pub(super) fn step_open_kms(&mut self, work: OpenKms, event: Event) {
        let Event::Kms(KmsAnswer::Opened(opened)) = event else {
            return;
        };
        let answer = match opened {
            Ok(Unlocked::MoreShares { given, threshold }) => {
                let answer = json!({
                    "kms": work.kms, "state": "locked", "given": given, "threshold": threshold,
                });
                Ok(answer.to_string().into_bytes())
            }
            Ok(Unlocked::Open) => self.kms_opened(&work.kms),
            Err(failure) => self.kms_unlock_failed(work.kms, failure),
        };
        self.answer(work.answering, answer);
    }

    fn kms_opened(&mut self, kms: &str) -> Reply {
        self.finish_unlocks_of(kms, 0);
        self.open_failed_keyspaces_of(kms);
        self.report(Report::KmsUnlocked {
            kms: kms.to_owned(),
        });
        let answer = json!({ "kms": kms, "state": "unlocked" });
        Ok(answer.to_string().into_bytes())
    }

    fn kms_unlock_failed(&mut self, kms: String, failure: KmsFailure) -> Reply {
        let refused = failure.refusal();
        self.report(Report::KmsUnlockFailed { kms, failure });
        Err(refused)
    }

    /// Passes a KMS its secret, if there is one or none is needed.
    ///
    /// Errors: no KMS has that name; it is locked, and the secret it needs is missing.
    pub(super) fn open_kms(
        &mut self,
        work: WorkId,
        kms: &str,
        keyspace: Option<u32>,
        secret: Secret,
    ) -> Result<Opening, KmsFailure> {
        let status = self.kms.get(kms)?;
        // An operator does not wait for a backoff.
        self.effects.push_back(ControlEffect::Hurry {
            kms: kms.to_owned(),
        });
        if secret.kind == UnlockKind::Nothing {
            if status.is_open {
                return Ok(Opening::IsOpen);
            }
            if status.need != Need::Nothing {
                let what = format!("the KMS {kms} is locked and needs {}", status.need.word());
                let class = FailureClass::Locked;
                let remedy = match keyspace {
                    Some(id) => status.need.remedy_of_keyspace(&self.name_in_messages(id)),
                    None => status.need.remedy_of_kms(kms),
                };
                return Err(KmsFailure::own(class, what, &remedy));
            }
        }
        self.call(work, kms, KmsRequest::Open { keyspace, secret });
        Ok(Opening::UnlockRequest)
    }
}
