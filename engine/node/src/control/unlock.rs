//! Unlocks of keyspaces: tickets, their progress, and unlocks that wait for the KMS.

use std::rc::Rc;
use std::time::Duration;

use keyway_kms::{
    Class, KmsError, Passphrase, Pin, ProviderState, Share, UnlockNeed, UnlockSecret, Unlocked,
};
use keyway_protocol::{Status, UnlockKind, encode_ticket};
use serde_json::json;
use zeroize::Zeroizing;

use super::caller::Caller;
use super::in_force::Wanted;
use super::kms::{Kms, refusal};
use super::lanes::Lane;
use super::messages::ControlEvent;
use super::opening::need_word;
use super::saver::settled;
use super::tickets::{Asked, UnlockState};
use super::{Answer, Control, settings};
use crate::authorise::Principal;

/// How long a watching unlock waits at first before it asks again, and at most.
const WATCH_MIN: Duration = Duration::from_millis(500);
const WATCH_MAX: Duration = Duration::from_secs(10);

/// How an unlock ended that did not fail.
enum Ended {
    Opened,
    MoreShares { given: u8, threshold: u8 },
}

/// Secret bytes as they came over the wire.
pub(super) struct Given {
    pub(super) kind: UnlockKind,
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Whether a PIN may be sent as the last attempt that the token allows.
    pub(super) force: bool,
}

impl Given {
    /// Checks the form of the secret. What is refused is wiped.
    fn read(mut self) -> Result<UnlockSecret, KmsError> {
        let bytes = std::mem::take(&mut *self.bytes);
        Ok(match self.kind {
            UnlockKind::Nothing => UnlockSecret::Nothing,
            UnlockKind::Passphrase => UnlockSecret::Passphrase(Passphrase::new(bytes)?),
            UnlockKind::Pin if self.force => UnlockSecret::ForcedPin(Pin::new(bytes)?),
            UnlockKind::Pin => UnlockSecret::Pin(Pin::new(bytes)?),
            UnlockKind::Share => UnlockSecret::Share(Share::new(bytes)?),
        })
    }
}

impl<K: Kms + 'static> Control<K> {
    /// Starts an unlock and answers with its ticket.
    pub(super) fn start_unlock(
        self: &Rc<Self>,
        id: u32,
        given: Given,
        watch: bool,
        who: Principal,
    ) -> Answer {
        self.written().keyspace(id)?;
        let is_share = given.kind == UnlockKind::Share;
        let ticket = self.tickets.borrow_mut().start(id, is_share, who);
        let asked = Asked { ticket, who };
        let control = Rc::clone(self);
        let locks = self.locks_of(id);
        tokio::task::spawn_local(Caller::unlocking(id, who).scope(async move {
            let ended = control.unlock(id, asked, given, locks, watch).await;
            control.note_end(id, ticket, ended);
        }));
        let mut payload = Vec::new();
        encode_ticket(ticket, &mut payload);
        Ok(payload)
    }

    fn note_end(&self, id: u32, ticket: u64, ended: Result<Ended, KmsError>) {
        let state = match ended {
            Ok(Ended::Opened) => UnlockState::Opened,
            Ok(Ended::MoreShares { given, threshold }) => {
                UnlockState::MoreShares { given, threshold }
            }
            Err(error) => {
                tracing::warn!(keyspace = id, %error, "unlock failed");
                UnlockState::Failed(error.to_string())
            }
        };
        self.tickets.borrow_mut().note(id, ticket, state.clone());
        if let UnlockState::Failed(why) = state {
            self.end_vain_waits(id, &why);
        }
    }

    /// After a failed unlock: whoever waits for more shares waits on, unless it is in vain.
    fn end_vain_waits(&self, id: u32, why: &str) {
        let Ok(name) = self.kms_name_of(id) else {
            return;
        };
        let Ok(kms) = self.kms.get(&name) else { return };
        let mut tickets = self.tickets.borrow_mut();
        if kms.state() == ProviderState::Unlocked {
            // No share is missing: it is the keyspace that does not open.
            tickets.fail_waiting(id, why);
        } else if matches!(kms.unlock_need(), UnlockNeed::Shares { given: 0, .. }) {
            // They were as many as it takes, and wrong together: the KMS has wiped them all.
            for (waiting, _) in tickets.waiting() {
                if self.kms_name_of(waiting).is_ok_and(|other| other == name) {
                    tickets.fail_waiting(waiting, why);
                }
            }
        }
    }

    /// Opens the provider if need be, proves that the DEKs unwrap, then lets the shards use the keyspace, unless it
    /// was locked again since there were `locks`.
    async fn unlock(
        self: &Rc<Self>,
        id: u32,
        asked: Asked,
        given: Given,
        locks: u64,
        watch: bool,
    ) -> Result<Ended, KmsError> {
        let name = self.kms_name_of(id)?;
        let secret = given.read()?;
        self.demand_secret(id, &name, &secret)?;
        if let Some(Unlocked::MoreShares { given, threshold }) =
            self.open_kms(&name, Some(id), secret).await?
        {
            return Ok(Ended::MoreShares { given, threshold });
        }
        let opened = self.open_keyspace(id, asked, locks, watch).await;
        self.finish_unlocks_of(&name, id).await;
        if opened.is_ok() {
            self.open_failed_keyspaces_of(&name).await;
        }
        opened.map(|()| Ended::Opened)
    }

    /// What an operator has locked is opened by whoever has the KMS's secret, if it has one, and not by the right to
    /// unlock alone: also while the KMS is open.
    fn demand_secret(&self, id: u32, name: &str, secret: &UnlockSecret) -> Result<(), KmsError> {
        let need = self.kms.get(name)?.unlock_need();
        let has_none = matches!(need, UnlockNeed::Nothing | UnlockNeed::Initialise);
        let is_given = !matches!(secret, UnlockSecret::Nothing);
        if is_given || has_none || !self.is_locked(id) || self.kms.unlocks_without_secret(name) {
            return Ok(());
        }
        Err(KmsError::new(
            Class::Locked,
            format!(
                "an operator has locked the keyspace, and its KMS {name} needs {}",
                need_word(need)
            ),
            remedy(need),
        ))
    }

    /// Gives the provider its secret, if there is one or it wants none. `None`: it was open.
    async fn open_kms(
        &self,
        name: &str,
        keyspace: Option<u32>,
        secret: UnlockSecret,
    ) -> Result<Option<Unlocked>, KmsError> {
        let kms = self.kms.get(name)?;
        // An operator does not wait for a back-off.
        kms.hurry();
        let is_open = kms.state() == ProviderState::Unlocked;
        if matches!(secret, UnlockSecret::Nothing) {
            if is_open {
                return Ok(None);
            }
            let need = kms.unlock_need();
            if need != UnlockNeed::Nothing {
                return Err(KmsError::new(
                    Class::Locked,
                    format!("the KMS {name} is locked and needs {}", need_word(need)),
                    remedy(need),
                ));
            }
        }
        kms.unlock(keyspace, secret).await.map(Some)
    }

    async fn open_keyspace(
        self: &Rc<Self>,
        id: u32,
        asked: Asked,
        locks: u64,
        watch: bool,
    ) -> Result<(), KmsError> {
        let mut attempts = 0;
        let mut wait = WATCH_MIN;
        let deks = loop {
            let error = match self.unwrap_for_unlock(id).await {
                Ok(deks) => break deks,
                Err(error) => error,
            };
            attempts += 1;
            if !watch || !may_pass(error.class()) {
                return Err(error);
            }
            if attempts == 1 {
                tracing::info!(keyspace = id, %error, "the unlock waits for the KMS");
            }
            let state = UnlockState::Asking {
                attempts,
                last_error: Some(error.to_string()),
            };
            if self.locks_of(id) != locks
                || !self.tickets.borrow_mut().note(id, asked.ticket, state)
            {
                return Err(overtaken());
            }
            tokio::time::sleep(wait.max(error.class().retry_after().unwrap_or_default())).await;
            wait = (wait * 2).min(WATCH_MAX);
        };
        if self.locks_of(id) != locks {
            return Err(overtaken());
        }
        let by = settings::by(asked.who);
        let Wanted { outcome, .. } = self
            .want(&[id], move |catalogue| catalogue.set_locked(id, false, &by))
            .map_err(|(_, why)| internal(&why))?;
        settled(outcome).await.map_err(|(_, why)| internal(&why))?;
        if self.locks_of(id) != locks {
            return Err(overtaken());
        }
        self.open_on_shards(id).await;
        self.tell_lease(id, &Ok(deks)).await;
        if self.locks_of(id) != locks {
            return Err(overtaken());
        }
        tracing::info!(keyspace = id, who = %asked.who, "keyspace unlocked");
        Ok(())
    }

    /// Opens a keyspace on every shard that has not carried out a newer lock: one that comes now has a newer revision.
    async fn open_on_shards(&self, id: u32) {
        self.end_wiping(id);
        let revision = self.published.borrow_mut().next_revision();
        let opened = self.broadcast(Lane::Ordinary, |done| ControlEvent::Unlock {
            keyspace: id,
            revision,
            done,
        });
        opened.await;
    }

    /// Others who wait for more shares of a KMS that is open now wait no longer.
    async fn finish_unlocks_of(self: &Rc<Self>, kms: &str, except: u32) {
        let waiting = self.tickets.borrow().waiting();
        for (id, asked) in waiting {
            if id != except && self.kms_name_of(id).is_ok_and(|name| name == kms) {
                let locks = self.locks_of(id);
                let opened = self.open_keyspace(id, asked, locks, false);
                let ended = Caller::unlocking(id, asked.who).scope(opened).await;
                self.note_end(id, asked.ticket, ended.map(|()| Ended::Opened));
            }
        }
    }

    /// Keyspaces that failed while the KMS was locked or away are tried again now, and not after their back-offs; those
    /// that a shard has given up need it. What an operator has locked stays locked.
    async fn open_failed_keyspaces_of(&self, kms: &str) {
        let failed = self.troubles.borrow().keyspaces_of(kms);
        for id in failed {
            if !self.is_locked(id) {
                self.open_on_shards(id).await;
            }
        }
    }

    /// Unlocks a KMS for no keyspace in particular; its keyspaces open as they are used.
    pub(super) async fn unlock_kms(self: &Rc<Self>, name: &str, given: Given) -> Answer {
        let opened = match given.read() {
            Ok(secret) => self.open_kms(name, None, secret).await,
            Err(error) => Err(error),
        };
        let opened = opened.map_err(|error| {
            tracing::warn!(kms = name, %error, "unlock failed");
            refusal(&error)
        })?;
        let answer = match opened {
            Some(Unlocked::MoreShares { given, threshold }) => json!({
                "kms": name, "state": "locked", "given": given, "threshold": threshold,
            }),
            Some(Unlocked::Open) | None => {
                self.finish_unlocks_of(name, 0).await;
                self.open_failed_keyspaces_of(name).await;
                tracing::info!(kms = name, "KMS unlocked");
                json!({ "kms": name, "state": "unlocked" })
            }
        };
        Ok(answer.to_string().into_bytes())
    }

    pub(super) fn kms_name_of(&self, id: u32) -> Result<String, KmsError> {
        let catalogue = self.written();
        match catalogue.keyspace(id) {
            Ok(keyspace) => Ok(keyspace.kms.clone()),
            Err(error) => Err(internal(&error.to_string())),
        }
    }
}

/// Whether a watching unlock goes on after this: somebody may be putting it right.
fn may_pass(class: Class) -> bool {
    match class {
        Class::Throttled { .. }
        | Class::Unavailable { .. }
        | Class::Credential
        | Class::Denied
        | Class::Disabled => true,
        Class::Locked | Class::Corrupt | Class::Misconfigured => false,
    }
}

fn remedy(need: UnlockNeed) -> &'static str {
    match need {
        UnlockNeed::Nothing => "run `keyway unlock`",
        UnlockNeed::Passphrase => "run `keyway unlock` with --passphrase",
        UnlockNeed::Pin => "run `keyway unlock` with --pin",
        UnlockNeed::Shares { .. } => "each holder of a share runs `keyway unlock` with --share",
        UnlockNeed::Initialise => "run `keyway kms init`",
    }
}

fn overtaken() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the keyspace was locked, or unlocked anew, meanwhile",
        "run `keyway unlock` anew",
    )
}

fn internal(why: &str) -> KmsError {
    KmsError::new(Class::Misconfigured, why, "check keyspaces.json")
}

/// How a command is refused of which the keyspace is locked.
pub(super) fn refuse_locked() -> (Status, String) {
    (
        Status::Conflict,
        "the keyspace is locked; run `keyway unlock` first".to_owned(),
    )
}
