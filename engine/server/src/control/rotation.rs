//! The life of a keyspace's DEKs: a new one, the blobs sealed under it, the old ones retired; and the move to another
//! KMS.
//!
//! ```text
//! rotate: new DEK ─▶ keyspaces.json ─▶ every shard holds it ─▶ answer
//!                                       │ in the background
//!                                       ▼
//!            count blobs under older DEKs ─▶ none: retire the older DEKs
//!                         ▲ some: seal them anew ─┘
//! ```
//!
//! What is left to do after a restart is seen from the catalogue: a keyspace with more than one DEK.

use std::rc::Rc;
use std::time::Duration;

use keyway_kms::KmsError;
use keyway_protocol::{Status, encode_generation};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::catalogue::{CatalogueError, WrappedDek};
use super::kms::{Kms, refusal};
use super::lanes::Lane;
use super::messages::ControlEvent;
use super::saver::acknowledge;
use super::unlock::refuse_locked;
use super::{Answer, Control, settings};
use crate::authorise::Principal;
use crate::rehydrator::{ResealPage, ResealWork, WriteError};

/// How long the work rests after a page that could not be worked through, at first and at most.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// How long it rests after a pass that left blobs which nobody can open.
const UNREADABLE_REST: Duration = Duration::from_secs(60);

/// How often it says in the log how far it is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(2);

/// How far the sealing of a keyspace's blobs under its newest DEK is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    resealed: u64,
    left: u64,
}

impl Progress {
    pub(super) fn json(self) -> Value {
        json!({ "resealed": self.resealed, "left": self.left })
    }
}

/// Why a pass ended early.
enum Stopped {
    /// The server stops.
    ShardGone,
}

impl<K: Kms + 'static> Control<K> {
    /// Gives a keyspace a new DEK. Answers with its generation; the blobs follow in the background.
    pub(super) async fn rotate(self: &Rc<Self>, id: u32, who: Principal) -> Answer {
        let (name, generation, is_resealing) = {
            let catalogue = self.written();
            let keyspace = catalogue.keyspace(id)?;
            let is_resealing = keyspace.deks()?.len() > 1;
            (keyspace.kms.clone(), keyspace.generation(), is_resealing)
        };
        if self.is_locked(id) {
            return Err(refuse_locked());
        }
        if is_resealing {
            let progress = self.resealing.borrow().get(&id).copied();
            let left = progress.unwrap_or_default().left;
            return Err((
                Status::Conflict,
                format!(
                    "the rotation to DEK {generation} is still sealing blobs ({left} left); \
                     wait until `keyway keyspace list` shows none"
                ),
            ));
        }
        let next = generation.checked_add(1).ok_or((
            Status::Conflict,
            "the keyspace has used up its DEK generations".to_owned(),
        ))?;
        let kms = self.kms.get(&name).map_err(|error| refusal(&error))?;
        let made = kms.new_dek(id, next).await;
        let made = made.map_err(|error| refusal(&error))?;
        let dek = WrappedDek {
            generation: next,
            record: made.record,
        };
        let by = settings::by(who);
        let settled = self
            .edit(&[id], move |catalogue| {
                if catalogue.keyspace(id)?.kms != name {
                    return Err(moved_meanwhile());
                }
                catalogue.add_dek(id, &dek, &by)
            })
            .await?;
        tracing::info!(keyspace = id, generation = next, %who, "new DEK");
        self.hand_out(id).await;
        self.start_resealing(id);
        let mut payload = Vec::new();
        encode_generation(next, &mut payload);
        acknowledge(settled, payload)
    }

    /// Unwraps a keyspace's DEKs and hands them to every shard. Whether it could.
    async fn hand_out(&self, id: u32) -> bool {
        let answer = self.unwrap(id).await;
        self.tell_lease(id, &answer).await;
        answer.is_ok()
    }

    /// Seals in the background what is not sealed under the newest DEK.
    pub(super) fn start_resealing(self: &Rc<Self>, id: u32) {
        self.resealing.borrow_mut().insert(id, Progress::default());
        tokio::task::spawn_local(Rc::clone(self).reseal(id));
    }

    async fn reseal(self: Rc<Self>, id: u32) {
        loop {
            let Ok(generation) = self.written().keyspace(id).map(|k| k.generation()) else {
                return;
            };
            let Ok(found) = self.pass(id, generation, ResealWork::Count).await else {
                return;
            };
            if found.found == 0 {
                match self.retire(id, generation).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::error!(keyspace = id, %error, "older DEKs cannot be retired yet");
                        tokio::time::sleep(RETRY_MAX).await;
                        continue;
                    }
                }
            }
            self.note_found(id, found.found);
            let Ok(done) = self.pass(id, generation, ResealWork::Reseal).await else {
                return;
            };
            if done.unreadable > 0 {
                tracing::warn!(
                    keyspace = id,
                    unreadable = done.unreadable,
                    "blobs under an older DEK cannot be opened: the DEK is kept until they are \
                     restored or revoked"
                );
                tokio::time::sleep(UNREADABLE_REST).await;
            }
        }
    }

    fn note_found(&self, id: u32, found: u64) {
        if let Some(progress) = self.resealing.borrow_mut().get_mut(&id) {
            progress.left = found;
        }
    }

    async fn retire(self: &Rc<Self>, id: u32, generation: u32) -> Result<(), String> {
        self.edit(&[id], move |catalogue| catalogue.retire_deks(id))
            .await
            .map_err(|(_, why)| why)?;
        for shard in 0..self.shards.len() {
            let event = ControlEvent::Retire {
                keyspace: id,
                generation,
            };
            self.send(shard as u16, Lane::Ordinary, event).await;
        }
        let progress = self.resealing.borrow_mut().remove(&id).unwrap_or_default();
        tracing::info!(
            keyspace = id,
            generation,
            resealed = progress.resealed,
            "every blob is sealed under the newest DEK; older DEKs are retired"
        );
        Ok(())
    }

    /// One pass over every shard's blobs, one shard after the other: this work is never in a hurry.
    async fn pass(
        &self,
        id: u32,
        generation: u32,
        work: ResealWork,
    ) -> Result<ResealPage, Stopped> {
        let mut sum = ResealPage::default();
        let mut said_at = tokio::time::Instant::now();
        for shard in 0..self.shards.len() {
            let mut cursor = Vec::new();
            loop {
                let page = self
                    .page(shard as u16, id, generation, work, cursor)
                    .await?;
                sum.found += page.found;
                sum.resealed += page.resealed;
                sum.unreadable += page.unreadable;
                let progress = self.note_resealed(id, page.resealed);
                if work == ResealWork::Reseal && said_at.elapsed() >= PROGRESS_PERIOD {
                    said_at = tokio::time::Instant::now();
                    tracing::info!(
                        keyspace = id,
                        resealed = progress.resealed,
                        left = progress.left,
                        "sealing blobs under the new DEK"
                    );
                }
                if page.cursor.is_empty() {
                    break;
                }
                cursor = page.cursor;
            }
        }
        Ok(sum)
    }

    fn note_resealed(&self, id: u32, resealed: u64) -> Progress {
        let mut resealing = self.resealing.borrow_mut();
        let progress = resealing.entry(id).or_default();
        progress.resealed += resealed;
        progress.left = progress.left.saturating_sub(resealed);
        *progress
    }

    /// One page, again until it is worked through: a shard that has lost its lease gets the DEKs anew.
    async fn page(
        &self,
        shard: u16,
        id: u32,
        generation: u32,
        work: ResealWork,
        cursor: Vec<u8>,
    ) -> Result<ResealPage, Stopped> {
        let mut wait = RETRY_MIN;
        loop {
            let (answer, answered) = oneshot::channel();
            let event = ControlEvent::Reseal {
                keyspace: id,
                generation,
                work,
                cursor: cursor.clone(),
                answer,
            };
            self.send(shard, Lane::Ordinary, event).await;
            let error = match answered.await.map_err(|_| Stopped::ShardGone)? {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            match error {
                // A locked keyspace waits for its unlock, which hands the DEKs out.
                WriteError::DekMissing if self.is_locked(id) => {}
                WriteError::DekMissing => {
                    if self.hand_out(id).await {
                        wait = RETRY_MIN;
                    }
                }
                WriteError::Overloaded(_) => {}
                error => tracing::warn!(keyspace = id, shard, ?error, "sealing blobs anew waits"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Moves a keyspace's DEKs to another KMS, or wraps them anew at the same one. No lease changes: the shards go on
    /// with what they hold, and renew it at the new KMS.
    pub(super) async fn rewrap(self: &Rc<Self>, id: u32, name: &str, who: Principal) -> Answer {
        let to = self.kms.get(name).map_err(|error| refusal(&error))?;
        if self.is_locked(id) {
            return Err(refuse_locked());
        }
        let from = self.kms_name_of(id).map_err(|error| refusal(&error))?;
        let locks = self.locks_of(id);
        let moved = self.wrap_all(id, to).await;
        let moved = moved.map_err(|error| refusal(&error))?;
        if self.locks_of(id) != locks {
            return Err(refuse_locked());
        }
        let (by, was_at, now_at) = (settings::by(who), from.clone(), name.to_owned());
        let settled = self
            .edit(&[id], move |catalogue| {
                if catalogue.keyspace(id)?.kms != was_at {
                    return Err(moved_meanwhile());
                }
                catalogue.rewrap(id, &now_at, &moved, &by)
            })
            .await?;
        self.troubles.borrow_mut().forget(&from, id);
        tracing::info!(
            keyspace = id,
            from,
            to = name,
            %who,
            "the DEKs are at another KMS"
        );
        acknowledge(settled, Vec::new())
    }

    async fn wrap_all(&self, id: u32, to: &K) -> Result<Vec<WrappedDek>, KmsError> {
        let deks = self.unwrap(id).await?;
        let mut moved = Vec::new();
        for (generation, dek) in deks.iter() {
            let wrapped = to.wrap_dek(id, generation, dek).await?;
            moved.push(WrappedDek {
                generation,
                record: wrapped.record,
            });
        }
        Ok(moved)
    }
}

fn moved_meanwhile() -> CatalogueError {
    CatalogueError::Conflict(
        "the keyspace was moved to another KMS meanwhile; try again".to_owned(),
    )
}
