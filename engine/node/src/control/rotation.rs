//! The life of a keyspace's DEKs: a new one, the blobs sealed under it, the old ones retired; and the move to another
//! KMS.
//!
//! ```text
//! rotate: new DEK ─▶ keyspaces.json ─▶ every shard gets it, and confirms that it seals under it ─▶ answer
//!                                       │ in the background
//!                                       ▼
//!            count blobs under older DEKs ─▶ none: retire the older DEKs
//!                         ▲ some: seal them anew ─┘
//! ```
//!
//! What is left to do after a restart is seen from the catalogue: a keyspace with more than one DEK. Shards begin with
//! the newest one that is written, so nothing is to be confirmed then.
//!
//! | crash | on the disk | after the restart |
//! |---|---|---|
//! | before the new DEK N+1 is written | N | as before; nothing was sealed under N+1 |
//! | from then until N is retired | N, N+1 | shards seal under N+1; blobs are counted anew |
//! | later | N+1, N retired | the rotation is over |

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::time::Duration;

use keyway_kms::{KmsError, NewDek};
use keyway_protocol::{Status, encode_generation};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::catalogue::{By, CatalogueError, Keyspace, WrappedDek};
use super::catalogue_file::FirstSeal;
use super::kms::{Kms, refusal};
use super::lanes::Lane;
use super::lease::{Deks, missing};
use super::messages::ControlEvent;
use super::saver::acknowledge;
use super::unlock::refuse_locked;
use super::{Answer, Control, settings};
use crate::authorise::Principal;
use crate::clock;
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

/// DEKs by generation, as another KMS has wrapped them.
type Moved = Vec<(u32, NewDek)>;

/// Why a pass ended early.
pub(super) enum Stopped {
    /// The server stops.
    ShardGone,
}

/// A change of a keyspace's DEKs under way: one at a time.
pub(super) struct ChangingDeks<'a> {
    all: &'a RefCell<HashSet<u32>>,
    id: u32,
}

impl Drop for ChangingDeks<'_> {
    fn drop(&mut self) {
        self.all.borrow_mut().remove(&self.id);
    }
}

impl<K: Kms + 'static> Control<K> {
    /// Gives a keyspace a new DEK. Answers with its generation when every shard seals under it, and nothing that was
    /// sealed under an older one is on its way into a log; the blobs follow in the background.
    pub(super) async fn rotate(self: &Rc<Self>, id: u32, who: Principal) -> Answer {
        let _changing = self.change_deks(id)?;
        let (name, next) = self.next_generation(id)?;
        let kms = self.kms.get(&name).map_err(|error| refusal(&error))?;
        let checked = self.check_section(&name, FirstSeal::Needed).await;
        checked.map_err(|error| refusal(&error))?;
        let made = kms.new_dek(id, next).await;
        let made = made.map_err(|error| refusal(&error))?;
        if self.is_locked(id) {
            return Err(refuse_locked());
        }
        let dek = WrappedDek {
            generation: next,
            record: made.record.clone(),
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
        // The DEK at hand, not one that the KMS would have to unwrap anew: it may be gone by now, and what is sealed in
        // the meantime has to be sealed under this one.
        self.tell_lease(id, &Ok(Deks::of_new([(next, made)]))).await;
        self.confirm_floor(id, next).await;
        self.start_resealing(id);
        let mut payload = Vec::new();
        encode_generation(next, &mut payload);
        acknowledge(settled, payload)
    }

    /// Whoever rotates, moves or destroys DEKs of a keyspace does it alone.
    pub(super) fn change_deks(&self, id: u32) -> Result<ChangingDeks<'_>, (Status, String)> {
        if self.changing_deks.borrow_mut().insert(id) {
            let all = &self.changing_deks;
            return Ok(ChangingDeks { all, id });
        }
        Err((
            Status::Conflict,
            "the keyspace's DEKs are being rotated, moved or destroyed at this moment, by another command; \
             look at `keyway keyspace list` before you run this one again"
                .to_owned(),
        ))
    }

    /// The keyspace's KMS, and the generation that its next DEK gets.
    fn next_generation(&self, id: u32) -> Result<(String, u32), (Status, String)> {
        if self.is_locked(id) {
            return Err(refuse_locked());
        }
        let catalogue = self.written();
        let keyspace = catalogue.keyspace(id)?;
        if keyspace.deks()?.len() > 1 {
            return Err(self.refuse_resealing(id));
        }
        catalogue.check_rotation(id)?;
        let next = keyspace.generation().checked_add(1).ok_or((
            Status::Conflict,
            "the keyspace has used up its DEK generations".to_owned(),
        ))?;
        Ok((keyspace.kms.clone(), next))
    }

    /// How a command is refused that has to wait until blobs are sealed anew.
    pub(super) fn refuse_resealing(&self, id: u32) -> (Status, String) {
        let progress = self.resealing.borrow().get(&id).copied();
        let left = progress.unwrap_or_default().left;
        let generation = self.written().keyspace(id).map(Keyspace::generation);
        let generation = generation.unwrap_or_default();
        (
            Status::Conflict,
            format!(
                "the rotation to DEK {generation} is still sealing blobs ({left} left); \
                 wait until `keyway keyspace list` shows none"
            ),
        )
    }

    /// Waits until every shard seals under the DEK of `generation`, or a later one, and nothing that it sealed before
    /// is on its way into its log. A shard that has stopped seals nothing.
    pub(super) async fn confirm_floor(&self, id: u32, generation: u32) {
        self.broadcast(Lane::Ordinary, |done| ControlEvent::SealFloor {
            keyspace: id,
            generation,
            done,
        })
        .await;
    }

    /// Unwraps a keyspace's DEKs and hands them to every shard.
    pub(super) async fn hand_out(&self, id: u32) {
        let answer = self.unwrap(id).await;
        self.tell_lease(id, &answer).await;
    }

    /// Seals in the background what is not sealed under the newest DEK, if that is not being done. To be called when
    /// every shard has confirmed that it seals under it: at a start they begin with that.
    pub(super) fn start_resealing(self: &Rc<Self>, id: u32) {
        let mut resealing = self.resealing.borrow_mut();
        if let Entry::Vacant(vacant) = resealing.entry(id) {
            vacant.insert(Progress::default());
            tokio::task::spawn_local(Rc::clone(self).reseal(id));
        }
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
        let by = By::server(clock::moment());
        self.edit(&[id], move |catalogue| catalogue.retire_deks(id, &by))
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
            "every blob is sealed under the newest DEK; older DEKs are retired, and kept for 30 days"
        );
        Ok(())
    }

    /// One pass over every shard's blobs, one shard after the other: this work is never in a hurry.
    pub(super) async fn pass(
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
        // A count can be made without that anything is being sealed anew.
        let Some(progress) = resealing.get_mut(&id) else {
            return Progress::default();
        };
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
                    self.hand_out(id).await;
                }
                WriteError::Overloaded(_) => {}
                error => tracing::warn!(keyspace = id, shard, ?error, "sealing blobs anew waits"),
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Moves a keyspace's DEKs to another KMS, the retired ones too, or wraps them anew at the same one. The shards get
    /// what the other KMS has just proven: their leases count from there.
    pub(super) async fn rewrap(self: &Rc<Self>, id: u32, name: &str, who: Principal) -> Answer {
        let _changing = self.change_deks(id)?;
        let to = self.kms.get(name).map_err(|error| refusal(&error))?;
        if self.is_locked(id) {
            return Err(refuse_locked());
        }
        let from = self.kms_name_of(id).map_err(|error| refusal(&error))?;
        let locks = self.locks_of(id);
        let checked = self.check_section(name, FirstSeal::Needed).await;
        checked.map_err(|error| refusal(&error))?;
        let moved = self.wrap_all(id, to).await;
        let (in_use, retired) = moved.map_err(|error| refusal(&error))?;
        if self.locks_of(id) != locks {
            return Err(refuse_locked());
        }
        let moved = in_use.iter().chain(&retired);
        let moved: Vec<WrappedDek> = moved
            .map(|(generation, dek)| WrappedDek {
                generation: *generation,
                record: dek.record.clone(),
            })
            .collect();
        drop(retired);
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
        self.tell_lease(id, &Ok(Deks::of_new(in_use))).await;
        acknowledge(settled, Vec::new())
    }

    /// A keyspace's DEKs in use and retired, wrapped at another KMS.
    async fn wrap_all(&self, id: u32, to: &K) -> Result<(Moved, Moved), KmsError> {
        let deks = self.unwrap(id).await?;
        let in_use = Self::wrap_each(id, &deks, to).await?;
        let (from, retired) = {
            let catalogue = self.written();
            let keyspace = catalogue.keyspace(id);
            let keyspace = keyspace.map_err(|error| missing(&error.to_string()))?;
            let retired = keyspace.retired_deks();
            let retired = retired.map_err(|error| missing(&error.to_string()))?;
            (self.kms.get(&keyspace.kms)?, retired)
        };
        let deks = Self::unwrap_each(from, id, retired).await?;
        let retired = Self::wrap_each(id, &deks, to).await?;
        Ok((in_use, retired))
    }

    async fn wrap_each(id: u32, deks: &Deks, to: &K) -> Result<Moved, KmsError> {
        let mut moved = Vec::new();
        for (generation, dek) in deks.iter() {
            moved.push((generation, to.wrap_dek(id, generation, dek).await?));
        }
        Ok(moved)
    }
}

fn moved_meanwhile() -> CatalogueError {
    CatalogueError::Conflict(
        "the keyspace was moved to another KMS meanwhile; try again".to_owned(),
    )
}
