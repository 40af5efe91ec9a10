//! Locks and unlocks of keyspaces: tickets, their progress, and unlocks that wait for the KMS.

use std::rc::Rc;
use std::time::Duration;

use keyway_kms::{
    Class, KmsError, Passphrase, Pin, ProviderState, Share, UnlockNeed, UnlockSecret, Unlocked,
};
use keyway_protocol::{Status, UnlockKind, encode_ticket};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::kms::{Kms, refusal};
use super::messages::ControlEvent;
use super::opening::need_word;
use super::{Answer, Control, settings};
use crate::authorise::Principal;

/// How long a watching unlock waits at first before it asks again, and at most.
const WATCH_MIN: Duration = Duration::from_millis(500);
const WATCH_MAX: Duration = Duration::from_secs(10);

/// By what an unlock is known.
#[derive(Clone, Copy, Debug)]
struct Asked {
    ticket: u64,
    who: Principal,
}

/// The last unlock of a keyspace.
#[derive(Clone, Debug)]
pub(super) struct Unlock {
    asked: Asked,
    state: UnlockState,
}

#[derive(Clone, Debug)]
enum UnlockState {
    /// Under way, after so many tries that the KMS did not answer.
    Asking {
        attempts: u32,
        last_error: Option<String>,
    },
    /// The share was right, and more are needed.
    MoreShares {
        given: u8,
        threshold: u8,
    },
    Opened,
    Failed(String),
}

/// How an unlock ended that did not fail.
enum Ended {
    Opened,
    MoreShares { given: u8, threshold: u8 },
}

/// Secret bytes as they came over the wire.
pub(super) struct Given {
    pub(super) kind: UnlockKind,
    pub(super) bytes: Zeroizing<Vec<u8>>,
}

impl Given {
    /// Checks the form of the secret. What is refused is wiped.
    fn read(mut self) -> Result<UnlockSecret, KmsError> {
        let bytes = std::mem::take(&mut *self.bytes);
        Ok(match self.kind {
            UnlockKind::Nothing => UnlockSecret::Nothing,
            UnlockKind::Passphrase => UnlockSecret::Passphrase(Passphrase::new(bytes)?),
            UnlockKind::Pin => UnlockSecret::Pin(Pin::new(bytes)?),
            UnlockKind::Share => UnlockSecret::Share(Share::new(bytes)?),
        })
    }
}

impl<K: Kms + 'static> Control<K> {
    /// Wipes a keyspace on every shard, and keeps it locked until an unlock. Answers when nothing of it is left.
    pub(super) async fn lock(&self, id: u32, who: Principal) -> Answer {
        let mut changed = self.catalogue.borrow().clone();
        changed.set_locked(id, true, &settings::by(who))?;
        self.commit(changed)?;
        *self.locks.borrow_mut().entry(id).or_default() += 1;
        self.broadcast(|done| ControlEvent::Lock { keyspace: id, done })
            .await;
        tracing::info!(keyspace = id, %who, "keyspace locked");
        Ok(Vec::new())
    }

    /// Starts an unlock and answers with its ticket.
    pub(super) fn start_unlock(
        self: &Rc<Self>,
        id: u32,
        given: Given,
        watch: bool,
        who: Principal,
    ) -> Answer {
        self.catalogue.borrow().keyspace(id)?;
        let ticket = self.ticket_for(id, given.kind);
        let asked = Asked { ticket, who };
        let unlock = Unlock {
            asked,
            state: UnlockState::Asking {
                attempts: 0,
                last_error: None,
            },
        };
        self.unlocks.borrow_mut().insert(id, unlock);
        let control = Rc::clone(self);
        let locks = self.locks_of(id);
        tokio::task::spawn_local(async move {
            let ended = control.unlock(id, asked, given, locks, watch).await;
            control.note_end(id, ticket, ended);
        });
        let mut payload = Vec::new();
        encode_ticket(ticket, &mut payload);
        Ok(payload)
    }

    /// A new ticket; a share goes on with the ticket that waits for it.
    fn ticket_for(&self, id: u32, kind: UnlockKind) -> u64 {
        if let Some(unlock) = self.unlocks.borrow().get(&id)
            && kind == UnlockKind::Share
            && matches!(unlock.state, UnlockState::MoreShares { .. })
        {
            return unlock.asked.ticket;
        }
        let mut next = self.next_ticket.borrow_mut();
        *next += 1;
        u64::from(id) << 32 | (*next & 0xffff_ffff)
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
        self.note(id, ticket, state);
    }

    /// Notes how the unlock of `ticket` stands, unless a later one has taken its place. Whether it has not.
    fn note(&self, id: u32, ticket: u64, state: UnlockState) -> bool {
        match self.unlocks.borrow_mut().get_mut(&id) {
            Some(unlock) if unlock.asked.ticket == ticket => {
                unlock.state = state;
                true
            }
            _ => false,
        }
    }

    /// Opens the provider if need be, proves that the DEKs unwrap, then lets the shards use the keyspace, unless it
    /// was locked again since there were `locks`.
    async fn unlock(
        &self,
        id: u32,
        asked: Asked,
        given: Given,
        locks: u64,
        watch: bool,
    ) -> Result<Ended, KmsError> {
        let name = self.kms_name_of(id)?;
        let secret = given.read()?;
        if let Some(Unlocked::MoreShares { given, threshold }) =
            self.open_kms(&name, Some(id), secret).await?
        {
            return Ok(Ended::MoreShares { given, threshold });
        }
        self.open_keyspace(id, asked, locks, watch).await?;
        self.finish_unlocks_of(&name, id).await;
        Ok(Ended::Opened)
    }

    /// Gives the provider its secret, if there is one or it wants none. `None`: it was open.
    async fn open_kms(
        &self,
        name: &str,
        keyspace: Option<u32>,
        secret: UnlockSecret,
    ) -> Result<Option<Unlocked>, KmsError> {
        let kms = self.kms.get(name)?;
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
        &self,
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
            if self.locks_of(id) != locks || !self.note(id, asked.ticket, state) {
                return Err(overtaken());
            }
            tokio::time::sleep(wait.max(error.class().retry_after().unwrap_or_default())).await;
            wait = (wait * 2).min(WATCH_MAX);
        };
        if self.locks_of(id) != locks {
            return Err(overtaken());
        }
        let mut changed = self.catalogue.borrow().clone();
        let unlocked = changed.set_locked(id, false, &settings::by(asked.who));
        unlocked.map_err(|error| internal(&error.to_string()))?;
        self.commit(changed).map_err(|(_, why)| internal(&why))?;
        for shard in 0..self.shards.len() {
            // As in `tell_lease`: what a lock finds in a queue, it undoes.
            if self.locks_of(id) != locks {
                return Err(overtaken());
            }
            self.send(shard as u16, ControlEvent::Unlock { keyspace: id })
                .await;
        }
        self.tell_lease(id, &Ok(deks)).await;
        tracing::info!(keyspace = id, who = %asked.who, "keyspace unlocked");
        Ok(())
    }

    /// Others who wait for more shares of a KMS that is open now wait no longer.
    async fn finish_unlocks_of(&self, kms: &str, except: u32) {
        let waiting: Vec<(u32, Asked)> = {
            let unlocks = self.unlocks.borrow();
            let waiting = unlocks.iter().filter(|(id, unlock)| {
                **id != except && matches!(unlock.state, UnlockState::MoreShares { .. })
            });
            waiting.map(|(id, unlock)| (*id, unlock.asked)).collect()
        };
        for (id, asked) in waiting {
            if self.kms_name_of(id).is_ok_and(|name| name == kms) {
                let locks = self.locks_of(id);
                let ended = self.open_keyspace(id, asked, locks, false).await;
                self.note_end(id, asked.ticket, ended.map(|()| Ended::Opened));
            }
        }
    }

    /// Unlocks a KMS for no keyspace in particular; its keyspaces open as they are used.
    pub(super) async fn unlock_kms(&self, name: &str, given: Given) -> Answer {
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
                tracing::info!(kms = name, "KMS unlocked");
                json!({ "kms": name, "state": "unlocked" })
            }
        };
        Ok(answer.to_string().into_bytes())
    }

    /// How the unlock of `ticket` stands, as JSON.
    pub(super) async fn unlock_status(&self, id: u32, ticket: u64) -> Answer {
        let Some(unlock) = self.unlocks.borrow().get(&id).cloned() else {
            let locked = self.catalogue.borrow().keyspace(id)?.locked;
            let (state, message) = if locked {
                ("pending", "no unlock was started; run `keyway unlock`")
            } else {
                ("done", "the keyspace is not locked")
            };
            return Ok(status(state, message).to_string().into_bytes());
        };
        if unlock.asked.ticket != ticket && ticket >> 32 == u64::from(id) {
            let failed = status("failed", "a later unlock has taken this one's place");
            return Ok(failed.to_string().into_bytes());
        }
        let document = match unlock.state {
            UnlockState::Asking { attempts: 0, .. } => status("pending", "asking the KMS"),
            UnlockState::Asking {
                attempts,
                last_error,
            } => {
                let why = last_error.unwrap_or_default();
                let mut document = status("pending", &format!("waiting for the KMS: {why}"));
                document["attempts"] = json!(attempts);
                document
            }
            UnlockState::MoreShares { given, threshold } => {
                let message = format!("{given} of {threshold} shares given");
                let mut document = status("pending", &message);
                document["shares"] = json!({ "given": given, "threshold": threshold });
                document
            }
            UnlockState::Failed(reason) => status("failed", &reason),
            UnlockState::Opened => self.reloading(id).await,
        };
        Ok(document.to_string().into_bytes())
    }

    async fn reloading(&self, id: u32) -> Value {
        let progress = self
            .broadcast(|answer| ControlEvent::Reloaded {
                keyspace: id,
                answer,
            })
            .await;
        let reloaded: u64 = progress.iter().map(|(_, reloaded)| reloaded).sum();
        let mut document = if progress.iter().all(|(done, _)| *done) {
            status("done", "unlocked")
        } else {
            status("pending", "loading the keys that were in use")
        };
        document["keys_reloaded"] = json!(reloaded);
        document
    }

    pub(super) fn is_locked(&self, id: u32) -> bool {
        let catalogue = self.catalogue.borrow();
        catalogue.keyspace(id).is_ok_and(|keyspace| keyspace.locked)
    }

    pub(super) fn locks_of(&self, id: u32) -> u64 {
        self.locks.borrow().get(&id).copied().unwrap_or(0)
    }

    pub(super) fn kms_name_of(&self, id: u32) -> Result<String, KmsError> {
        let catalogue = self.catalogue.borrow();
        match catalogue.keyspace(id) {
            Ok(keyspace) => Ok(keyspace.kms.clone()),
            Err(error) => Err(internal(&error.to_string())),
        }
    }
}

/// Whether a watching unlock goes on after this: somebody may be putting it right.
fn may_pass(class: Class) -> bool {
    match class {
        Class::Throttled { .. } | Class::Unavailable { .. } | Class::Denied | Class::Disabled => {
            true
        }
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

fn status(state: &str, message: &str) -> Value {
    json!({ "state": state, "message": message, "keys_reloaded": 0 })
}

/// How a command is refused of which the keyspace is locked.
pub(super) fn refuse_locked() -> (Status, String) {
    (
        Status::Conflict,
        "the keyspace is locked; run `keyway unlock` first".to_owned(),
    )
}
